//! The messages of a child that is hostile: any bytes, and any number of descriptors. The oracle is the table of the protocol,
//! and no descriptor stays open.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use berth_init::wire::{self, LEN, Message, Step};
use berth_runtime::fuzzing::{Received, receive};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

use crate::input::Input;

/// Returns true if the protocol has this message.
fn is_message(bytes: &[u8]) -> bool {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes.len() == LEN
        && match word(0) {
            4 => usize::try_from(word(4)).unwrap() < Step::ALL.len(),
            kind => (1..=11).contains(&kind),
        }
}

/// The lowest number that a new descriptor gets.
fn next_number(of: &OwnedFd) -> i32 {
    of.try_clone().unwrap().as_raw_fd()
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let before = next_number(&parent);
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let (count, len) = (input.below(12), [LEN, LEN, LEN, LEN - 1, LEN + 1, 1, 40][input.below(7)]);
        let mut bytes = input.bytes(len).to_vec();
        if input.flag() && bytes.len() == LEN {
            // A small kind and step, so that most messages are known.
            bytes[1..4].fill(0);
            bytes[5..8].fill(0);
            bytes[0] %= 16;
        }
        if bytes.is_empty() {
            break;
        }
        let fds = vec![child.as_fd(); count];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(12))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&child, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();

        let got = receive(parent.as_fd());
        // The buffer for descriptors has room for the alignment too, which two more may fill.
        let good = is_message(&bytes);
        match got {
            Ok(Received::Message(message, fds)) => {
                assert!(good && count <= wire::MAX_NAMESPACES + 2, "{message:?} of {bytes:?} with {count} descriptors");
                assert_eq!(fds.len(), count);
                assert_eq!(Message::decode(&message.encode()), Some(message));
                assert_eq!(message.encode()[..4], bytes[..4]);
            }
            Ok(_) => panic!("a message is taken for the end"),
            Err(e) => assert!(!good || count > wire::MAX_NAMESPACES, "{bytes:?} with {count} descriptors: {e}"),
        }
        assert_eq!(next_number(&parent), before, "a descriptor stays open");
    }
    drop(child);
    assert!(matches!(receive(parent.as_fd()), Ok(Received::Closed)));
}
