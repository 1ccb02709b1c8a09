//! The processes of a cgroup and of the cgroups below it: listing them, and signalling all of them.
//!
//! SIGKILL uses `cgroup.kill` (Linux 5.14), which is atomic. Other signals, and SIGKILL on v1, freeze the cgroup first, so
//! that no process escapes by a fork. Each process is signalled by a pidfd. The process is looked up in the cgroup before
//! and after the pidfd is opened, so a reused pid is never hit.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags},
};

use super::{
    dir::{Dir, gone},
    location::{Cgroup, Hierarchy},
    tree,
};
use crate::{
    error::{Context, Error, Kind, Result},
    sys,
};

/// The number of pidfds that are open at once.
const BATCH: usize = 256;

/// Longest time that SIGKILL is repeated for processes that still appear.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Cgroup {
    /// The pids of the processes in the cgroup and below it, in ascending order.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the cgroup does not exist.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let dir = &self.main_place()?.dir;
        tree::pids(dir)?.ok_or_else(|| Error::new(Kind::NotFound, format!("cgroup {} does not exist", dir.display())))
    }

    /// Sends `signal` to every process in the cgroup or below it, in all hierarchies, that is not in `sent`, and adds these
    /// processes to `sent`, also on error. Returns the number of processes that were there.
    ///
    /// A frozen cgroup stays frozen, except for SIGKILL, which has no effect in a frozen v1 cgroup. Processes that keep
    /// appearing are killed until `until`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the cgroup does not exist; the first process that cannot be signalled; processes that keep
    /// appearing.
    pub fn signal_all(&self, signal: i32, until: Instant, sent: &mut HashSet<i32>) -> Result<usize> {
        let members = members(self)?;
        if members.is_subset(sent) {
            return Ok(members.len());
        }
        if signal != libc::SIGKILL {
            let frozen_before = self.is_frozen()?;
            // If the freezer fails, the signal is still worth sending.
            let frozen_here = !frozen_before && self.freeze().is_ok();
            let done = send(self, signal, sent);
            if frozen_here {
                thaw_if_possible(self)?;
            }
            return done.map(|()| members.len());
        }
        if let Some(v2) = self.path_in("") {
            match Dir::open(v2).and_then(|dir| dir.write("cgroup.kill", "1")) {
                Ok(()) if self.hierarchy == Hierarchy::V2 => {
                    sent.extend(&members);
                    return Ok(members.len());
                }
                Ok(()) => {}
                Err(e) if gone(&e) => {}
                Err(e) => return Err(e),
            }
        }
        kill_by_freezing(self, until, sent).map(|()| members.len())
    }
}

/// The processes of the cgroup in all hierarchies. Other software may have moved a process in some of them only.
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

/// Sends SIGKILL on v1 until every process has got it. In hybrid mode `cgroup.kill` may have missed a process that is
/// elsewhere in the v2 hierarchy.
fn kill_by_freezing(cgroup: &Cgroup, until: Instant, sent: &mut HashSet<i32>) -> Result<()> {
    let until = until.min(Instant::now() + KILL_TIMEOUT);
    loop {
        let before = sent.len();
        let froze = cgroup.freeze();
        let done = send(cgroup, libc::SIGKILL, sent);
        // Also if the freeze has failed: in a v1 freezer even SIGKILL waits for the thaw.
        thaw_if_possible(cgroup)?;
        done?;
        // No process could fork while it was frozen, or no new one has appeared: all have got the signal.
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

/// Thaws the cgroup, if it still exists and has a freezer.
fn thaw_if_possible(cgroup: &Cgroup) -> Result<()> {
    match cgroup.thaw() {
        Err(e) if gone(&e) || e.kind() == Kind::Unsupported => Ok(()),
        thawed => thawed,
    }
}

/// Signals the processes of the cgroup in all hierarchies, each once. Goes on after a failure and returns the first one.
fn send(cgroup: &Cgroup, signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
    cgroup.places.iter().map(|place| send_in(&place.dir, signal, sent)).fold(Ok(()), Result::and)
}

/// Signals all processes of one directory that are not in `sent`, and adds them. Goes on after a failure and returns the
/// first one.
fn send_in(path: &Path, signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
    let Some(pids) = tree::pids(path)? else { return Ok(()) };
    let new: Vec<i32> = pids.into_iter().filter(|p| !sent.contains(p)).collect();
    let (mut left, mut size) = (new.as_slice(), BATCH);
    let mut failed = Ok(());
    while let Some(batch) = left.chunks(size).next() {
        let open = match open_members(path, batch) {
            Ok(open) => open,
            // Many pidfds need many descriptors, one needs one.
            Err(e) if size > 1 && matches!(e.errno(), Some(libc::EMFILE | libc::ENFILE)) => {
                size = 1;
                continue;
            }
            Err(e) => return failed.and(Err(e)),
        };
        failed = failed.and(send_each(&open, signal, sent));
        left = left.get(batch.len()..).unwrap_or_default();
    }
    failed
}

/// Opens pidfds of the processes among `pids` that are in the cgroup before and after.
fn open_members(path: &Path, pids: &[i32]) -> Result<Vec<(i32, OwnedFd)>> {
    let mut open: Vec<(i32, OwnedFd)> = Vec::with_capacity(pids.len());
    for pid in pids.iter().copied() {
        let Some(raw) = Pid::from_raw(pid) else { continue };
        match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => open.push((pid, fd)),
            // The process is gone, or (EINVAL) is no longer a thread group leader: both mean that it has ended.
            Err(Errno::SRCH | Errno::INVAL) => {}
            Err(e) => return Err(Error::from(e).context(format!("open process {pid}"))),
        }
    }
    let still: HashSet<i32> = tree::pids(path)?.unwrap_or_default().into_iter().collect();
    open.retain(|(pid, _)| still.contains(pid));
    Ok(open)
}

fn send_each(open: &[(i32, OwnedFd)], signal: i32, sent: &mut HashSet<i32>) -> Result<()> {
    let mut failed = Ok(());
    for (pid, fd) in open {
        match sys::send_signal(fd.as_fd(), signal) {
            Err(e) if e.errno() != Some(libc::ESRCH) => {
                failed = failed.and(Err(e).with_context(|| format!("signal process {pid}")));
            }
            _ => {
                sent.insert(*pid);
            }
        }
    }
    failed
}
