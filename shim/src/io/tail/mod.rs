//! A client's fifo after the last byte went into it, until the client has read it out.
//!
//! ```text
//! client is there:  our reader only    it reads what is left, and then the end
//! client is away:   our writer only    a client that comes back can open it (without a writer its open(2) would hang)
//! ```
//! One of the two is held all the time, so what is in the fifo stays; and while only the writer is, the kernel says
//! whether somebody else has it open for reading (poll(2), POLLERR).

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::ioctl_fionread,
};
use tokio::time::sleep;

use super::fifo::reopen;

/// The first and the longest pause between two looks. A client that is there reads at once; one that is away is
/// expected in seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A fifo that is not read out.
#[derive(Debug)]
pub struct Tail(Mutex<End>);

#[derive(Debug)]
enum End {
    Reader(OwnedFd),
    Writer(OwnedFd),
    /// Both, where no other descriptor could be had. The client gets its end when it has read all.
    Both(Arc<OwnedFd>),
}

impl Tail {
    /// Of a fifo that is open at both ends, if something is in it. The caller closes both ends and then has it looked at.
    pub fn of(both: &Arc<OwnedFd>) -> Option<Self> {
        let end = || reopen(both, OFlags::WRONLY).map_or_else(|_| End::Both(both.clone()), End::Writer);
        unread(both).then(|| Self(Mutex::new(end())))
    }

    /// Something is left in it.
    pub fn unread(&self) -> bool {
        match &*self.end() {
            End::Reader(fifo) | End::Writer(fifo) => unread(fifo),
            End::Both(fifo) => unread(fifo),
        }
    }

    /// Waits until nothing is.
    pub async fn read_out(&self) {
        let mut pause = PAUSE.0;
        while self.unread() {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            self.become_writer();
            self.become_reader();
        }
    }

    /// Nobody has read on: perhaps the client is gone.
    fn become_writer(&self) {
        let mut end = self.end();
        if let End::Reader(reader) = &*end
            && let Ok(writer) = reopen(reader, OFlags::WRONLY)
        {
            *end = End::Writer(writer);
        }
    }

    /// A client that is there gets the end of its stream, and only its reading is waited for.
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
