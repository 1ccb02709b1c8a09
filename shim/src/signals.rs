//! The signals of the server as a stream. They are blocked in all threads and read from a signalfd(2), so no handler
//! runs.

use std::os::fd::OwnedFd;

use berth_runtime::{Context, Result};
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal as Number, pthread_sigmask},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use crate::watch::watch;

/// The size of a signalfd_siginfo in bytes. It begins with the signal number.
const RECORD: usize = 128;

/// The meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: exit.
    Stop,
    /// SIGUSR1: write the state to the log.
    Dump,
    /// SIGCHLD: a child has exited.
    Child,
}

/// The stream of signals.
pub struct Signals(AsyncFd<OwnedFd>);

/// Blocks the signals in this thread and all later ones. Must be called before other threads exist: they would take
/// signals from the stream.
///
/// # Errors
/// pthread_sigmask(3) failed.
pub fn block() -> Result<()> {
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set()), None).context("block signals")
}

impl Signals {
    /// Opens the stream. Must be called inside the tokio runtime, after [`block`].
    ///
    /// # Errors
    /// No descriptor is available.
    pub fn new() -> Result<Self> {
        let fd = SignalFd::with_flags(&set(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Self(watch(OwnedFd::from(fd), Interest::READABLE).context("watch the signalfd")?))
    }

    /// Returns the next signal. Pending signals of one kind count as one.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub async fn next(&self) -> Result<Signal> {
        loop {
            let mut ready = self.0.readable().await.context("watch the signalfd")?;
            let mut record = [0; RECORD];
            match rustix::io::read(self.0.get_ref(), &mut record) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(e) => return Err(e).context("read the signalfd"),
                Ok(_) => return Ok(decode(&record)),
            }
        }
    }
}

fn decode(record: &[u8; RECORD]) -> Signal {
    let number = record.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    match Number::try_from(number) {
        Ok(Number::SIGTERM | Number::SIGINT) => Signal::Stop,
        Ok(Number::SIGUSR1) => Signal::Dump,
        _ => Signal::Child,
    }
}

fn set() -> SigSet {
    SigSet::from_iter([Number::SIGTERM, Number::SIGINT, Number::SIGUSR1, Number::SIGCHLD])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_numbers_decode_to_their_meaning() {
        for (number, want) in [
            (libc::SIGTERM, Signal::Stop),
            (libc::SIGINT, Signal::Stop),
            (libc::SIGUSR1, Signal::Dump),
            (libc::SIGCHLD, Signal::Child),
        ] {
            let mut record = [0xff; RECORD];
            record[..4].copy_from_slice(&number.to_ne_bytes());
            assert_eq!(decode(&record), want);
        }
    }
}
