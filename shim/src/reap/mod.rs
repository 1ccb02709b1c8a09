//! The exits of the shim's children.
//!
//! Each process that the shim makes has a pidfd. Its exit is seen on the pidfd, and waitid(2) reaps it through the
//! pidfd, so one child's status is never taken for another's. `children` reaps the children that the shim did not make.

mod children;

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use berth_runtime::{Context, Result, events};
use tokio::io::Interest;

use crate::{carry, watch::watch};

/// The children of the shim.
pub type Children = children::Children<children::Linux>;
/// Work of the shim that may make children.
pub type SpawnGuard = children::SpawnGuard<children::Linux>;

/// The exit status when the real one is unknown, as in containerd's client (UnknownExitStatus).
const UNKNOWN: u32 = 255;
/// The interval at which a process is polled whose pidfd cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The exit of a process. It is set once, so Wait, State, Delete and the exit event agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, or 128 + the signal number.
    pub status: u32,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanoseconds: i32,
}

impl Exit {
    /// Writes the exit down.
    pub fn carry(self) -> carry::Exit {
        let Self { status, seconds, nanoseconds } = self;
        carry::Exit { status, seconds, nanoseconds }
    }

    /// Makes the exit again.
    pub fn adopt(exit: carry::Exit) -> Self {
        let carry::Exit { status, seconds, nanoseconds } = exit;
        Self { status, seconds, nanoseconds }
    }

    /// An exit with `status` at the current time.
    pub fn now(status: u32) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            status,
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }

    /// An exit by `signal` at the current time.
    pub fn killed(signal: i32) -> Self {
        Self::now(128 + signal.unsigned_abs())
    }

    /// The exit of a process that never ran, or whose status was lost.
    pub fn unknown() -> Self {
        Self::now(UNKNOWN)
    }
}

/// Waits for the exit of the child behind `pidfd` and reaps it. A failed wait is logged and gives [`Exit::unknown`].
pub async fn wait_exit(pidfd: &OwnedFd) -> Exit {
    match wait(pidfd).await {
        Ok(exit) => exit,
        Err(e) => {
            log::error!("wait for a process: {e}");
            Exit::unknown()
        }
    }
}

async fn wait(pidfd: &OwnedFd) -> Result<Exit> {
    let watch = match watch(pidfd.as_fd(), Interest::READABLE) {
        Ok(watch) => watch,
        // ENOMEM, or ENOSPC from epoll_ctl(2). The process must not be taken for exited.
        Err(e) => {
            log::warn!("watch a process: {e}: it is polled every {} ms", POLL_INTERVAL.as_millis());
            loop {
                match collect(pidfd)? {
                    Some(exit) => return Ok(exit),
                    None => tokio::time::sleep(POLL_INTERVAL).await,
                }
            }
        }
    };
    loop {
        let mut guard = watch.readable().await.context("poll pidfd")?;
        match collect(pidfd)? {
            Some(exit) => return Ok(exit),
            None => guard.clear_ready(),
        }
    }
}

/// Reaps the child if it has exited.
fn collect(pidfd: &OwnedFd) -> Result<Option<Exit>> {
    let status = events::reap(pidfd.as_fd())?;
    Ok(status.map(|status| Exit::now(u32::try_from(status.code).unwrap_or(UNKNOWN))))
}

#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;
