//! A signal to every process of a cgroup and of the cgroups below it, none missed.
//!
//! SIGKILL goes by `cgroup.kill` (5.14), which the kernel makes atomic. Otherwise all is frozen, so that nobody forks
//! away, signalled, and let go. Each process is signalled through a pidfd that was taken while the process was seen in
//! the cgroup before and after: a pid that was used again meanwhile is never hit.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags},
};

use super::{Cgroup, dir::gone, sys, tree};
use crate::error::{Context, Error, Kind, Result};

/// How many pidfds are open at once.
const BATCH: usize = 256;

/// How long SIGKILL is sent again to what still shows up.
const PATIENCE: Duration = Duration::from_secs(5);

/// See [`Cgroup::signal_all`].
pub(super) fn signal_all(cgroup: &Cgroup, signal: i32) -> Result<()> {
    let place = cgroup.main_place()?;
    if !place.dir.exists() {
        return Err(Error::new(Kind::NotFound, "container's cgroup does not exist"));
    }
    if signal != libc::SIGKILL {
        let frozen_before = cgroup.is_frozen()?;
        // A freezer that fails still leaves the signal worth sending.
        let frozen_here = !frozen_before && cgroup.freeze().is_ok();
        let sent = send(&place.dir, signal, &mut HashSet::new());
        if frozen_here {
            cgroup.thaw()?;
        }
        return sent;
    }
    if let Some(v2) = cgroup.path_in("") {
        let killed = super::dir::Dir::open(v2).and_then(|dir| dir.write("cgroup.kill", "1"));
        match killed {
            Ok(()) if cgroup.hierarchy() == super::Hierarchy::V2 => return Ok(()),
            Ok(()) => {}
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    kill_by_freezing(cgroup, &place.dir)
}

/// SIGKILL for v1 (also what `cgroup.kill` did not reach there: a process may sit elsewhere in the v2 tree), repeated
/// until nobody is left who has not been sent it.
fn kill_by_freezing(cgroup: &Cgroup, path: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut sent = HashSet::new();
    loop {
        let before = sent.len();
        let froze = cgroup.freeze();
        let done = send(path, libc::SIGKILL, &mut sent);
        // Always: in a v1 freezer even SIGKILL waits.
        match cgroup.thaw() {
            Err(e) if !gone(&e) => return Err(e),
            _ => {}
        }
        done?;
        // Frozen, nobody could fork; all that was there has been killed.
        if froze.is_ok() || sent.len() == before {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::new(
                Kind::Internal,
                format!("kill cgroup {}: processes keep appearing", path.display()),
            ));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Signals all processes that are in the cgroup and not in `sent`, and adds them. Goes on when one cannot be signalled,
/// and tells of the first.
fn send(path: &Path, signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
    let Some(pids) = tree::pids(path)? else { return Ok(()) };
    let mut failed = Ok(());
    let new: Vec<i32> = pids.into_iter().filter(|p| !sent.contains(p)).collect();
    for batch in new.chunks(BATCH) {
        let mut open: Vec<(i32, OwnedFd)> = Vec::with_capacity(batch.len());
        for pid in batch.iter().copied() {
            let Some(raw) = Pid::from_raw(pid) else { continue };
            match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
                Ok(fd) => open.push((pid, fd)),
                // Gone, or (EINVAL) no longer the leader of its threads: both mean that it ended.
                Err(Errno::SRCH | Errno::INVAL) => {}
                Err(e) => return Err(Error::from(e).context(format!("open process {pid}"))),
            }
        }
        let still: HashSet<i32> = tree::pids(path)?.unwrap_or_default().into_iter().collect();
        for (pid, fd) in open.iter().filter(|(pid, _)| still.contains(pid)) {
            match sys::pidfd_send_signal(fd, signal) {
                Ok(()) | Err(Errno::SRCH) => {
                    sent.insert(*pid);
                }
                Err(e) if failed.is_ok() => failed = Err(e).with_context(|| format!("signal process {pid}")),
                Err(_) => {}
            }
        }
    }
    failed
}
