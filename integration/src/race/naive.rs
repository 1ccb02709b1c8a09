//! Programs that check a path and then act by its name. A swapper that no such program meets proves nothing.

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

/// Attempts of one call. They are tight, so that the swapper meets one even if both have one CPU.
const ATTEMPTS: usize = 20;

/// Acts [`ATTEMPTS`] times on a path that has just been no link.
fn checked(path: &Path, act: impl Fn(&Path)) {
    for _ in 0..ATTEMPTS {
        if fs::symlink_metadata(path).is_ok_and(|seen| !seen.is_symlink()) {
            act(path);
        }
    }
}

/// Makes a directory in the entry.
pub fn makes_directory(entry: &Path) -> bool {
    let inside = entry.join("made");
    checked(entry, |_| _ = fs::create_dir(&inside));
    false
}

/// Writes to the entry.
pub fn writes(entry: &Path) -> bool {
    checked(entry, |path| _ = fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(b"1")));
    false
}

/// Sets the mode of the entry.
pub fn sets_mode(entry: &Path) -> bool {
    checked(entry, |path| _ = fs::set_permissions(path, fs::Permissions::from_mode(0o777)));
    false
}

/// Reads the entry, or a file in it.
pub fn reads(entry: &Path) -> bool {
    let inside = entry.join("sub/file");
    checked(entry, |path| _ = fs::read(path).or_else(|_| fs::read(&inside)));
    false
}

/// Runs a program in the entry.
pub fn runs(entry: &Path) -> bool {
    if fs::symlink_metadata(entry).is_ok_and(|seen| !seen.is_symlink()) {
        let _ = Command::new(entry.join("program")).stdin(Stdio::null()).status();
    }
    false
}

/// Mounts a directory or a file on the entry, in a mount namespace of its own. Returns true if a mount went over the
/// host's files.
pub fn mounts(entry: &Path) -> bool {
    let covers = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // Only a file goes over a file.
        let source = if entry.is_dir() { "/proc/self/fd" } else { "/proc/self/status" };
        checked(entry, |path| _ = mount_bind(source, path));
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        crate::mounts::parse(&table).iter().any(|mount| mount.point.contains("host_files"))
    };
    std::thread::scope(|scope| scope.spawn(covers).join().unwrap())
}
