//! The modes of files: at their creation regardless of the umask, and later by fd.
//!
//! In a directory that other processes can write to, a name may lead to another file at any moment. The inode behind
//! an fd stays the same.

use rustix::{
    fd::BorrowedFd,
    fs::{self, Mode},
    io::{Errno, Result},
};

use crate::{path::ProcFdPath, sys};

/// The umask of this thread, until the value is dropped.
pub struct Umask(Mode);

impl Umask {
    /// Sets the umask of this thread. unshare(2) with `CLONE_FS` gives the thread a root, a working directory and a
    /// umask of its own, so other threads keep theirs.
    ///
    /// # Errors
    /// As unshare(2).
    pub fn set(mask: u32) -> Result<Self> {
        sys::unshare(libc::CLONE_FS.unsigned_abs())?;
        Ok(Self(rustix::process::umask(Mode::from_raw_mode(mask))))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

/// Sets the mode of the file of `fd`, which may be opened with `O_PATH`.
///
/// # Errors
/// As fchmodat2(2) (Linux 6.6). Before that as chmod(2) of the fd's path in /proc.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    match sys::chmod(fd, mode) {
        // A seccomp filter that does not know the call may answer EPERM.
        Err(Errno::NOSYS | Errno::PERM) => fs::chmod(ProcFdPath::new(fd)?.name()?, Mode::from_raw_mode(mode)),
        other => other,
    }
}
