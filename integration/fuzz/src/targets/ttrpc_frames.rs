//! The filter of oversized ttrpc frames, whose reads end anywhere. The oracle walks over the whole stream: frames up to the
//! limit pass unchanged, a larger one becomes one small call in the same stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use berth_proto::{
    Message,
    ttrpc::{
        Request,
        proto::{MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST},
    },
};
use berth_shim::frames::FrameFilter;
use tokio::io::{AsyncRead, ReadBuf};

use crate::input::Input;

/// A connection that gives `bytes` in parts, and is not ready between some of them.
struct Parts {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<u8>,
    turn: usize,
}

impl AsyncRead for Parts {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.turn += 1;
        let size = self.sizes[self.turn % self.sizes.len()];
        if size == 0 {
            return Poll::Pending;
        }
        // Small parts while the frames are small; an oversized frame would take too long.
        let size = if size > 200 { usize::from(size) * 300 } else { usize::from(size) };
        let end = (self.at + size.min(buf.remaining())).min(self.bytes.len());
        buf.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

fn frame(length: usize, rest: [u8; 6], payload: &[u8]) -> Vec<u8> {
    [&u32::try_from(length).unwrap().to_be_bytes()[..], &rest, payload].concat()
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut sizes = input.bytes(6).to_vec();
    sizes.push(255);
    let read = [1, 3, 10, 11, 4096, 70_000][input.below(6)];
    let (mut sent, mut expected, mut oversized) = (Vec::new(), Vec::new(), 0);
    for _ in 0..6 {
        if input.is_empty() {
            break;
        }
        let kind = input.below(16);
        let rest: [u8; 6] = std::array::from_fn(|_| input.byte());
        if kind == 0 && oversized == 0 {
            oversized += 1;
            let length = MESSAGE_LENGTH_MAX + 1 + input.below(3);
            sent.extend(frame(length, rest, &vec![7; length]));
            let mut call = Request::new();
            (call.service, call.method) = ("berth.Frames".into(), "TooLarge".into());
            call.payload = length.to_string().into_bytes();
            let call = call.write_to_bytes().unwrap();
            let [stream @ .., _, flags] = rest;
            let [a, b, c, d] = stream;
            expected.extend(frame(call.len(), [a, b, c, d, MESSAGE_TYPE_REQUEST, flags], &call));
        } else {
            let length = input.below(64);
            let payload = input.bytes(length);
            let whole = frame(payload.len(), rest, payload);
            sent.extend(&whole);
            expected.extend(&whole);
        }
    }
    // The stream may end within a header or a payload.
    let cut = usize::from(input.byte()).min(sent.len());
    if oversized == 0 {
        sent.truncate(sent.len() - cut);
        expected.truncate(expected.len() - cut);
    }
    let read = if oversized > 0 { 4096 } else { read };
    let got = read_all(Parts { bytes: sent, at: 0, sizes, turn: 0 }, read);
    // A header that is not whole is not handed on.
    let whole = whole_headers(&expected);
    assert!(got == expected[..whole] || got == expected, "{} bytes, not {whole}", got.len());
}

/// The length of a stream without a header that is not whole at its end.
fn whole_headers(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes.len() >= at + 10 {
        let length = usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        at = (at + 10 + length).min(bytes.len());
        if at == bytes.len() {
            return at;
        }
    }
    at
}

fn read_all(parts: Parts, size: usize) -> Vec<u8> {
    let mut filter = FrameFilter::new(parts, ());
    let mut context = Context::from_waker(Waker::noop());
    let (mut all, mut chunk) = (Vec::new(), vec![0; size]);
    loop {
        let mut buf = ReadBuf::new(&mut chunk);
        match Pin::new(&mut filter).poll_read(&mut context, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(Err(e)) => panic!("{e}"),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return all,
            Poll::Ready(Ok(())) => all.extend(buf.filled()),
        }
    }
}
