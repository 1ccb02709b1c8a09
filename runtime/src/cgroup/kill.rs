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
pub(super) fn signal_all(cgroup: &Cgroup, signal: i32, until: Instant, sent: &mut HashSet<i32>) -> Result<usize> {
    let members = members(cgroup)?;
    if members.is_subset(sent) {
        return Ok(members.len());
    }
    if signal != libc::SIGKILL {
        let frozen_before = cgroup.is_frozen()?;
        // A freezer that fails still leaves the signal worth sending.
        let frozen_here = !frozen_before && cgroup.freeze().is_ok();
        let done = send(cgroup, signal, sent);
        if frozen_here {
            thaw(cgroup)?;
        }
        return done.map(|()| members.len());
    }
    if let Some(v2) = cgroup.path_in("") {
        let killed = super::dir::Dir::open(v2).and_then(|dir| dir.write("cgroup.kill", "1"));
        match killed {
            Ok(()) if cgroup.hierarchy() == super::Hierarchy::V2 => {
                sent.extend(&members);
                return Ok(members.len());
            }
            Ok(()) => {}
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    kill_by_freezing(cgroup, until, sent).map(|()| members.len())
}

/// The processes of the cgroup in all hierarchies. Somebody else can have moved one in some of them only.
fn members(cgroup: &Cgroup) -> Result<HashSet<i32>> {
    let (mut members, mut found) = (HashSet::new(), false);
    for place in &cgroup.places {
        if let Some(pids) = tree::pids(&place.dir)? {
            members.extend(pids);
            found = true;
        }
    }
    if found { Ok(members) } else { Err(Error::new(Kind::NotFound, "container's cgroup does not exist")) }
}

/// SIGKILL for v1 (also what `cgroup.kill` did not reach there: a process may sit elsewhere in the v2 tree), repeated
/// until nobody is left who has not been sent it.
fn kill_by_freezing(cgroup: &Cgroup, until: Instant, sent: &mut HashSet<i32>) -> Result<()> {
    let until = until.min(Instant::now() + PATIENCE);
    loop {
        let before = sent.len();
        let froze = cgroup.freeze();
        let done = send(cgroup, libc::SIGKILL, sent);
        // Always: in a v1 freezer even SIGKILL waits.
        thaw(cgroup)?;
        done?;
        // Frozen, nobody could fork; all that was there has been killed.
        if froze.is_ok() || sent.len() == before {
            return Ok(());
        }
        if Instant::now() > until {
            let id = cgroup.main_place().map(|place| place.dir.display().to_string()).unwrap_or_default();
            return Err(Error::new(Kind::Internal, format!("kill cgroup {id}: processes keep appearing")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn thaw(cgroup: &Cgroup) -> Result<()> {
    match cgroup.thaw() {
        Err(e) if gone(&e) || e.kind() == Kind::Unsupported => Ok(()),
        thawed => thawed,
    }
}

/// Signals the processes of the cgroup in all hierarchies, each once. Goes on when one cannot be signalled, and tells of
/// the first.
fn send(cgroup: &Cgroup, signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
    cgroup.places.iter().map(|place| send_in(&place.dir, signal, sent)).fold(Ok(()), Result::and)
}

/// Signals all processes that are in one directory and not in `sent`, and adds them.
fn send_in(path: &Path, signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
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
