//! Delegation of a cgroup to the user of its container (config-linux.md, "Cgroup ownership"). Only on v2: a v1 controller
//! lets the owner of a cgroup raise its limits.

use std::collections::HashSet;

use rustix::{
    fs::{AtFlags, Uid, chownat},
    io::Errno,
};

use super::{
    dir::Dir,
    location::{Cgroup, Hierarchy},
};
use crate::error::{Context, Result};

/// The kernel's list of the files to delegate with a directory, since Linux 4.15.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The files to delegate without that list (cgroups(7)).
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

impl Cgroup {
    /// Delegates the cgroup to user `uid` of the host. Does nothing on v1.
    ///
    /// # Errors
    /// Names the file whose owner cannot be changed.
    pub(super) fn delegate(&self, uid: u32) -> Result<()> {
        match self.hierarchy {
            Hierarchy::V1 => Ok(()),
            Hierarchy::V2 => delegate(&self.main_place()?.open()?, uid),
        }
    }
}

/// Changes the owner of the directory and of the files that divide it to `uid`. The files of limits keep their owner.
///
/// # Errors
/// Names the file.
pub(super) fn delegate(dir: &Dir, uid: u32) -> Result<()> {
    let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| FILES.to_owned());
    let uid = Uid::from_raw(uid);
    let what = |file: &str| format!("chown {} to {uid}", dir.path().join(file).display());
    chownat(dir, "", Some(uid), None, AtFlags::EMPTY_PATH).with_context(|| what(""))?;
    for file in names(&list) {
        match chownat(dir, file, Some(uid), None, AtFlags::SYMLINK_NOFOLLOW) {
            // The controller of this file is not enabled here.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| what(file)),
        }
    }
    Ok(())
}

/// The names in `list` of files in the directory itself.
fn names(list: &str) -> HashSet<&str> {
    list.lines().filter(|name| !name.is_empty() && !name.contains('/') && *name != "..").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_directory_are_delegated() {
        assert_eq!(
            names("cgroup.procs\n../cgroup.procs\n\n..\nmemory.reclaim"),
            ["cgroup.procs", "memory.reclaim"].into()
        );
        assert_eq!(names(FILES).len(), 3);
    }
}
