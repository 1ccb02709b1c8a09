//! Who exited, and with what.
//!
//! Every process of the shim's own making has a pidfd; its exit is seen on that and collected by it, so no status can be
//! taken for another's. The shim is a subreaper, too, and gets children it never made: processes of a container without
//! a pid namespace whose parent died. [`Children::sweep`] collects those and nothing else: it peeks, and a child that is
//! known, or that a verb may just be making, is left alone.

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

/// Exit status when the real one cannot be known, as containerd has it.
const UNKNOWN: u32 = 255;
/// How often a process is looked at that cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How a process ended. Set once; Wait, State, Delete and the exit event all say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, or 128 + the signal.
    pub status: u32,
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanoseconds: i32,
}

impl Exit {
    /// `status`, now.
    pub fn now(status: u32) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            status,
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }

    /// A process that `signal` ended, now.
    pub fn killed(signal: i32) -> Self {
        Self::now(128 + signal.unsigned_abs())
    }

    /// A process that never ran, or whose status was lost.
    pub fn unknown() -> Self {
        Self::now(UNKNOWN)
    }
}

/// Waits for the child behind `pidfd` and collects it.
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
        // Out of memory, or of what epoll(7) may watch: no reason to take a process for ended.
        Err(e) => {
            log::warn!("watch a process: {e}: it is looked at every {} ms", POLL_INTERVAL.as_millis());
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

/// Collects the child if it has exited.
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

/// The children of the shim: those with an owner, and the moments in which one may be born.
#[derive(Debug, Default)]
pub struct Children {
    table: Mutex<ReapTable>,
}

#[derive(Debug, Default)]
struct ReapTable {
    known: BTreeSet<i32>,
    /// Numbers the in_flight.
    next: u64,
    in_flight: BTreeSet<u64>,
    /// An exited child nobody knows, and the number of the first spawning that cannot be its maker.
    unclaimed: Option<(i32, u64)>,
    /// A sweep stopped early; the next change goes on with it.
    sweep_pending: bool,
}

/// A stretch of work that may make children the table does not know yet. Whoever holds it registers them, or has
/// collected them, before dropping it.
#[derive(Debug)]
pub struct SpawnGuard {
    children: Arc<Children>,
    number: u64,
}

impl Children {
    /// Begins a stretch of work that may make children.
    pub fn begin_spawn(self: &Arc<Self>) -> SpawnGuard {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.in_flight.insert(number);
        SpawnGuard { children: self.clone(), number }
    }

    /// The child has an owner, who will wait for it by pidfd.
    pub fn register(&self, _flight: &SpawnGuard, pid: i32) {
        self.table().known.insert(pid);
    }

    /// The owner has waited for it.
    pub fn unregister(&self, pid: i32) {
        let mut table = self.table();
        table.known.remove(&pid);
        table.resume();
    }

    /// Collects exited children without an owner. Never blocks; to be called on SIGCHLD.
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
                // Its owner collects it, or its maker is about to say whose it is.
                Ok(Some(_)) => return self.sweep_pending = true,
                Err(e) => return log::error!("look for orphans: {e}"),
            }
        }
    }

    /// Whether the exited child `pid` belongs to nobody. The kernel shows the same child again and again, so a sweep
    /// comes back to it; by then every spawning that could have made it has landed.
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
