//! A client's fifo that has all its output, until the client has read it.
//!
//! ```text
//! client is there:  the shim holds a reader only    it reads the rest, and then the end
//! client is away:   the shim holds a writer only    a client that comes back can open it (else its open(2) would block)
//! ```
//! The shim always holds one of the two, so the content is kept. While it holds the writer only, poll(2) tells whether
//! a reader exists (POLLERR).

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_runtime::Result;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::ioctl_fionread,
};
use tokio::time::sleep;

use super::fifo::reopen;
use crate::carry::{self, Adopter, Keeper};

/// The first and the longest pause between two checks. A client that is there reads at once; a restarted one comes
/// within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A fifo with content that its client has not read.
#[derive(Debug)]
pub struct Tail(Mutex<End>);

#[derive(Debug)]
enum End {
    Reader(OwnedFd),
    Writer(OwnedFd),
    /// Both ends, if no other descriptor could be opened. The client gets the end when it has read everything.
    Both(Arc<OwnedFd>),
}

impl Tail {
    /// Writes the tail down.
    pub(super) fn carry(&self, keeper: &mut Keeper) -> Result<carry::Tail> {
        Ok(match &*self.end() {
            End::Reader(fd) => carry::Tail::Reader(keeper.keep(fd)?),
            End::Writer(fd) => carry::Tail::Writer(keeper.keep(fd)?),
            End::Both(fd) => carry::Tail::Both(keeper.keep(fd)?),
        })
    }

    /// Makes the tail again.
    pub(super) fn adopt(tail: carry::Tail, adopter: &mut Adopter) -> Result<Self> {
        let end = match tail {
            carry::Tail::Reader(fd) => End::Reader(adopter.take(fd)?),
            carry::Tail::Writer(fd) => End::Writer(adopter.take(fd)?),
            carry::Tail::Both(fd) => End::Both(adopter.share(fd)?),
        };
        Ok(Self(Mutex::new(end)))
    }

    /// Makes one of a fifo that is open at both ends, if it has content. The caller closes both ends and then calls
    /// [`become_reader`](Self::become_reader).
    pub fn of(both: &Arc<OwnedFd>) -> Option<Self> {
        let end = || reopen(both, OFlags::WRONLY).map_or_else(|_| End::Both(both.clone()), End::Writer);
        unread(both).then(|| Self(Mutex::new(end())))
    }

    /// Reports whether the fifo has content.
    pub fn unread(&self) -> bool {
        match &*self.end() {
            End::Reader(fifo) | End::Writer(fifo) => unread(fifo),
            End::Both(fifo) => unread(fifo),
        }
    }

    /// Waits until the fifo is empty.
    pub async fn read_out(&self) {
        let mut pause = PAUSE.0;
        while self.unread() {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            self.become_writer();
            self.become_reader();
        }
    }

    /// The content has not shrunk, so the client may be away: holds a writer instead of a reader.
    fn become_writer(&self) {
        let mut end = self.end();
        if let End::Reader(reader) = &*end
            && let Ok(writer) = reopen(reader, OFlags::WRONLY)
        {
            *end = End::Writer(writer);
        }
    }

    /// If a client is there, holds a reader instead of a writer, so that the client gets the end of its stream.
    pub fn become_reader(&self) {
        let mut end = self.end();
        if let End::Writer(writer) = &*end
            && has_reader(writer)
            && let Ok(reader) = reopen(writer, OFlags::RDONLY)
        {
            *end = End::Reader(reader);
        }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unread(fifo: &OwnedFd) -> bool {
    ioctl_fionread(fifo).is_ok_and(|bytes| bytes > 0)
}

fn has_reader(writer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().all(|fd| !fd.revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests;
