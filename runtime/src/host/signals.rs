//! The signals that this process ignores.
//!
//! clone(2) and execve(2) inherit ignored signals (signal(7)). Payloads and started programs must not: most callers
//! ignore SIGPIPE, nohup(1) ignores SIGHUP, and a shell's background job ignores SIGINT and SIGQUIT.

use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

/// Returns the ignored signals as a mask, bit 0 for signal 1. Reads it once.
pub fn ignored() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    // If the file cannot be read, any signal may be ignored.
    *IGNORED.get_or_init(|| read_ignored().unwrap_or(!0))
}

/// Reads /proc/self/status, which fits in one read.
fn read_ignored() -> Option<u64> {
    let file = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; 8192];
    let len = rustix::io::read(file, &mut buffer).ok()?;
    parse(&String::from_utf8_lossy(buffer.get(..len)?))
}

/// Parses `SigIgn:` of proc_pid_status(5).
fn parse(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_proc_status() {
        assert_eq!(parse("SigBlk:\t0000000000000001\nSigIgn:\t8000000000001001\n"), Some(1 << 63 | 1 << 12 | 1));
        assert_eq!((parse("SigIgn:\tx\n"), parse("")), (None, None));
        // Rust's runtime ignores SIGPIPE in every program.
        assert_ne!(ignored() & 1 << (libc::SIGPIPE - 1), 0);
    }
}
