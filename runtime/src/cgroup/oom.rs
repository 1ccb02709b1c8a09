//! Out of memory: how many processes the kernel has killed for it, and an fd that becomes readable when it may be more.
//!
//! v1 tells by an eventfd before it kills, so the count may come a moment after the wake-up; who waits asks again when a
//! process of the container ends. v2 tells by inotify after the count has grown. The count that matters is `oom_kill`,
//! on both: `oom` also counts allocations that failed and killed nobody.
//!
//! systemd removes the cgroup of a scope as soon as nobody is in it, and the count goes with it, maybe before it is read:
//! then [`OomWatch::lost`] says what is still known.

mod above;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{event::EventfdFlags, fs::inotify, io::Errno};

use self::above::Above;
use super::{
    Cgroup, Driver, Hierarchy,
    dir::{Dir, gone, retry},
};
use crate::error::{Context, Error, Kind, Result};

/// Watches a cgroup for OOM kills. Poll it for reading, then [`OomWatch::drain`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    counter: OwnedFd,
    seen: u64,
    /// v1: the kernel was out of memory for this cgroup at least once.
    alarmed: bool,
    /// Kills have been counted since the watch was made.
    told: bool,
    gone: bool,
    /// v2, where somebody else removes the cgroup.
    above: Option<Arc<Above>>,
}

impl OomWatch {
    /// How many processes have been OOM killed since the last call (the first: since the watch was made). Never
    /// blocks. A cgroup that is gone has no more.
    pub fn drain(&mut self) -> Result<u64> {
        let alarms = self.take_events()?;
        let now = match count(&self.counter) {
            Ok(now) => now,
            Err(Errno::NODEV | Errno::NOENT) => {
                self.gone = true;
                // An eventfd is told of the end, too.
                self.alarmed |= alarms > 1;
                return Ok(0);
            }
            Err(e) => return Err(e).context("read OOM counter"),
        };
        self.alarmed |= alarms > 0;
        let new = now.saturating_sub(self.seen);
        self.seen = now.max(self.seen);
        self.told |= new > 0;
        if let Some(above) = &self.above {
            above.tell(new);
        }
        Ok(new)
    }

    /// How many processes were OOM killed as far as can be told of a cgroup that went away before its count was read; 0
    /// where [`OomWatch::drain`] has told of any. To be asked only when a process was killed: on v2 it is what the cgroup
    /// above counts and nobody has told of, on v1 whether memory was short at all.
    pub fn lost(&mut self) -> u64 {
        if !self.gone {
            return 0;
        }
        let untold = match &self.above {
            Some(above) => above.untold(),
            None => u64::from(self.alarmed),
        };
        let lost = if self.told { 0 } else { untold };
        self.told |= lost > 0;
        lost
    }

    /// Takes what has come on the fd. For an eventfd (v1) how often it was signalled, else meaningless.
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

/// See [`Cgroup::oom_watch`].
pub(super) fn watch(cgroup: &Cgroup) -> Result<OomWatch> {
    let (dir, file) = memory(cgroup)?;
    let counter = dir.reader(file).map_err(|e| if gone(&e) { no_memory(&e) } else { e })?;
    let fd = match cgroup.hierarchy() {
        Hierarchy::V1 => {
            let event =
                rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make eventfd")?;
            // cgroup-v1/memory, section 9: "<eventfd> <fd of memory.oom_control>".
            let line = format!("{} {}", raw(&event), raw(&counter));
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
    let above = match (&cgroup.driver, cgroup.hierarchy()) {
        (Driver::Systemd(_), Hierarchy::V2) => above::of(dir.path()),
        _ => None,
    };
    let seen = count(&counter).context("read OOM counter")?;
    Ok(OomWatch { fd, counter, seen, alarmed: false, told: false, gone: false, above })
}

/// See [`Cgroup::oom_kills`].
pub(super) fn kills(cgroup: &Cgroup) -> Result<u64> {
    let (dir, file) = memory(cgroup)?;
    let counter = dir.reader(file).map_err(|e| if gone(&e) { no_memory(&e) } else { e })?;
    count(&counter).with_context(|| format!("read {}", dir.path().join(file).display()))
}

fn memory(cgroup: &Cgroup) -> Result<(Dir, &'static str)> {
    let path = cgroup.path_in("memory").ok_or_else(|| Error::unsupported("memory controller is not mounted"))?;
    let dir = Dir::open(path).map_err(|e| if gone(&e) { e.with_kind(Kind::NotFound) } else { e })?;
    Ok((dir, oom_file(cgroup.hierarchy())))
}

fn oom_file(hierarchy: Hierarchy) -> &'static str {
    match hierarchy {
        Hierarchy::V1 => "memory.oom_control",
        Hierarchy::V2 => "memory.events",
    }
}

fn no_memory(e: &Error) -> Error {
    Error::unsupported(format!("memory controller is not available: {e}"))
}

/// The `oom_kill` line, read anew from the start.
fn count(fd: &OwnedFd) -> Result<u64, Errno> {
    let mut text = [0_u8; 512];
    let n = retry(|| rustix::io::pread(fd, &mut text, 0))?;
    Ok(oom_kill(text.get(..n).unwrap_or_default()))
}

fn oom_kill(text: &[u8]) -> u64 {
    let lines = text.split(|b| *b == b'\n').filter_map(|l| std::str::from_utf8(l).ok());
    lines.filter_map(|l| l.strip_prefix("oom_kill ")).find_map(|v| v.parse().ok()).unwrap_or(0)
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kill_counter_not_the_oom_counter() {
        assert_eq!(oom_kill(b"low 0\nhigh 0\nmax 5\noom 9\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(oom_kill(b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kill(b"oom_kill_disable 1\n"), 0);
    }
}
