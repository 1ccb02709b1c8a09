//! The way to end a process that is being made and has no pidfd yet that anybody else could signal it by.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use berth_runtime::{Context, Error, Kind, Result};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::Notify;

/// Held by whoever makes the process, and by its record.
#[derive(Debug)]
pub struct Abort {
    /// Readable from the first signal on.
    event: OwnedFd,
    signal: OnceLock<i32>,
    sent: Notify,
}

impl Abort {
    /// One that was not asked for.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?;
        Ok(Self { event, signal: OnceLock::new(), sent: Notify::new() })
    }

    /// Ends the process as `signal` would; the first one counts.
    pub fn send(&self, signal: i32) {
        if self.signal.set(signal).is_ok() {
            // It cannot fail: the count is 0.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
            self.sent.notify_one();
        }
    }

    /// The signal, if one was sent.
    pub fn signal(&self) -> Option<i32> {
        self.signal.get().copied()
    }

    /// Returns when one is sent, or was. For one task.
    pub async fn sent(&self) {
        self.sent.notified().await;
    }

    /// Becomes readable when one is sent.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// What the start of such a process answers.
    pub fn error(&self) -> Error {
        Error::new(Kind::FailedPrecondition, "the process was killed before it was started")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runtime;

    #[test]
    fn the_first_signal_counts_and_is_seen_in_every_way() {
        let abort = Abort::new().unwrap();
        assert_eq!(abort.signal(), None);
        assert_eq!(rustix::io::read(abort.fd(), &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
        abort.send(9);
        abort.send(15);
        assert_eq!(abort.signal(), Some(9));
        runtime().block_on(abort.sent());
        assert_eq!(rustix::io::read(abort.fd(), &mut [0; 8]), Ok(8));
    }
}
