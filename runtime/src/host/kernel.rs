//! The kernel that berth needs: Linux 5.14, and none of its system calls forbidden.
//!
//! A call that is not there answers `ENOSYS`, on an older kernel and under a filter alike; whoever gets that far is told
//! which call it was ([`explain`]). What has a fallback is not in the list.

use crate::{Error, Kind, Result, sys};

/// The oldest kernel: that of `cgroup.kill`.
const FLOOR: (u32, u32) = (5, 14);

/// Calls without which nothing runs, and since when they are there: all their arguments are -1, so that a kernel which has
/// them answers with another error at once.
const REQUIRED: [(&str, libc::c_long, &str); 13] = [
    ("clone3", libc::SYS_clone3, "5.3"),
    ("close_range", libc::SYS_close_range, "5.9"),
    ("fsconfig", libc::SYS_fsconfig, "5.2"),
    ("fsmount", libc::SYS_fsmount, "5.2"),
    ("fsopen", libc::SYS_fsopen, "5.2"),
    ("mount_setattr", libc::SYS_mount_setattr, "5.12"),
    ("move_mount", libc::SYS_move_mount, "5.2"),
    ("open_tree", libc::SYS_open_tree, "5.2"),
    ("openat2", libc::SYS_openat2, "5.6"),
    ("pidfd_open", libc::SYS_pidfd_open, "5.3"),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, "5.1"),
    ("seccomp", libc::SYS_seccomp, "3.17"),
    ("setns", libc::SYS_setns, "3.0"),
];

/// Refuses a kernel that is too old.
///
/// # Errors
/// [`Kind::Unsupported`], naming it.
pub fn check() -> Result<()> {
    let release = release();
    match version(&release) {
        Some(found) if found < FLOOR => Err(too_old(&release)),
        _ => Ok(()),
    }
}

/// Puts before an error of a missing call which one it is.
#[must_use]
pub fn explain(error: Error) -> Error {
    if error.errno() != Some(libc::ENOSYS) {
        return error;
    }
    let missing = REQUIRED.iter().filter(|(_, number, _)| !sys::has_call(*number));
    let missing: Vec<String> = missing.map(|(name, _, since)| format!("{name} (Linux {since})")).collect();
    if missing.is_empty() {
        return error;
    }
    let (major, minor) = FLOOR;
    let (missing, release) = (missing.join(", "), release());
    let what = format!("berth needs Linux {major}.{minor} or later; this one, {release}, lacks or forbids {missing}");
    error.with_kind(Kind::Unsupported).context(what)
}

fn too_old(release: &str) -> Error {
    let (major, minor) = FLOOR;
    Error::unsupported(format!("berth needs Linux {major}.{minor} or later, this is {release}"))
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first two numbers of a release: `6.1.0-18-amd64`, `5.14-rc3`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, numbers) in
            [("6.1.0-18-amd64", Some((6, 1))), ("5.14-rc3", Some((5, 14))), ("5.4.0", Some((5, 4))), ("x", None)]
        {
            assert_eq!(version(release), numbers, "{release}");
        }
        assert!(version("5.9.12") < Some(FLOOR) && version("5.14.0") >= Some(FLOOR) && version("6.0") > Some(FLOOR));
        check().unwrap();
    }

    #[test]
    fn only_a_missing_call_is_explained() {
        let error = |errno| explain(Error::from_errno(errno).context("open x")).to_string();
        assert_eq!(error(libc::EPERM), "open x: operation not permitted");
        // This kernel has them all.
        assert_eq!(error(libc::ENOSYS), "open x: function not implemented");
    }
}
