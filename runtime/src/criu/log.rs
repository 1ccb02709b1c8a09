//! Reads the reason of a failure from CRIU's log.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::fd::BorrowedFd,
};

use rustix::fs::{Mode, OFlags, openat};

/// Most bytes at the end of a log that are searched.
const MAX: u64 = 256 << 10;

/// Returns the first line of the log `name` that tells an error, without its time and level. `None` if there is none.
pub fn first_error(dir: BorrowedFd<'_>, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::empty()).ok()?);
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX).read_to_end(&mut bytes).ok()?;
    first_error_of(&String::from_utf8_lossy(&bytes))
}

/// Lines such as `(00.012345) Error (criu/cr-dump.c:123): why`. The first error tells the reason, and later ones its
/// consequences. Without CAP_SYS_RESOURCE CRIU first tells that it cannot raise its limit of open files, and goes on.
fn first_error_of(log: &str) -> Option<String> {
    let mut errors = log.lines().filter_map(|line| Some(line.split_once("Error (")?.1.split_once("): ")?.1));
    let text = errors.find(|text| !text.starts_with("rlimit: "))?;
    Some(text.chars().filter(|c| !c.is_control()).take(400).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_a_failure_is_found_in_the_log() {
        let log = "(00.1) Dumping\n(00.1) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE\n(00.2) Error (criu/files-reg.c:1629): Can't lookup mount=29 for fd=1 path=/x\n\
                   (00.3) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(first_error_of(log).unwrap(), "Can't lookup mount=29 for fd=1 path=/x");
        let end = "(00.3) Error (criu/cr-dump.c:2111): Dumping FAILED.";
        assert_eq!(first_error_of(end).unwrap(), "Dumping FAILED.");
        assert_eq!(first_error_of("(00.1) Warn  (x): no\n"), None);
    }
}
