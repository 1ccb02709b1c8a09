use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::runtime;

fn frame(stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([MESSAGE_TYPE_REQUEST, 0]);
    bytes.extend(std::iter::repeat_n(u8::try_from(stream).unwrap(), length));
    bytes
}

/// Returns the bytes that a reader gets of `sent`, written in parts of `write` bytes.
fn seen(sent: &[u8], write: usize) -> Vec<u8> {
    let (ours, mut theirs) = tokio::io::duplex(8192);
    let sent = sent.to_vec();
    runtime().block_on(async move {
        tokio::spawn(async move {
            for part in sent.chunks(write) {
                theirs.write_all(part).await.unwrap();
            }
        });
        let mut seen = Vec::new();
        FrameFilter::new(ours, ()).read_to_end(&mut seen).await.unwrap();
        seen
    })
}

#[test]
fn small_frames_pass_unchanged_in_any_pieces() {
    let sent: Vec<u8> = [(1, 0), (3, 1), (5, 9000), (7, 10), (9, 0)].map(|(s, l)| frame(s, l)).concat();
    for write in [1, 3, 7, 10, 11, 4096, 1 << 20] {
        assert_eq!(seen(&sent, write), sent, "in parts of {write}");
    }
    let largest = frame(1, MESSAGE_LENGTH_MAX);
    assert!(seen(&largest, 1 << 16) == largest);
}

#[test]
fn an_oversized_frame_becomes_a_call_of_the_refusing_service() {
    let large = MESSAGE_LENGTH_MAX + 1;
    let sent = [frame(1, 5), frame(3, large), frame(5, 5)].concat();
    for write in [5000, 1 << 16] {
        let seen = seen(&sent, write);
        let rest = seen.strip_prefix(&*frame(1, 5)).unwrap().strip_suffix(&*frame(5, 5)).unwrap();
        let header: [u8; MESSAGE_HEADER_LENGTH] = *rest.first_chunk().unwrap();
        assert_eq!(rest, refusal_frame(header, large));
        assert_eq!(header[4..8], 3_u32.to_be_bytes());
        let request = Request::parse_from_bytes(&rest[MESSAGE_HEADER_LENGTH..]).unwrap();
        assert_eq!((request.service.as_str(), request.payload), (REFUSAL.0, large.to_string().into_bytes()));
    }
}

#[test]
fn a_truncated_stream_ends() {
    for sent in [&frame(1, 100)[..7], &frame(1, 100)[..50], &frame(1, MESSAGE_LENGTH_MAX + 1)[..5000]] {
        assert!(seen(sent, 4096).len() < sent.len().max(51));
    }
}
