//! Walking and removing a cgroup with all cgroups below it.
//!
//! A container may own its subtree and nest cgroups without limit. So the walk holds one fd at a time, goes down by name and
//! up by `..`, and neither recurses nor builds paths.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::dir::{read_to_end, retry};
use crate::error::{Error, Result};

/// How long a removal waits for exiting processes.
const PATIENCE: Duration = Duration::from_secs(1);

/// The processes in `path` and below it, in ascending order. None if the cgroup does not exist.
///
/// # Errors
/// Names the cgroup.
pub(super) fn pids(path: &Path) -> Result<Option<Vec<i32>>> {
    let mut pids = Vec::new();
    let enter = |fd: BorrowedFd<'_>| read_pids(fd, &mut pids);
    let found = walk(path, enter, |_, _| Ok(())).map_err(|e| failed("read processes of", path, e))?;
    pids.sort_unstable();
    pids.dedup();
    Ok(found.then_some(pids))
}

/// Removes `path` and all cgroups below it, deepest first. A cgroup that does not exist is no error.
///
/// # Errors
/// Names the cgroup.
pub(super) fn remove(path: &Path, until: &Deadline) -> Result<()> {
    let removed = match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(()),
        Err(Errno::NOENT) => return Ok(()),
        // EBUSY means processes or children. The walk reports any other error; some (EROFS) are returned even if nothing is
        // there.
        Err(_) => walk(path, |_| Ok(()), |parent, name| until.rmdir(parent, name)),
    };
    match removed.and_then(|found| if found { until.rmdir_path(path) } else { Ok(()) }) {
        Ok(()) => Ok(()),
        Err(e) => Err(failed("remove", path, e)),
    }
}

/// The end of the wait for busy cgroups, for all hierarchies of a container together.
pub(super) struct Deadline(Instant);

impl Deadline {
    /// A second from now, or `patience` if that is less.
    pub(super) fn new(patience: Duration) -> Self {
        Self(Instant::now() + PATIENCE.min(patience))
    }

    fn rmdir(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let mut pause = Duration::from_millis(1);
        loop {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::INTR) => {}
                // A killed process stays in its cgroup until it has exited completely.
                Err(Errno::BUSY) if Instant::now() < self.0 => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn rmdir_path(&self, path: &Path) -> Result<(), Errno> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
        self.rmdir(CWD, &name)
    }
}

/// A directory on the way down: its name in the parent, and the children that are left to visit.
struct Level {
    name: CString,
    left: Vec<CString>,
}

/// Visits `path` and all directories below it. Calls `enter` for each directory on the way down, and `leave` (parent, name)
/// for each one below `path` on the way up. Directories that vanish meanwhile are skipped. Returns false if `path` does not
/// exist.
fn walk(
    path: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    let mut here = match open(CWD, path) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(false),
        Err(e) => return Err(e),
    };
    enter(here.as_fd())?;
    let mut levels = vec![Level { name: CString::default(), left: children(&here)? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            match open(here.as_fd(), &name) {
                Ok(fd) => here = fd,
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(e) => return Err(e),
            }
            enter(here.as_fd())?;
            levels.push(Level { name, left: children(&here)? });
            continue;
        }
        let done = levels.pop();
        if let (Some(done), false) = (done, levels.is_empty()) {
            here = open(here.as_fd(), c"..")?;
            leave(here.as_fd(), &done.name)?;
        }
    }
    Ok(true)
}

fn open<P: rustix::path::Arg + Copy>(at: BorrowedFd<'_>, path: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(at, path, flags, Mode::empty()))
}

/// The names of the directories in `fd`. The link count of kernfs includes them, so most cgroups need no listing.
fn children(fd: &OwnedFd) -> Result<Vec<CString>, Errno> {
    match rustix::fs::fstat(fd) {
        Ok(stat) if stat.st_nlink <= 2 => return Ok(Vec::new()),
        _ => {}
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT | Errno::NODEV) => break,
            Err(e) => return Err(e),
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Adds the processes of one cgroup to `pids`. A threaded v2 cgroup lists none (EOPNOTSUPP): its parent lists them. A
/// process outside this pid namespace reads as 0.
fn read_pids(dir: BorrowedFd<'_>, pids: &mut Vec<i32>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = Vec::new();
    let read = retry(|| rustix::fs::openat(dir, c"cgroup.procs", flags, Mode::empty()))
        .and_then(|fd| read_to_end(fd.as_fd(), &mut text));
    match read {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e),
    }
    let lines = text.split(|b| *b == b'\n').filter_map(|l| std::str::from_utf8(l).ok());
    pids.extend(lines.filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    Ok(())
}

fn failed(verb: &str, path: &Path, e: Errno) -> Error {
    Error::from(e).context(format!("{verb} cgroup {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-tree-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn procs(dir: &Path, text: &str) {
        fs::write(dir.join("cgroup.procs"), text).unwrap();
    }

    #[test]
    fn pids_of_the_subtree_are_listed_once() {
        let temp = Temp::new("pids");
        let deep = temp.0.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(temp.0.join("c")).unwrap();
        procs(&temp.0, "10\n0\n9\n");
        procs(&deep, "11\n9\n");
        procs(&temp.0.join("c"), "12\n");
        assert_eq!(pids(&temp.0).unwrap(), Some(vec![9, 10, 11, 12]));
        assert_eq!(pids(&temp.0.join("missing")).unwrap(), None);
    }

    #[test]
    fn tree_deeper_than_path_max_is_removed() {
        let temp = Temp::new("rm");
        let top = temp.0.join("top");
        fs::create_dir(&top).unwrap();
        // Longer than PATH_MAX, so that no path can name it.
        let mut at = open(CWD, &top).unwrap();
        for _ in 0..600 {
            let name = "d".repeat(20);
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "sibling", Mode::RWXU).unwrap();
            at = open(at.as_fd(), &name).unwrap();
        }
        remove(&top, &Deadline::new(PATIENCE)).unwrap();
        assert!(!top.exists());
        remove(&top, &Deadline::new(PATIENCE)).unwrap();
    }

    #[test]
    fn error_names_the_cgroup_that_cannot_be_removed() {
        let temp = Temp::new("stuck");
        let sub = temp.0.join("top/sub");
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join("file"), "").unwrap();
        let e = remove(&temp.0.join("top"), &Deadline::new(PATIENCE)).unwrap_err();
        assert_eq!(e.to_string(), format!("remove cgroup {}/top: directory not empty", temp.0.display()));
    }
}
