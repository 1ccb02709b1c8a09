//! Out of memory: how many processes the kernel has killed for it, and an fd that becomes readable when it may be more.
//!
//! v1 tells by an eventfd before it kills, so the count may come a moment after the wake-up; who waits asks again when a
//! process of the container ends. v2 tells by inotify after the count has grown. The count that matters is `oom_kill`,
//! on both: `oom` also counts allocations that failed and killed nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{event::EventfdFlags, fs::inotify, io::Errno};

use super::{
    Cgroup, Hierarchy,
    dir::{Dir, gone, retry},
};
use crate::error::{Context, Error, Kind, Result};

/// Watches a cgroup for OOM kills. Poll it for reading, then [`OomWatch::drain`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    counter: OwnedFd,
    seen: u64,
}

impl OomWatch {
    /// How many processes have been OOM killed since the last call (the first: since the watch was made). Never
    /// blocks. A cgroup that is gone has no more.
    pub fn drain(&mut self) -> Result<u64> {
        let mut events = [0_u8; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut events) {
                Ok(n) if n == events.len() => {}
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).context("read OOM events"),
            }
        }
        let now = match count(&self.counter) {
            Ok(now) => now,
            Err(Errno::NODEV | Errno::NOENT) => return Ok(0),
            Err(e) => return Err(e).context("read OOM counter"),
        };
        let new = now.saturating_sub(self.seen);
        self.seen = now.max(self.seen);
        Ok(new)
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
    let seen = count(&counter).context("read OOM counter")?;
    Ok(OomWatch { fd, counter, seen })
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
    Ok(match cgroup.hierarchy() {
        Hierarchy::V1 => (dir, "memory.oom_control"),
        Hierarchy::V2 => (dir, "memory.events"),
    })
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
