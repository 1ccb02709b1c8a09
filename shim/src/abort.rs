//! Ends the start of an exec whose process has no pidfd yet.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use berth_runtime::{Context, Error, Kind, Result};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::Notify;

/// Shared by the task that starts the process and by the record of the process.
#[derive(Debug)]
pub struct Abort {
    /// Readable once a signal is sent.
    event: OwnedFd,
    signal: OnceLock<i32>,
    sent: Notify,
}

impl Abort {
    /// Makes one without a signal.
    ///
    /// # Errors
    /// No descriptor is available.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?;
        Ok(Self { event, signal: OnceLock::new(), sent: Notify::new() })
    }

    /// Ends the start as if by `signal`. Only the first call has an effect.
    pub fn send(&self, signal: i32) {
        if self.signal.set(signal).is_ok() {
            // The write cannot fail: the counter is 0 (eventfd(2)).
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
            self.sent.notify_one();
        }
    }

    /// The signal, if one was sent.
    pub fn signal(&self) -> Option<i32> {
        self.signal.get().copied()
    }

    /// Returns once a signal is sent. Only one task may wait.
    pub async fn sent(&self) {
        self.sent.notified().await;
    }

    /// A descriptor that is readable once a signal is sent.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The error of a start that was aborted.
    pub fn error(&self) -> Error {
        Error::new(Kind::FailedPrecondition, "the process was killed before it was started")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runtime;

    #[test]
    fn only_the_first_abort_signal_counts() {
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
