//! Signals that this process ignores: a clone and an execve(2) pass that on (signal(7)), and neither a payload nor a
//! program that is started expects it. Most callers have SIGPIPE ignored by now, nohup(1) SIGHUP, a shell's background
//! job SIGINT and SIGQUIT.

use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

/// The ignored signals, by bit: 0 is signal 1. Asked for once.
pub fn ignored() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    // Without an answer all of them may be.
    *IGNORED.get_or_init(|| ask().unwrap_or(!0))
}

/// In one read: this file is shorter.
fn ask() -> Option<u64> {
    let file = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; 8192];
    let len = rustix::io::read(file, &mut buffer).ok()?;
    parse(&String::from_utf8_lossy(buffer.get(..len)?))
}

/// `SigIgn:` of proc(5).
fn parse(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_mask_is_read() {
        assert_eq!(parse("SigBlk:\t0000000000000001\nSigIgn:\t8000000000001001\n"), Some(1 << 63 | 1 << 12 | 1));
        assert_eq!((parse("SigIgn:\tx\n"), parse("")), (None, None));
        // Every Rust program ignores SIGPIPE.
        assert_ne!(ignored() & 1 << (libc::SIGPIPE - 1), 0);
    }
}
