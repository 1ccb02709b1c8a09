//! The reader of the container's /etc/passwd, whose reads end anywhere. The oracle splits the whole text into lines and
//! fields.

use berth_init::fuzzing::find_home;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::input::Input;

/// Bytes for the home directory.
const ROOM: usize = 40;

fn naive(text: &[u8], uid: u32) -> Option<Vec<u8>> {
    text.split(|b| *b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let digits = std::str::from_utf8(fields.get(2)?).ok()?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let home = *fields.get(5)?;
        let hit = is_number && digits.parse::<u32>() == Ok(uid) && !home.is_empty() && home.len() <= ROOM;
        hit.then(|| home.to_vec())
    })
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let uid = [0, 1, 10, 1000, u32::MAX][input.below(5)];
    let mut seed = input.byte();
    let text = input.rest();
    // A packet is a read.
    let (file, writer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut rest = text;
    for _ in 0..40 {
        if rest.is_empty() {
            break;
        }
        seed = seed.wrapping_mul(13).wrapping_add(7);
        let (part, after) = rest.split_at(usize::from(seed % 61 + 1).min(rest.len()));
        send(&writer, part, SendFlags::NOSIGNAL).unwrap();
        rest = after;
    }
    rest.chunks(4096).for_each(|part| assert_eq!(send(&writer, part, SendFlags::NOSIGNAL), Ok(part.len())));
    drop(writer);
    let mut out = [0; ROOM];
    let found = find_home(&file, uid, &mut out).unwrap();
    match naive(text, uid) {
        Some(home) => assert_eq!((found, &out[..home.len()]), (true, home.as_slice())),
        None => assert!(!found, "{:?}", out.escape_ascii().to_string()),
    }
}
