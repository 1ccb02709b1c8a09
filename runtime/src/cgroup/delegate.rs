//! A cgroup handed to the user of its container (config-linux.md, "Cgroup ownership"): v2 alone, since a v1 controller lets
//! its owner take more than it was given.

use std::collections::HashSet;

use rustix::{
    fs::{AtFlags, Uid, chownat},
    io::Errno,
};

use super::dir::Dir;
use crate::error::{Context, Result};

/// Where the kernel lists the files that go with a delegated directory, Linux 4.15.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// What they are where it does not (cgroups(7)).
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Gives the directory and the files by which it is divided to `uid`; limits stay the host's.
pub(super) fn delegate(dir: &Dir, uid: u32) -> Result<()> {
    let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| FILES.to_owned());
    let uid = Uid::from_raw(uid);
    let what = |file: &str| format!("chown {} to {uid}", dir.path().join(file).display());
    chownat(dir, "", Some(uid), None, AtFlags::EMPTY_PATH).with_context(|| what(""))?;
    for file in names(&list) {
        match chownat(dir, file, Some(uid), None, AtFlags::SYMLINK_NOFOLLOW) {
            // That controller is not enabled here.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| what(file)),
        }
    }
    Ok(())
}

/// Names of files in the directory itself.
fn names(list: &str) -> HashSet<&str> {
    list.lines().filter(|name| !name.is_empty() && !name.contains('/') && *name != "..").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_directory_are_given_away() {
        assert_eq!(
            names("cgroup.procs\n../cgroup.procs\n\n..\nmemory.reclaim"),
            ["cgroup.procs", "memory.reclaim"].into()
        );
        assert_eq!(names(FILES).len(), 3);
    }
}
