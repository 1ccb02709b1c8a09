//! Events of a container: the exit of a process, and OOM kills.

use std::os::fd::BorrowedFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

pub use crate::cgroup::{OomCount, OomWatch};
use crate::{Context, Result, container::state::Container};

/// The exit status of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, or 128 plus the number of the signal that ended the process.
    pub code: i32,
}

/// Reaps a child by its pidfd, if it has exited. Returns `None` otherwise. Other children are not affected.
///
/// # Errors
/// `ECHILD` if the process is not a child of this one, or has been reaped before.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options).context("waitid")?;
    Ok(status.map(|s| {
        let code = s.exit_status().or_else(|| s.terminating_signal().map(|n| 128 + n));
        ExitStatus { code: code.unwrap_or(255) }
    }))
}

/// Watches a container for OOM kills.
///
/// # Errors
/// The kernel has no such notification for the cgroup.
pub fn oom_watch(container: &Container) -> Result<OomWatch> {
    container.cgroup().oom_watch()
}
