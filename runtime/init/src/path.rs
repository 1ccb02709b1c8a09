//! Paths inside a root that its owner controls.
//!
//! A path is resolved once, by openat2(2) (Linux 5.6) with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, to an `O_PATH`
//! fd; everything after that goes by the fd. No link in the image, whatever it points to, leads outside.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags, ResolveFlags},
    io::{Errno, Result},
};

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const MAX: usize = 4096;

/// What a mount target must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// Opens `path` below `root` with `flags`.
///
/// # Errors
/// As openat2(2); `EAGAIN`, which a concurrent rename can cause, is retried.
pub fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, IN_ROOT)
}

/// Opens a directory that is reached through no link at all; `ELOOP` if there is one.
pub fn open_ordinary(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    resolve(root, path, OFlags::PATH | OFlags::DIRECTORY, IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    loop {
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens `path` (`O_PATH`) below `root`, making it and its parents when missing: directories 0755, or an empty file.
///
/// # Errors
/// As openat2(2) and mkdirat(2); `EEXIST` turns into `ENOENT` where a dangling link stands in the way.
pub fn open_or_make(root: BorrowedFd<'_>, path: &CStr, target: Target) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => match make_last(root, path, target) {
            Err(Errno::NOENT) => make(root, path, target),
            other => other,
        },
        other => other,
    }
}

/// Makes the last component where only that is missing, as nearly always; `ENOENT` when more is, or when it has no
/// plain name.
fn make_last(root: BorrowedFd<'_>, path: &CStr, target: Target) -> Result<OwnedFd> {
    let mut buffer = [0u8; SPLIT];
    let (dir, name) = split(path, &mut buffer).map_err(|_| Errno::NOENT)?;
    if matches!(name.to_bytes(), b"." | b"..") {
        return Err(Errno::NOENT);
    }
    let dir = open(root, dir, OFlags::PATH | OFlags::DIRECTORY)?;
    match make_one(dir.as_fd(), name, target) {
        Ok(()) | Err(Errno::EXIST) => open(root, path, OFlags::PATH),
        Err(e) => Err(e),
    }
}

/// Makes what is missing, a component at a time: each is resolved from the root again, so that a link among them is
/// followed inside the root just as the kernel would.
fn make(root: BorrowedFd<'_>, path: &CStr, target: Target) -> Result<OwnedFd> {
    let bytes = path.to_bytes();
    let mut buffer = [0u8; MAX];
    let mut parent: Option<OwnedFd> = None;
    let mut start = 0;
    while start < bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        let end = start + len;
        let name = rest.get(..len).unwrap_or_default();
        if !name.is_empty() && name != b"." {
            let last = bytes.get(end..).unwrap_or_default().iter().all(|&b| b == b'/');
            let prefix = c_path(&mut buffer, bytes.get(..end).unwrap_or_default())?;
            let flags = if last { OFlags::PATH } else { OFlags::PATH | OFlags::DIRECTORY };
            let next = match open(root, prefix, flags) {
                Err(Errno::NOENT) => {
                    let mut name_buffer = [0u8; 256];
                    let name = c_path(&mut name_buffer, name)?;
                    let dir = parent.as_ref().map_or(root, AsFd::as_fd);
                    match make_one(dir, name, if last { target } else { Target::Directory }) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e),
                    }
                    open(root, prefix, flags)?
                }
                other => other?,
            };
            parent = Some(next);
        }
        start = end + 1;
    }
    parent.ok_or(Errno::NOENT)
}

fn make_one(dir: BorrowedFd<'_>, name: &CStr, target: Target) -> Result<()> {
    match target {
        Target::Directory => fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)),
        Target::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            fs::openat(dir, name, flags, Mode::from_raw_mode(0o755)).map(drop)
        }
    }
}

/// `bytes` with a NUL behind them, in `buffer`.
fn c_path<'b>(buffer: &'b mut [u8], bytes: &[u8]) -> Result<&'b CStr> {
    let slot = buffer.get_mut(..=bytes.len()).ok_or(Errno::NAMETOOLONG)?;
    let (text, nul) = slot.split_at_mut(bytes.len());
    text.copy_from_slice(bytes);
    nul.fill(0);
    CStr::from_bytes_with_nul(slot).map_err(|_| Errno::INVAL)
}

/// Splits an absolute path into the directory to open and the last name.
pub fn split<'b>(path: &CStr, buffer: &'b mut [u8]) -> Result<(&'b CStr, &'b CStr)> {
    let bytes = path.to_bytes();
    let cut = bytes.iter().rposition(|&b| b == b'/').ok_or(Errno::INVAL)?;
    let (dir, name) = (bytes.get(..cut).unwrap_or_default(), bytes.get(cut + 1..).unwrap_or_default());
    if name.is_empty() {
        return Err(Errno::INVAL);
    }
    let dir: &[u8] = if dir.is_empty() { b"/" } else { dir };
    let room = buffer.len() / 2;
    let (first, second) = buffer.split_at_mut(room);
    Ok((c_path(first, dir)?, c_path(second, name)?))
}

/// Room for [`split`].
pub const SPLIT: usize = 2 * MAX;
