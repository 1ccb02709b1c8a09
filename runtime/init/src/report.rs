//! The child's end of the channel to the process that waits for it: first the parent, later the process that calls start.
//!
//! [`crate::wire`] defines the messages. This module sends and receives them.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{self, RecvFlags, SendFlags},
};

use crate::{
    sys,
    wire::{self, Failure, Message},
};

/// The connection to the process that waits for this child.
pub struct Report<'a> {
    /// The channel to the parent.
    pub(crate) channel: BorrowedFd<'a>,
    /// The connection over which start was requested; it replaces the channel.
    pub(crate) starter: Option<OwnedFd>,
    /// The namespaces that [`Report::send_namespaces`] gives out; see [`crate::plan::Plan::namespace_files`].
    pub(crate) namespaces: [Option<OwnedFd>; wire::MAX_NAMESPACES],
}

impl<'a> Report<'a> {
    /// Reports to the parent over `channel`.
    pub(crate) fn new(channel: BorrowedFd<'a>) -> Self {
        Self { channel, starter: None, namespaces: [const { None }; wire::MAX_NAMESPACES] }
    }

    /// Sends `message` with the fds that belong to it.
    ///
    /// # Errors
    /// As sendmsg(2); `EPIPE` if the connection is closed.
    pub fn send(&self, message: Message, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        send(self.receiver(), message, fds)
    }

    /// Sends `failure` and exits with 1.
    pub(crate) fn fail(&self, failure: Failure) -> ! {
        // The end of this process says that it failed, also without the message.
        let _ = self.send(Message::Failure(failure), &[]);
        sys::exit(1)
    }

    /// Waits until the parent sends `byte`.
    ///
    /// # Errors
    /// `ECONNRESET` if the parent has closed the channel or sends another byte.
    pub(crate) fn wait_for(&self, byte: u8) -> rustix::io::Result<()> {
        wait_for(self.channel, byte)
    }

    /// Lets the parent map the ids of `tree`, as mount `n` of the plan asks for. The child cannot do so: the kernel demands
    /// CAP_SYS_ADMIN in the user namespace that owns the file system (mount_setattr(2)).
    pub(crate) fn map_ids(&self, tree: BorrowedFd<'_>, n: usize) -> rustix::io::Result<()> {
        self.send(Message::MapIds(u32::try_from(n).unwrap_or(u32::MAX)), &[tree])?;
        self.wait_for(wire::IDS_MAPPED)
    }

    /// Answers [`wire::GET_NAMESPACES`] from `peer` with the fds of the namespaces.
    pub(crate) fn send_namespaces(&self, peer: BorrowedFd<'_>) {
        let mut fds = [peer; wire::MAX_NAMESPACES];
        let mut count = 0;
        for (slot, fd) in fds.iter_mut().zip(self.namespaces.iter().flatten()) {
            *slot = fd.as_fd();
            count += 1;
        }
        // A peer that is gone needs no answer.
        let _ = send(peer, Message::Namespaces, fds.get(..count).unwrap_or_default());
    }

    /// Announces the number of the filter's listener, waits until the agent has the listener, and closes it here. The
    /// filter is in force already, so only write(2), read(2) and close_range(2) are used.
    ///
    /// # Errors
    /// `ECONNRESET` if the other end is closed or has no agent.
    pub(crate) fn announce_listener(&self, number: i32) -> rustix::io::Result<()> {
        let to = self.receiver();
        rustix::io::write(to, &Message::SeccompListener(number).encode())?;
        let mut byte = [0u8; 1];
        match rustix::io::read(to, &mut byte) {
            // The agent must own the last copy. If this process kept one, the kernel would not notice the agent's death,
            // and every call that notifies would block for ever.
            Ok(1) if byte == [wire::AGENT_READY] => {
                let number = number.unsigned_abs();
                sys::close_range(number, number)
            }
            Ok(_) => Err(Errno::CONNRESET),
            Err(e) => Err(e),
        }
    }

    fn receiver(&self) -> BorrowedFd<'_> {
        self.starter.as_ref().map_or(self.channel, AsFd::as_fd)
    }
}

/// Waits until the other end of `channel` sends `byte`.
///
/// # Errors
/// `ECONNRESET` if the other end is closed or sends another byte.
pub(crate) fn wait_for(channel: BorrowedFd<'_>, byte: u8) -> rustix::io::Result<()> {
    if recv_byte(channel)? == byte { Ok(()) } else { Err(Errno::CONNRESET) }
}

/// Receives one byte.
///
/// # Errors
/// `ECONNRESET` at end of file; as recv(2).
pub(crate) fn recv_byte(channel: BorrowedFd<'_>) -> rustix::io::Result<u8> {
    let mut byte = [0u8; 1];
    loop {
        match net::recv(channel, &mut byte[..], RecvFlags::empty()) {
            Ok((1, _)) => return Ok(u8::from_ne_bytes(byte)),
            Ok(_) => return Err(Errno::CONNRESET),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Sends `message` with at most [`wire::MAX_NAMESPACES`] fds.
///
/// # Errors
/// As sendmsg(2); `EPIPE` if the connection is closed.
pub(crate) fn send(to: BorrowedFd<'_>, message: Message, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let bytes = message.encode();
    if fds.is_empty() {
        return rustix::io::retry_on_intr(|| net::send(to, &bytes, SendFlags::NOSIGNAL)).map(drop);
    }
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::MAX_NAMESPACES))];
    let mut control = net::SendAncillaryBuffer::new(&mut space);
    control.push(net::SendAncillaryMessage::ScmRights(fds));
    let iov = [rustix::io::IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| net::sendmsg(to, &iov, &mut control, SendFlags::NOSIGNAL)).map(drop)
}
