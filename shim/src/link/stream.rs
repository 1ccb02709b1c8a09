//! The bytes of a connection: whole frames for the server, and answers for the client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use berth_proto::ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Link, calls::parse, lock};

/// The most bytes of a frame that one read takes.
const READ_CHUNK: usize = 64 << 10;

/// Bytes on their way.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The beginning of a frame that has not come whole.
    incoming: Vec<u8>,
    /// Whole frames for the server, and the index of the first byte that it has not read.
    ready: (Vec<u8>, usize),
    /// The bytes that are left of a frame that is too large to keep. They pass through.
    oversized: usize,
    /// Bytes of answers that the socket had no room for.
    outgoing: Vec<u8>,
    /// Another program has left those bytes, and the server has written none yet. Only then the reading task writes: a socket
    /// wakes one task when it has room, and that is the task which waits for the end of its answer.
    left: bool,
}

impl Buffers {
    /// Makes buffers with frames for the server.
    pub fn adopt(incoming: Vec<u8>, ready: Vec<u8>, outgoing: Vec<u8>) -> Self {
        let left = !outgoing.is_empty();
        Self { incoming, ready: (ready, 0), oversized: 0, outgoing, left }
    }

    /// Returns the request or answer that is on its way and cannot be written down.
    pub fn in_flight(&self) -> Option<&'static str> {
        match self {
            Self { oversized: 1.., .. } => Some("an oversized request is being read"),
            Self { ready: (frames, read), .. } if *read < frames.len() => Some("a request is being read"),
            _ => None,
        }
    }

    /// The incoming and the outgoing bytes.
    pub fn carried(&self) -> (Vec<u8>, Vec<u8>) {
        (self.incoming.clone(), self.outgoing.clone())
    }

    /// Copies bytes of whole frames to the server. Returns false if there were none.
    fn copy_ready(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let (frames, read) = &mut self.ready;
        let rest = frames.get(*read..).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        *read += part.len();
        let copied = !part.is_empty();
        if *read == frames.len() {
            // The memory is given back: a connection is idle most of the time.
            self.ready = (Vec::new(), 0);
        }
        copied
    }

    /// The number of bytes that the frame lacks, as far as it is known.
    fn missing(&self) -> usize {
        match self.incoming.first_chunk() {
            Some(header) => (parse(*header).0 + MESSAGE_HEADER_LENGTH).saturating_sub(self.incoming.len()),
            None => MESSAGE_HEADER_LENGTH - self.incoming.len(),
        }
    }
}

/// A connection for the server. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream(Arc<Link>);

impl Stream {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self(link)
    }

    /// The socket.
    pub fn socket(&self) -> &tokio::net::UnixStream {
        &self.0.socket
    }

    #[cfg(test)]
    pub(super) fn link(&self) -> &Link {
        &self.0
    }

    /// Reads from the socket when it is readable.
    fn poll_socket(&self, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.socket.poll_read_ready(context))?;
            match self.0.socket.try_read(to) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads on in a frame. Returns false at the end of the stream.
    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut buffers = lock(&self.0.buffers);
        let (have, missing) = (buffers.incoming.len(), buffers.missing());
        if missing > 0 {
            let want = missing.min(READ_CHUNK);
            buffers.incoming.resize(have + want, 0);
            let read = self.poll_socket(context, buffers.incoming.get_mut(have..).unwrap_or_default());
            let got = if let Poll::Ready(Ok(got)) = read { got } else { 0 };
            buffers.incoming.truncate(have + got);
            if got == 0 {
                if buffers.incoming.is_empty() {
                    buffers.incoming = Vec::new();
                }
                return read.map_ok(|_| false);
            }
        }
        let Some(header) = buffers.incoming.first_chunk() else { return Poll::Ready(Ok(true)) };
        let (length, stream, _) = parse(*header);
        if length > MESSAGE_LENGTH_MAX {
            buffers.oversized = length;
            buffers.ready = (std::mem::take(&mut buffers.incoming), 0);
            lock(&self.0.calls).begin_oversized(stream);
        } else if buffers.missing() == 0 {
            buffers.ready = (std::mem::take(&mut buffers.incoming), 0);
            lock(&self.0.calls).begin(&buffers.ready.0);
        }
        Poll::Ready(Ok(true))
    }

    /// Writes what the socket had no room for.
    fn poll_outgoing(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffers = lock(&self.0.buffers);
        while !buffers.outgoing.is_empty() {
            ready!(self.0.socket.poll_write_ready(context))?;
            match self.0.socket.try_write(&buffers.outgoing) {
                Ok(written) => drop(buffers.outgoing.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        (buffers.outgoing, buffers.left) = (Vec::new(), false);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // An answer that another program has left is written even if no other answer follows.
        if lock(&self.0.buffers).left
            && let Poll::Ready(Err(e)) = self.poll_outgoing(context)
        {
            return Poll::Ready(Err(e));
        }
        loop {
            if buf.remaining() == 0 || lock(&self.0.buffers).copy_ready(buf) {
                return Poll::Ready(Ok(()));
            }
            let oversized = lock(&self.0.buffers).oversized;
            if oversized > 0 {
                let part = buf.initialize_unfilled_to(oversized.min(buf.remaining()));
                let got = ready!(self.poll_socket(context, part))?;
                buf.advance(got);
                // At the end of the stream nothing is left.
                lock(&self.0.buffers).oversized = if got == 0 { 0 } else { oversized - got };
                return Poll::Ready(Ok(()));
            }
            ready!(self.0.links.poll_released(context));
            if !ready!(self.poll_frame(context))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    /// Takes all bytes: those that the socket has no room for are kept, and [`poll_flush`](Self::poll_flush) waits for
    /// room. The server flushes after each answer.
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut buffers = lock(&self.0.buffers);
        buffers.left = false;
        // Bytes that wait come first.
        let written = match buffers.outgoing.is_empty().then(|| self.0.socket.try_write(bytes)) {
            Some(Ok(written)) => written,
            Some(Err(e)) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
            _ => 0,
        };
        buffers.outgoing.extend(bytes.get(written..).unwrap_or_default());
        lock(&self.0.calls).written(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_outgoing(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outgoing(context))?;
        Poll::Ready(Ok(rustix::net::shutdown(&self.0.socket, Shutdown::Write)?))
    }
}
