//! The exit statuses of the shim's children.
//!
//! Each process that the shim makes has a pidfd. Its exit is seen on the pidfd, and waitid(2) reaps it through the
//! pidfd, so one child's status is never taken for another's. The shim is a subreaper as well (PR_SET_CHILD_SUBREAPER)
//! and inherits children that it did not make: processes of a container without a pid namespace whose parent has died.
//! [`Children::sweep`] reaps those alone. It looks at an exited child first (WNOWAIT), and leaves a child that is
//! registered, or that work in flight may be making.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use berth_runtime::{Context, Result};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::io::Interest;

use crate::{sys, watch::watch};

/// The exit status when the real one is unknown, as in containerd's client (UnknownExitStatus).
const UNKNOWN: u32 = 255;
/// How often a process is polled whose pidfd cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How a process ended. It is set once, so Wait, State, Delete and the exit event agree.
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
    let status =
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).context("waitid")?;
    Ok(status.map(|status| {
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => u32::try_from(code).unwrap_or(UNKNOWN),
            (None, Some(signal)) => 128 + u32::try_from(signal).unwrap_or_default(),
            (None, None) => UNKNOWN,
        };
        Exit::now(code)
    }))
}

/// The children of the shim: those that have an owner, and the spawns in flight.
#[derive(Debug, Default)]
pub struct Children {
    table: Mutex<ReapTable>,
}

#[derive(Debug, Default)]
struct ReapTable {
    known: BTreeSet<i32>,
    /// The number of the next spawn.
    next: u64,
    in_flight: BTreeSet<u64>,
    /// An exited child that no owner has registered, and the first spawn that began after it had exited.
    unclaimed: Option<(i32, u64)>,
    /// A sweep stopped at a child that may have an owner. The next change of the table repeats it.
    sweep_pending: bool,
}

/// Work that may make children that are not registered yet. Its holder registers or reaps them before it drops the
/// guard.
#[derive(Debug)]
pub struct SpawnGuard {
    children: Arc<Children>,
    number: u64,
}

impl Children {
    /// Begins work that may make children.
    pub fn begin_spawn(self: &Arc<Self>) -> SpawnGuard {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.in_flight.insert(number);
        SpawnGuard { children: self.clone(), number }
    }

    /// Registers a child whose owner will reap it through its pidfd.
    pub fn register(&self, _spawning: &SpawnGuard, pid: i32) {
        self.table().known.insert(pid);
    }

    /// Removes a child that its owner has reaped.
    pub fn unregister(&self, pid: i32) {
        let mut table = self.table();
        table.known.remove(&pid);
        table.resume();
    }

    /// Reaps exited children without an owner. Never blocks. The server calls it on SIGCHLD.
    pub fn sweep(&self) {
        self.table().sweep();
    }

    fn table(&self) -> std::sync::MutexGuard<'_, ReapTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SpawnGuard {
    fn drop(&mut self) {
        let mut table = self.children.table();
        table.in_flight.remove(&self.number);
        table.resume();
    }
}

impl ReapTable {
    fn resume(&mut self) {
        if self.sweep_pending {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        self.sweep_pending = false;
        loop {
            match sys::exited_child() {
                Ok(None) => return self.unclaimed = None,
                Ok(Some(pid)) if self.is_orphan(pid) => sys::discard_child(pid),
                // The owner will reap this child, or a spawn in flight is about to register it.
                Ok(Some(_)) => return self.sweep_pending = true,
                Err(e) => return log::error!("find an exited child: {e}"),
            }
        }
    }

    /// Reports whether the exited child `pid` has no owner. waitid(2) with WNOWAIT returns the same child each time, so
    /// the sweep comes back to it, and by then all spawns that could have made it have ended.
    fn is_orphan(&mut self, pid: i32) -> bool {
        if self.known.contains(&pid) {
            return false;
        }
        let bound = match self.unclaimed {
            Some((unclaimed, bound)) if unclaimed == pid => bound,
            _ => self.next,
        };
        let orphan = self.in_flight.first().is_none_or(|&first| first >= bound);
        self.unclaimed = (!orphan).then_some((pid, bound));
        orphan
    }
}

#[cfg(test)]
mod tests;
