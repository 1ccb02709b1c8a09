//! A client's connection whose state is plain data between any two frames, so that another program of the same process can
//! go on with it (`upgrade`).
//!
//! ```text
//! client ──frames──> Link ──whole frames──> FrameFilter ──> server      held: no frame is begun
//! client <──────────  Link <──answers──────────────────────  server      never held
//! ```
//! The link knows which requests have no answer yet. All but the [`Waits`](Call::Waits) end by themselves soon; those are
//! reads that may take days, and the next program gets their frames again.

mod calls;
mod stream;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use berth_runtime::Result;
use tokio::net::UnixStream;

use self::{calls::Calls, stream::Buffers};
pub use self::{
    calls::{Call, UPGRADE},
    stream::Stream,
};
use crate::carry::{self, Adopter, Bytes, Keeper};

/// All connections of the server.
#[derive(Debug, Default)]
pub struct Links {
    held: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    all: Mutex<Vec<Weak<Link>>>,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
    links: Arc<Links>,
    buffers: Mutex<Buffers>,
    calls: Mutex<Calls>,
}

impl Links {
    /// Takes an accepted connection.
    pub fn add(self: &Arc<Self>, socket: UnixStream) -> Stream {
        self.insert(socket, Buffers::default(), Calls::default())
    }

    fn insert(self: &Arc<Self>, socket: UnixStream, buffers: Buffers, calls: Calls) -> Stream {
        let link =
            Arc::new(Link { socket, links: self.clone(), buffers: Mutex::new(buffers), calls: Mutex::new(calls) });
        let mut all = lock(&self.all);
        all.retain(|link| link.strong_count() > 0);
        all.push(Arc::downgrade(&link));
        Stream::new(link)
    }

    /// From now on no connection is accepted and no request is read.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Ends [`hold`](Self::hold).
    pub fn release(&self) {
        self.held.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.wakers)).into_iter().for_each(Waker::wake);
    }

    /// Ready while requests may be read.
    pub fn poll_released(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.held.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        lock(&self.wakers).push(context.waker().clone());
        Poll::Pending
    }

    /// The first connection that has more on its way than requests that wait, in words. `None` if there is none: then all
    /// can be written down.
    pub fn in_flight(&self) -> Option<String> {
        self.open().iter().find_map(|link| {
            let calls = lock(&link.calls).in_flight();
            calls.or_else(|| lock(&link.buffers).in_flight().map(str::to_owned))
        })
    }

    /// Writes all connections down; returns the number of the connection and the stream of the call for the upgrade.
    ///
    /// # Errors
    /// There is no such call, or more than one; or a descriptor cannot be examined.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<(Vec<carry::Connection>, usize, u32)> {
        let mut triggers = Vec::new();
        let mut connections = Vec::new();
        for (number, link) in self.open().iter().enumerate() {
            let Link { socket, links: _, buffers, calls } = &**link;
            let (buffers, calls) = (lock(buffers), lock(calls));
            triggers.extend(calls.upgrades().map(|stream| (number, stream)));
            let (incoming, outgoing) = buffers.carried();
            connections.push(carry::Connection {
                fd: keeper.keep(socket)?,
                incoming: Bytes(incoming),
                outgoing: Bytes(outgoing),
                waiting: calls.waiting().into_iter().map(Bytes).collect(),
            });
        }
        match *triggers {
            [(number, stream)] => Ok((connections, number, stream)),
            [] => Err(carry::busy("the caller of the upgrade is gone")),
            _ => Err(carry::busy("another upgrade was asked for")),
        }
    }

    /// Goes on with connections that were written down. Their waiting requests are served again. `answer` is written to one
    /// of them, behind the bytes that are not written yet.
    ///
    /// # Errors
    /// The document names a descriptor twice, or the event loop cannot watch one.
    pub fn adopt(
        self: &Arc<Self>,
        connections: Vec<carry::Connection>,
        adopter: &mut Adopter,
        answer: (usize, Vec<u8>),
    ) -> Result<Vec<Stream>> {
        let mut streams = Vec::with_capacity(connections.len());
        let (to, mut answer) = answer;
        for (number, connection) in connections.into_iter().enumerate() {
            let carry::Connection { fd, incoming, mut outgoing, waiting } = connection;
            let socket = std::os::unix::net::UnixStream::from(adopter.take(fd)?);
            socket.set_nonblocking(true)?;
            let socket = UnixStream::from_std(socket)?;
            if number == to {
                outgoing.0.append(&mut answer);
            }
            let mut calls = Calls::default();
            let mut ready = Vec::new();
            for Bytes(frame) in waiting {
                calls.begin(&frame);
                ready.extend(frame);
            }
            let buffers = Buffers::adopt(incoming.0, ready, outgoing.0);
            streams.push(self.insert(socket, buffers, calls));
        }
        Ok(streams)
    }

    fn open(&self) -> Vec<Arc<Link>> {
        lock(&self.all).iter().filter_map(Weak::upgrade).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
