//! The kernel's count of OOM kills in a cgroup.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::cgroup::{dir::retry, location::Hierarchy};

/// The name of the file with the count.
pub(super) fn file(hierarchy: Hierarchy) -> &'static str {
    match hierarchy {
        Hierarchy::V1 => "memory.oom_control",
        Hierarchy::V2 => "memory.events",
    }
}

/// Reads the number in the line `oom_kill`, from the start of the file.
///
/// # Errors
/// As pread(2).
pub(super) fn count(fd: &OwnedFd) -> Result<u64, Errno> {
    let mut text = [0_u8; 512];
    let n = retry(|| rustix::io::pread(fd, &mut text, 0))?;
    Ok(oom_kill(text.get(..n).unwrap_or_default()))
}

pub(in crate::cgroup) fn oom_kill(text: &[u8]) -> u64 {
    let lines = text.split(|b| *b == b'\n').filter_map(|l| std::str::from_utf8(l).ok());
    lines.filter_map(|l| l.strip_prefix("oom_kill ")).find_map(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kill_is_counted_and_not_oom() {
        assert_eq!(oom_kill(b"low 0\nhigh 0\nmax 5\noom 9\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(oom_kill(b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kill(b"oom_kill_disable 1\n"), 0);
    }
}
