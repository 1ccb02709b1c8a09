//! OOM kills: their number, and an fd that becomes readable when the number may have grown.
//!
//! On v1 an eventfd is signalled before the kill, so the count may grow a moment later; the caller reads it again when a
//! process of the container exits. On v2 inotify reports a change of the count. `oom_kill` is the count on both. `oom` also
//! counts failed allocations without a kill.
//!
//! systemd removes the cgroup of a scope together with its count when the last process exits, maybe before the count is
//! read. [`OomWatch::lost`] then estimates the count.

pub(super) mod counter;
mod parent;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{event::EventfdFlags, fs::inotify, io::Errno};
use serde::{Deserialize, Serialize};

use self::{
    counter::{count, file},
    parent::Parent,
};
use super::{
    dir::{Dir, gone},
    location::{Cgroup, Hierarchy},
};
use crate::error::{Context, Error, Kind, Result};

/// A watch for OOM kills in a cgroup. When it becomes readable, call [`OomWatch::drain`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    counter: OwnedFd,
    seen: u64,
    /// On v1: the cgroup was out of memory at least once.
    alarmed: bool,
    /// Kills have been reported since the watch was made.
    reported: bool,
    gone: bool,
    /// On v2 with the systemd driver, where the cgroup may vanish: the count of the parent cgroup.
    parent: Option<Arc<Parent>>,
}

/// The state of a watch besides its two descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OomCount {
    /// The number of kills that are reported.
    pub seen: u64,
    /// On v1: the cgroup was out of memory at least once.
    pub alarmed: bool,
    /// Kills have been reported since the watch was made.
    pub reported: bool,
    /// The cgroup is gone.
    pub gone: bool,
    /// The number of kills in the parent cgroup that are accounted for, where it is watched.
    pub parent: Option<u64>,
}

impl OomWatch {
    /// The watched descriptor, the counter, and the rest, for another program of this process.
    pub fn parts(&self) -> ([&OwnedFd; 2], OomCount) {
        let Self { fd, counter, seen, alarmed, reported, gone, parent } = self;
        let parent = parent.as_ref().map(|parent| parent.count_accounted());
        ([fd, counter], OomCount { seen: *seen, alarmed: *alarmed, reported: *reported, gone: *gone, parent })
    }

    /// Makes a watch of its parts. `cgroup` is the container's.
    pub fn from_parts([fd, counter]: [OwnedFd; 2], count: &OomCount, cgroup: &Cgroup) -> Self {
        let OomCount { seen, alarmed, reported, gone, parent } = *count;
        let parent = parent.and_then(|accounted| Parent::again(cgroup.path_in("memory")?, accounted));
        Self { fd, counter, seen, alarmed, reported, gone, parent }
    }

    /// The number of OOM kills since the last call, or since the watch was made. Does not block. 0 if the cgroup is gone.
    ///
    /// # Errors
    /// The events or the count cannot be read.
    pub fn drain(&mut self) -> Result<u64> {
        let alarms = self.take_events()?;
        let now = match count(&self.counter) {
            Ok(now) => now,
            Err(Errno::NODEV | Errno::NOENT) => {
                self.gone = true;
                // The removal of the cgroup signals the eventfd as well.
                self.alarmed |= alarms > 1;
                return Ok(0);
            }
            Err(e) => return Err(e).context("read OOM counter"),
        };
        self.alarmed |= alarms > 0;
        let new = now.saturating_sub(self.seen);
        self.seen = now.max(self.seen);
        self.reported |= new > 0;
        if let Some(parent) = &self.parent {
            parent.report(new);
        }
        Ok(new)
    }

    /// The number of OOM kills of a cgroup that was removed before its count was read, as far as it is known; 0 if
    /// [`OomWatch::drain`] has reported any. The caller asks only if a process was killed. On v2 it is the number of kills in
    /// the parent cgroup that no watch has reported, on v1 whether the cgroup was out of memory at all.
    pub fn lost(&mut self) -> u64 {
        if !self.gone {
            return 0;
        }
        let unreported = match &self.parent {
            Some(parent) => parent.take_unreported(),
            None => u64::from(self.alarmed),
        };
        let lost = if self.reported { 0 } else { unreported };
        self.reported |= lost > 0;
        lost
    }

    /// Empties the fd. For an eventfd (v1) returns how often it was signalled; for inotify the number means nothing.
    fn take_events(&self) -> Result<u64> {
        let mut events = [0_u8; 4096];
        let mut first = 0;
        loop {
            match rustix::io::read(&self.fd, &mut events) {
                Ok(n) if n == events.len() => {}
                Ok(8) => {
                    if let Some(bytes) = events.first_chunk() {
                        first = u64::from_ne_bytes(*bytes);
                    }
                    break;
                }
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).context("read OOM events"),
            }
        }
        Ok(first)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Cgroup {
    /// Watches the cgroup for OOM kills.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] without a memory controller; [`Kind::NotFound`] if the cgroup does not exist.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let (dir, file) = memory(self)?;
        let counter = open_counter(&dir, file)?;
        let fd = match self.hierarchy {
            Hierarchy::V1 => {
                let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .context("make eventfd")?;
                // cgroup-v1/memory, section 9: "<eventfd> <fd of memory.oom_control>".
                let line = format!("{} {}", event.as_raw_fd(), counter.as_raw_fd());
                dir.write("cgroup.event_control", &line).context("watch memory.oom_control")?;
                event
            }
            Hierarchy::V2 => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let fd = inotify::init(flags).context("make inotify")?;
                let path = dir.path().join(file);
                inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)
                    .with_context(|| format!("watch {}", path.display()))?;
                fd
            }
        };
        let parent = match self.hierarchy {
            Hierarchy::V2 if self.is_by_systemd() => Parent::of(dir.path()),
            _ => None,
        };
        let seen = count(&counter).context("read OOM counter")?;
        Ok(OomWatch { fd, counter, seen, alarmed: false, reported: false, gone: false, parent })
    }

    /// The number of processes that the OOM killer has killed since the cgroup was made.
    ///
    /// # Errors
    /// As [`Cgroup::oom_watch`].
    pub fn oom_kills(&self) -> Result<u64> {
        let (dir, file) = memory(self)?;
        let counter = open_counter(&dir, file)?;
        count(&counter).with_context(|| format!("read {}", dir.path().join(file).display()))
    }
}

fn open_counter(dir: &Dir, file: &str) -> Result<OwnedFd> {
    let no_memory = |e: &Error| Error::unsupported(format!("memory controller is not available: {e}"));
    dir.reader(file).map_err(|e| if gone(&e) { no_memory(&e) } else { e })
}

/// The directory of the memory controller, and the name of the file with the count.
fn memory(cgroup: &Cgroup) -> Result<(Dir, &'static str)> {
    let path = cgroup.path_in("memory").ok_or_else(|| Error::unsupported("memory controller is not mounted"))?;
    let dir = Dir::open(path).map_err(|e| if gone(&e) { e.with_kind(Kind::NotFound) } else { e })?;
    Ok((dir, file(cgroup.hierarchy)))
}
