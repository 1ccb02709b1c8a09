//! A cgroup directory held by an fd, and reads and writes of whole files in it.
//!
//! The directory is opened once for all its files, so a directory that replaces it meanwhile is not used. File names are
//! literals of this crate, or checked by [`checked_name`]: they have no slash.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_init::defence::Defence;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

use crate::error::{Error, Result};

/// A cgroup directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens `path`, which must be a directory and no symlink.
    ///
    /// # Errors
    /// Names the path.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty())) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(e) => Err(Error::from(e).context(format!("open {}", path.display()))),
        }
    }

    /// The path that was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The fd.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens the directory again for bpf(2), which refuses an fd with O_PATH.
    ///
    /// # Errors
    /// Names the path.
    pub(super) fn for_bpf(&self) -> Result<OwnedFd> {
        self.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| Error::from(e).context(format!("open {}", self.path.display())))
    }

    /// Writes `value` to `file` and returns the open file for further writes. An open cannot make a cgroup file, so there
    /// is no O_CREAT.
    ///
    /// # Errors
    /// Names file and value.
    pub(super) fn write_first(&self, file: &str, value: &str) -> Result<File<'_>> {
        let fd = self.open_file(file, OFlags::WRONLY).map_err(|e| self.unwritten(file, value, e))?;
        let file = File { fd, dir: self, name: file.to_owned() };
        file.write(value).map(|()| file)
    }

    /// Writes `value` to `file` in one write.
    ///
    /// # Errors
    /// Names file and value.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<()> {
        self.write_first(file, value).map(|_| ())
    }

    /// Reads the whole of `file`.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        self.read_raw(file).map_err(|e| Error::from(e).context(format!("read {}", self.path.join(file).display())))
    }

    /// Reads the whole of `file`. Returns None if there is no such file, or if the cgroup is being removed (ENODEV).
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn read_if_there(&self, file: &str) -> Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(e) if gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens `file` for reading.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn reader(&self, file: &str) -> Result<OwnedFd> {
        self.open_file(file, OFlags::RDONLY)
            .map_err(|e| Error::from(e).context(format!("open {}", self.path.join(file).display())))
    }

    fn read_raw(&self, file: &str) -> Result<String, Errno> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        read_to_end(fd.as_fd(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn open_file(&self, file: &str, how: OFlags) -> Result<OwnedFd, Errno> {
        retry(|| rustix::fs::openat(&self.fd, file, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))
    }

    fn unwritten(&self, file: &str, value: &str, e: Errno) -> Error {
        Error::from(e).context(format!("write {value:?} to {}", self.path.join(file).display()))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A cgroup file that is open for writing. Some files take one setting with each write.
pub(super) struct File<'a> {
    fd: OwnedFd,
    dir: &'a Dir,
    name: String,
}

impl File<'_> {
    /// The name in the directory.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes one setting in one write. The kernel takes all of it or none.
    ///
    /// # Errors
    /// Names file and value.
    pub(super) fn write(&self, value: &str) -> Result<()> {
        match retry(|| rustix::io::write(&self.fd, value.as_bytes())) {
            Ok(n) if n == value.len() => Ok(()),
            Ok(_) => Err(self.dir.unwritten(&self.name, value, Errno::IO)),
            Err(e) => Err(self.dir.unwritten(&self.name, value, e)),
        }
    }
}

/// Opens a file of a cgroup by its path; another process will write to it.
///
/// # Errors
/// Names the path.
pub(super) fn open_for_writing(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
        .map_err(|e| Error::from(e).context(format!("open {}", path.display())))
}

/// Whether an error says that the cgroup or the file does not exist (any more).
pub(super) fn gone(e: &Error) -> bool {
    matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV))
}

/// Checks a file name from config.json, so that it stays in the directory (GHSA-5g49-rx9x-qfc6).
///
/// # Errors
/// Quotes the name.
pub(super) fn checked_name<'a>(what: &str, name: &'a str) -> Result<&'a str> {
    let bad = match name {
        "" => Some("must not be empty"),
        "." | ".." => Some("must be a file name"),
        _ if name.contains('/') && Defence::UnifiedNames.stands() => Some("must be a file name (no slashes)"),
        _ if name.contains('\0') => Some("must not contain a null byte"),
        _ => None,
    };
    match bad {
        Some(why) => Err(Error::invalid(format!("{what} {name:?} {why}"))),
        None => Ok(name),
    }
}

/// Reads from the current offset to the end.
///
/// # Errors
/// As read(2).
pub(super) fn read_to_end(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> Result<(), Errno> {
    let mut chunk = [0_u8; 4096];
    loop {
        match retry(|| rustix::io::read(fd, &mut chunk))? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
}

/// Repeats `call` while a signal interrupts it.
///
/// # Errors
/// Those of `call`.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_outside_the_directory_is_refused() {
        for name in ["../x/y", "/abs", "a/b", "", "..", ".", "a\0b"] {
            let e = checked_name("unified resource", name).unwrap_err();
            assert!(e.to_string().contains(&format!("{name:?}")), "{e}");
        }
        assert_eq!(checked_name("unified resource", "memory.high").unwrap(), "memory.high");
    }

    #[test]
    fn failed_write_names_file_value_and_errno() {
        let path = format!("/proc/{}", std::process::id());
        let dir = Dir::open(Path::new(&path)).unwrap();
        let e = dir.write("nothere", "12").unwrap_err();
        assert_eq!(e.to_string(), format!("write \"12\" to {path}/nothere: no such file or directory"));
        assert_eq!(e.errno(), Some(libc::ENOENT));
    }

    #[test]
    fn symlink_is_not_opened() {
        assert!(Dir::open(Path::new("/proc/self/cwd")).is_err());
    }
}
