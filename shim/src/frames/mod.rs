//! Oversized ttrpc frames. They get RESOURCE_EXHAUSTED and the connection stays open, as with Go's ttrpc server. The
//! ttrpc crate would answer INVALID_ARGUMENT, which a client takes for an error in its request, so it would not send
//! the request in parts (ttrpc#127).
//!
//! ```text
//! client ──frames──> FrameFilter ──frames──> server      a frame of more than 4 MiB is read and dropped; in its place the
//!                                                        server gets a call of a service that answers RESOURCE_EXHAUSTED
//! ```

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use berth_proto::{
    Message, async_trait,
    ttrpc::{
        self, Code, Request, Response,
        asynchronous::{MethodHandler, Service, TtrpcContext},
        get_status,
        proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The refusing service and its one method.
const REFUSAL: (&str, &str) = ("berth.Frames", "TooLarge");
/// The number of bytes of an oversized frame that one read takes.
const DISCARD_CHUNK: usize = 4096;

/// A connection whose oversized frames are replaced.
#[derive(Debug)]
pub struct FrameFilter<S, G = ()> {
    inner: S,
    /// Dropped with the connection.
    _guard: G,
    position: Position,
    /// Bytes for the server that come before the next read, and the index of the first one.
    pending: (Vec<u8>, usize),
}

/// The position in the stream of the client.
#[derive(Debug)]
enum Position {
    /// In a header, of which this many bytes are read.
    Header([u8; MESSAGE_HEADER_LENGTH], usize),
    /// In a payload that has this many bytes left.
    Payload(usize),
    /// In an oversized payload that has `left` bytes left; its header and its length.
    Oversized { left: usize, header: [u8; MESSAGE_HEADER_LENGTH], length: usize },
}

const HEADER_START: Position = Position::Header([0; MESSAGE_HEADER_LENGTH], 0);

impl<S, G> FrameFilter<S, G> {
    /// Wraps a connection. The guard is dropped with it.
    pub fn new(inner: S, guard: G) -> Self {
        Self { inner, _guard: guard, position: HEADER_START, pending: (Vec::new(), 0) }
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> FrameFilter<S, G> {
    /// Copies pending bytes to the server. Returns false if there were none.
    fn copy_pending(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let (bytes, from) = &mut self.pending;
        let rest = bytes.get(*from..).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        *from += part.len();
        !part.is_empty()
    }

    /// Reads on in a header or an oversized payload. Returns false at the end of the stream.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut chunk = [0; DISCARD_CHUNK];
        let want = match &self.position {
            Position::Header(_, have) => MESSAGE_HEADER_LENGTH - have,
            Position::Payload(left) | Position::Oversized { left, .. } => *left,
        };
        let mut chunk = ReadBuf::new(chunk.get_mut(..want.min(DISCARD_CHUNK)).unwrap_or_default());
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut chunk))?;
        let got = chunk.filled();
        if got.is_empty() {
            return Poll::Ready(Ok(false));
        }
        match &mut self.position {
            Position::Header(bytes, have) => {
                for (to, from) in bytes.iter_mut().skip(*have).zip(got) {
                    *to = *from;
                }
                *have += got.len();
                if *have == MESSAGE_HEADER_LENGTH {
                    let header = *bytes;
                    self.begin(header);
                }
            }
            Position::Payload(_) => {}
            Position::Oversized { left, header, length } => {
                *left -= got.len();
                if *left == 0 {
                    self.pending = (refusal_frame(*header, *length), 0);
                    self.position = HEADER_START;
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Acts on a complete header.
    fn begin(&mut self, header: [u8; MESSAGE_HEADER_LENGTH]) {
        let length = header.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.position = match length {
            _ if length > MESSAGE_LENGTH_MAX => Position::Oversized { left: length, header, length },
            _ => {
                self.pending.0.clear();
                self.pending.0.extend(header);
                self.pending.1 = 0;
                if length == 0 { HEADER_START } else { Position::Payload(length) }
            }
        };
    }
}

/// The frame that replaces an oversized one: a call of the refusing service in the same ttrpc stream.
fn refusal_frame(header: [u8; MESSAGE_HEADER_LENGTH], length: usize) -> Vec<u8> {
    let mut request = Request::new();
    (request.service, request.method) = (REFUSAL.0.into(), REFUSAL.1.into());
    request.payload = length.to_string().into_bytes();
    let payload = request.write_to_bytes().unwrap_or_default();
    let [_, _, _, _, stream @ .., _, flags] = header;
    let mut frame = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes().to_vec();
    frame.extend(stream);
    frame.extend([MESSAGE_TYPE_REQUEST, flags]);
    frame.extend(payload);
    frame
}

/// The refusing service.
pub fn service() -> HashMap<String, Service> {
    let refuse: Box<dyn MethodHandler + Send + Sync> = Box::new(Refuse);
    let methods = HashMap::from([(REFUSAL.1.to_owned(), refuse)]);
    HashMap::from([(REFUSAL.0.to_owned(), Service { methods, streams: HashMap::new() })])
}

struct Refuse;

#[async_trait]
impl MethodHandler for Refuse {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let length = String::from_utf8_lossy(&request.payload).into_owned();
        let text = format!("message length {length} exceed maximum message size of {MESSAGE_LENGTH_MAX}");
        let mut answer = Response::new();
        answer.set_status(get_status(Code::RESOURCE_EXHAUSTED, text));
        Ok(answer)
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for FrameFilter<S, G> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if buf.remaining() == 0 || self.copy_pending(buf) {
                return Poll::Ready(Ok(()));
            }
            let Position::Payload(left) = self.position else {
                if ready!(self.poll_step(context))? {
                    continue;
                }
                return Poll::Ready(Ok(()));
            };
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
            let got = part.filled().len();
            buf.advance(got);
            self.position = if got == left { HEADER_START } else { Position::Payload(left - got) };
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for FrameFilter<S, G> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
