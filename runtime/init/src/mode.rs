//! Modes of files that are made: at birth, whatever the umask is, and later by descriptor alone.
//!
//! In a directory that others can write to a name leads elsewhere a moment after it was looked at; the inode behind a
//! descriptor stays the same one.

use rustix::{
    fd::BorrowedFd,
    fs::{self, Mode},
    io::{Errno, Result},
};

use crate::{path::ProcFdPath, sys};

/// The umask of this thread alone, until it is dropped.
pub struct Umask(Mode);

impl Umask {
    /// Sets it. The thread's directory and root are its own from then on, too (`CLONE_FS`): other threads change nothing of
    /// it, and it changes nothing of theirs.
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

/// chmod(2) of what `fd` refers to, which may be opened with `O_PATH`.
///
/// # Errors
/// As fchmodat2(2) (Linux 6.6); before that as chmod(2) of the descriptor's name in `/proc`.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    match sys::chmod(fd, mode) {
        // A filter that does not know the call may answer EPERM.
        Err(Errno::NOSYS | Errno::PERM) => fs::chmod(ProcFdPath::new(fd)?.name()?, Mode::from_raw_mode(mode)),
        other => other,
    }
}
