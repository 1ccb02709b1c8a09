//! Events: exits by pidfd, OOM kills by the cgroup.

use std::os::fd::BorrowedFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

pub use crate::cgroup::OomWatch;
use crate::{Context, Result, container::state::Container};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, or 128 + the signal that ended it.
    pub code: i32,
}

/// Reaps a child by its pidfd if it has ended; readable pidfds have. Other children are never touched.
///
/// # Errors
/// `ECHILD` when the process is not this process' child, or was reaped already.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options).context("waitid")?;
    Ok(status.map(|s| {
        let code = s.exit_status().or_else(|| s.terminating_signal().map(|n| 128 + n));
        ExitStatus { code: code.unwrap_or(255) }
    }))
}

/// Watches for OOM kills in a container.
///
/// # Errors
/// When the kernel offers no such notification.
pub fn oom_watch(container: &Container) -> Result<OomWatch> {
    container.cgroup().oom_watch()
}
