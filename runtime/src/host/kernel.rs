//! Checks that the kernel is Linux 5.14 or later and forbids none of the system calls that berth needs.
//!
//! A missing call returns `ENOSYS`, on an older kernel and under a seccomp filter alike. [`explain`] then names the
//! call. Calls with a fallback are not in the list.

use crate::{Context, Error, Kind, Result, sys};

/// The oldest supported kernel, which has `cgroup.kill`.
pub const FLOOR: (u32, u32) = (5, 14);

/// The required calls, and the kernel version that introduced each. With all arguments -1 each of them fails at once
/// with an error other than `ENOSYS`.
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

/// Calls with a fallback, as [`REQUIRED`].
const OPTIONAL: [(&str, libc::c_long, &str); 3] = [
    ("faccessat2", libc::SYS_faccessat2, "5.8"),
    ("fchmodat2", libc::SYS_fchmodat2, "6.6"),
    ("keyctl", libc::SYS_keyctl, "2.6"),
];

/// A system call that berth uses.
#[derive(Debug)]
pub struct Call {
    /// The name.
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    /// This kernel has it, and no seccomp filter around this process hides it with `ENOSYS`.
    pub present: bool,
}

/// The calls that berth cannot do without, and the calls that have a fallback.
#[must_use]
pub fn calls() -> [Vec<Call>; 2] {
    let probe = |&(name, number, since): &(_, _, _)| Call { name, since, present: sys::has_call(number) };
    [REQUIRED.iter().map(probe).collect(), OPTIONAL.iter().map(probe).collect()]
}

/// Checks the kernel's release, and that /proc is a proc file system: the runtime trusts it for the identity of processes.
///
/// # Errors
/// [`Kind::Unsupported`] with the release if it is too old. [`Kind::FailedPrecondition`] for another /proc.
pub fn check() -> Result<()> {
    let release = release();
    match version(&release) {
        Some(found) if found < FLOOR => Err(too_old(&release)),
        _ => check_procfs("/proc"),
    }
}

fn check_procfs(path: &str) -> Result<()> {
    let found = rustix::fs::statfs(path).with_context(|| format!("statfs {path}"))?.f_type;
    if found == rustix::fs::PROC_SUPER_MAGIC {
        return Ok(());
    }
    let text = format!("refusing to run: {path} is no proc file system (its type is {found:#x})");
    Err(Error::new(Kind::FailedPrecondition, text))
}

/// Adds the names of missing calls to an `ENOSYS` error. Returns any other error unchanged.
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

/// The release of this kernel, as uname(2) has it.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Returns the first two numbers of a release such as `6.1.0-18-amd64` or `5.14-rc3`.
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_parsed_and_compared() {
        for (release, numbers) in
            [("6.1.0-18-amd64", Some((6, 1))), ("5.14-rc3", Some((5, 14))), ("5.4.0", Some((5, 4))), ("x", None)]
        {
            assert_eq!(version(release), numbers, "{release}");
        }
        assert!(version("5.9.12") < Some(FLOOR) && version("5.14.0") >= Some(FLOOR) && version("6.0") > Some(FLOOR));
        check().unwrap();
    }

    #[test]
    fn this_kernel_has_each_required_call() {
        let [required, optional] = calls();
        assert!(required.iter().all(|call| call.present), "{required:?}");
        assert_eq!((required.len(), optional.len()), (13, 3));
    }

    #[test]
    fn another_file_system_at_proc_is_refused() {
        check_procfs("/proc").unwrap();
        let refused = check_procfs("/dev/shm").unwrap_err();
        assert!(refused.to_string().starts_with("refusing to run: /dev/shm is no proc file system"), "{refused}");
    }

    #[test]
    fn only_enosys_errors_name_missing_calls() {
        let error = |errno| explain(Error::from_errno(errno).context("open x")).to_string();
        assert_eq!(error(libc::EPERM), "open x: operation not permitted");
        // The kernel of this machine has all required calls.
        assert_eq!(error(libc::ENOSYS), "open x: function not implemented");
    }
}
