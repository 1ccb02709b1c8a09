//! Freezing and thawing all processes of a cgroup (kernel documentation, admin-guide/cgroup-v1/freezer-subsystem and
//! admin-guide/cgroup-v2).
//!
//! On v1 `freezer.state` may stay FREEZING while new processes appear. On v2 `cgroup.freeze` requests a freeze, and
//! `cgroup.events` reports the result.

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    dir::{Dir, gone, read_to_end, retry},
    location::{Cgroup, Hierarchy},
    tree,
};
use crate::error::{Context, Error, Kind, Result};

/// The number of attempts at a v1 freeze; runc's number, found by experience.
const TRIES: u32 = 1000;

/// The time limit of a v2 freeze: a process in an uninterruptible wait does not freeze.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes all processes and waits until they are frozen. If that fails, thaws them again: half a freeze is worse than
    /// none.
    ///
    /// # Errors
    /// A process does not freeze in time (v2: 10 s); there is no freezer ([`Kind::Unsupported`]).
    pub fn freeze(&self) -> Result<()> {
        let dir = self.freezer()?;
        let frozen = match self.hierarchy {
            Hierarchy::V1 => freeze_v1(&dir),
            Hierarchy::V2 => dir.write("cgroup.freeze", "1").and_then(|()| wait_frozen_v2(&dir)),
        };
        if frozen.is_err() {
            let _ = thaw(self.hierarchy, &dir);
        }
        frozen.context("freeze")
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// The kernel refuses; there is no freezer ([`Kind::Unsupported`]).
    pub fn thaw(&self) -> Result<()> {
        thaw(self.hierarchy, &self.freezer()?)
    }

    /// Whether [`Cgroup::freeze`] freezes process `pid`.
    ///
    /// # Errors
    /// There is no freezer ([`Kind::Unsupported`]).
    pub fn freezer_reaches(&self, pid: i32) -> Result<bool> {
        Ok(tree::pids(self.freezer()?.path())?.is_some_and(|pids| pids.contains(&pid)))
    }

    /// Whether [`Cgroup::freeze`] has frozen this cgroup. Waits for a freeze that is not complete. False if only a parent is
    /// frozen, if there is no freezer, or if the cgroup is gone.
    ///
    /// # Errors
    /// The files cannot be read; the freeze does not complete.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Ok(dir) => is_frozen(&dir),
            Err(e) if gone(&e) || e.kind() == Kind::Unsupported => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn freezer(&self) -> Result<Dir> {
        let why = if self.rootless {
            "cannot toggle freezer: cgroups not configured for container"
        } else {
            "freezer controller is not mounted"
        };
        let path = self.path_in("freezer").ok_or_else(|| Error::unsupported(why))?;
        Dir::open(path)
    }
}

fn thaw(hierarchy: Hierarchy, dir: &Dir) -> Result<()> {
    match hierarchy {
        Hierarchy::V1 => dir.write("freezer.state", "THAWED"),
        Hierarchy::V2 => dir.write("cgroup.freeze", "0"),
    }
    .context("thaw")
}

fn freeze_v1(dir: &Dir) -> Result<()> {
    for n in 0..TRIES {
        if n % 50 == 49 {
            // New processes keep the cgroup in FREEZING; a thaw and a new start help.
            thaw(Hierarchy::V1, dir)?;
            thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN")?;
        if n % 25 == 24 {
            thread::sleep(Duration::from_micros(10));
        }
        match dir.read("freezer.state")?.trim() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            other => return Err(Error::new(Kind::Internal, format!("unexpected state {other} while freezing"))),
        }
    }
    Err(Error::new(Kind::Internal, "unable to freeze"))
}

/// Whether a freeze of this cgroup itself (not of a parent) was requested. False if there is no freezer, or if the cgroup is
/// gone.
pub(super) fn is_freeze_requested(dir: &Dir) -> Result<bool> {
    for file in ["cgroup.freeze", "freezer.self_freezing"] {
        if let Some(text) = dir.read_if_there(file)? {
            return Ok(text.trim() == "1");
        }
    }
    Ok(false)
}

/// Waits until `cgroup.events` says that the cgroup is frozen. poll(2) reports a change of the file as POLLPRI.
fn wait_frozen_v2(dir: &Dir) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let file = dir.reader("cgroup.events")?;
    loop {
        let mut text = Vec::new();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).context("read cgroup.events")?;
        read_to_end(file.as_fd(), &mut text).context("read cgroup.events")?;
        if text.split(|b| *b == b'\n').any(|line| line == b"frozen 1") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("unable to freeze: timeout of {} s reached", PATIENCE.as_secs());
            return Err(Error::new(Kind::Internal, text));
        }
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        retry(|| rustix::event::poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left)))
            .context("wait for cgroup.events")?;
    }
}

fn is_frozen(dir: &Dir) -> Result<bool> {
    for _ in 0..TRIES {
        if !is_freeze_requested(dir)? {
            return Ok(false);
        }
        let complete = match dir.read("freezer.state") {
            Ok(state) => state.trim() == "FROZEN",
            Err(e) if gone(&e) => match dir.read_if_there("cgroup.events")? {
                Some(events) => events.lines().any(|l| l == "frozen 1"),
                None => return Ok(false),
            },
            Err(e) => return Err(e),
        };
        if complete {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(Error::new(Kind::Internal, format!("{}: the freeze does not complete", dir.path().display())))
}
