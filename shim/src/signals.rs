//! The signals that the server acts on, as a stream: blocked in every thread and read from a signalfd, so no handler
//! ever runs between two instructions of ours.

use std::os::fd::OwnedFd;

use berth_runtime::{Context, Result};
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal as Number, pthread_sigmask},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use crate::watch::watch;

/// The size of signalfd(2)'s record (bytes); it begins with the signal's number.
const RECORD: usize = 128;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: exit.
    Stop,
    /// SIGUSR1: write the state to the log.
    Dump,
    /// SIGCHLD: at least one child ended.
    Child,
}

/// The stream of signals.
pub struct Signals(AsyncFd<OwnedFd>);

/// Blocks the signals in this thread and all that it starts. Called before there are others, so that none can take a
/// signal away from the stream.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn block() -> Result<()> {
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set()), None).context("block signals")
}

impl Signals {
    /// Opens the stream, inside the runtime, after [`block`].
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new() -> Result<Self> {
        let fd = SignalFd::with_flags(&set(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Self(watch(OwnedFd::from(fd), Interest::READABLE).context("watch the signalfd")?))
    }

    /// The next signal. Several of one kind that were not taken yet count as one.
    ///
    /// # Errors
    /// The descriptor cannot be read, which would be a fault of ours.
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
    fn numbers_are_what_they_ask_for() {
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
