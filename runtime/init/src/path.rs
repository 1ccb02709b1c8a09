//! Paths inside a root whose owner is not trusted.
//!
//! openat2(2) (Linux 5.6) resolves a path once, with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, to an `O_PATH` fd. All
//! later calls use the fd. No symbolic link of the image leads outside the root.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::{Errno, Result},
    process::{Gid, Uid},
};

use crate::{defence::Defence, digits::decimal};

/// The flags of openat2(2) for every path inside the root.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// `PATH_MAX`, bytes.
const MAX: usize = 4096;

/// How often a path is resolved at most. openat2(2) fails with `EAGAIN` if a rename anywhere on the machine keeps the
/// kernel from knowing that a `..` stayed inside the root.
const TRIES: u32 = 128;

/// The uid and gid that own created files; by default the creator does.
pub type Owner = Option<(u32, u32)>;

/// The kind of file that is created if the path is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory,
    /// A regular file, which is empty.
    NonDirectory,
}

/// Opens `path` below `root` with `flags`.
///
/// # Errors
/// As openat2(2); `EAGAIN` after many attempts that each met a rename.
pub fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, IN_ROOT)
}

/// Opens a directory that no symbolic link leads to.
///
/// # Errors
/// `ELOOP` if the path has a symbolic link; `ENOTDIR` if it leads to another file; as openat2(2).
pub fn open_without_links(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    resolve(root, path, OFlags::PATH | OFlags::DIRECTORY, IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens `path` (`O_PATH`), which is relative, below the directory `dir`.
///
/// # Errors
/// `EXDEV` if the path leads out of the directory; as openat2(2).
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    resolve(dir, path, OFlags::PATH, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// openat2(2) with `O_CLOEXEC`.
fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    let (path, how) = match Defence::InRoot.stands() {
        true => (path, how),
        false => (relative(path), how & ResolveFlags::NO_SYMLINKS),
    };
    retry(|| fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how))
}

/// The path without the slashes at its beginning.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or_default();
    let rest = CStr::from_bytes_with_nul(bytes.get(start..).unwrap_or_default()).unwrap_or_default();
    if rest.is_empty() { c"." } else { rest }
}

/// Repeats `call`, an openat2(2), while it is interrupted, at most [`TRIES`] times: a process that renames files without
/// end must not hold up this one.
///
/// # Errors
/// As `call`.
pub fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens `path` (`O_PATH`) below `root`. Creates it and its parents if they are missing: directories with mode 0755,
/// or an empty file.
///
/// # Errors
/// As openat2(2), mkdirat(2) and openat(2).
pub fn open_or_make(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<OwnedFd> {
    find_or_make(root, path, target, owner).map(|(fd, _)| fd)
}

/// As [`open_or_make`]; also returns whether it had to be created.
///
/// # Errors
/// As [`open_or_make`].
pub fn find_or_make(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<(OwnedFd, bool)> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {
            let made = match make_last(root, path, target, owner) {
                Err(Errno::NOENT) => make(root, path, target, owner),
                other => other,
            };
            made.map(|fd| (fd, true))
        }
        other => other.map(|fd| (fd, false)),
    }
}

/// Opens the file `name` (`O_PATH`) of the directory `dir`, and creates it if it is missing. Does not follow a
/// symbolic link.
///
/// # Errors
/// `ELOOP` if the file is a symbolic link; as openat2(2) and openat(2).
pub fn open_or_make_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let find = || resolve(dir, name, OFlags::PATH, IN_ROOT | ResolveFlags::NO_SYMLINKS);
    match find() {
        Err(Errno::NOENT) => match make_one(dir, name, Target::NonDirectory, None) {
            Ok(()) | Err(Errno::EXIST) => find(),
            Err(e) => Err(e),
        },
        other => other,
    }
}

/// Creates the last component of a path whose other components exist, which is the usual case.
///
/// # Errors
/// `ENOENT` if another component is missing, or if the last one is `.` or `..`: [`make`] then walks the path.
fn make_last(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<OwnedFd> {
    let mut buffer = [0u8; SPLIT];
    let (dir, name) = split(path, &mut buffer).map_err(|_| Errno::NOENT)?;
    if matches!(name.to_bytes(), b"." | b"..") {
        return Err(Errno::NOENT);
    }
    let dir = open(root, dir, OFlags::PATH | OFlags::DIRECTORY)?;
    match make_one(dir.as_fd(), name, target, owner) {
        Ok(()) | Err(Errno::EXIST) => open(root, path, OFlags::PATH),
        Err(e) => Err(e),
    }
}

/// The number of symbolic links that [`make`] follows at most; the kernel's limit is the same (path_resolution(7)).
const LINKS: usize = 40;

/// Walks `path` one component at a time, and creates the missing components, also at the target of a dangling symbolic
/// link.
///
/// The walk has a stack of two paths. `done` is the part that has been walked: it is free of links and begins at the
/// root. `rest` is the part that is still to be walked. A link is resolved here and not by the kernel, because the
/// kernel cannot create the file that a dangling link names. Each component is opened anew from the root with
/// `RESOLVE_IN_ROOT`, so a file that is replaced meanwhile cannot lead the walk outside.
fn make(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<OwnedFd> {
    let (mut done, mut rest) = (Text::new(b"")?, Text::new(path.to_bytes())?);
    let mut links = 0;
    while let Some(name) = rest.take_name()? {
        match name.bytes() {
            // Doubled slashes and `.` change nothing.
            b"" | b"." => continue,
            // `done` has no links, so its parent is the path without the last component. `..` of the root is the root.
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        // From here on `done` includes this component; a link or a creation goes back to the parent.
        let parent_len = done.len;
        done.push(name.bytes())?;
        match open(root, done.c_str()?, OFlags::PATH | OFlags::NOFOLLOW) {
            // A link: its target replaces the component. The walk continues at the parent of the link, or at the root if the
            // target is absolute. The target is walked like the rest of the path, so its own components may be missing.
            Ok(found) if FileType::from_raw_mode(fs::fstat(&found)?.st_mode) == FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP);
                }
                let mut buffer = [core::mem::MaybeUninit::uninit(); MAX];
                let (to, _) = fs::readlinkat_raw(&found, c"", &mut buffer)?;
                done.len = if to.first() == Some(&b'/') { 0 } else { parent_len };
                rest.put_before(to)?;
            }
            // Any other file is walked through. If it is no directory, the next component fails with ENOTDIR.
            Ok(_) => {}
            // A missing component is created in its parent: the last one as `target` says, any other one as a directory. The
            // result is not used, because another process may create the same component: the next round, or the final
            // open, finds the file that is there.
            Err(Errno::NOENT) => {
                let mut parent = Text::new(done.bytes().get(..parent_len).unwrap_or_default())?;
                let dir = if parent_len == 0 { None } else { Some(open(root, parent.c_str()?, OFlags::PATH)?) };
                let kind = if rest.has_name() { Target::Directory } else { target };
                let mut name = name;
                match make_one(dir.as_ref().map_or(root, AsFd::as_fd), name.c_str()?, kind, owner) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        }
    }
    // A path such as `/..` has no component left to create.
    if done.len == 0 { Err(Errno::NOENT) } else { open(root, done.c_str()?, OFlags::PATH) }
}

/// A path of less than `PATH_MAX` bytes, without its NUL.
struct Text {
    buffer: [u8; MAX],
    len: usize,
}

impl Text {
    fn new(bytes: &[u8]) -> Result<Self> {
        let mut text = Self { buffer: [0; MAX], len: 0 };
        text.append(bytes)?;
        Ok(text)
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.len + bytes.len();
        if end >= MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.buffer.get_mut(self.len..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Appends a slash and `name`.
    fn push(&mut self, name: &[u8]) -> Result<()> {
        self.append(b"/")?;
        self.append(name)
    }

    /// Removes the last component; the root stays the root.
    fn pop(&mut self) {
        self.len = self.bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
    }

    /// Removes the first component and returns it. It is empty between doubled slashes. Returns `None` if the path is
    /// empty.
    fn take_name(&mut self) -> Result<Option<Self>> {
        if self.len == 0 {
            return Ok(None);
        }
        let end = self.bytes().iter().position(|&b| b == b'/').unwrap_or(self.len);
        let name = Self::new(self.bytes().get(..end).unwrap_or_default())?;
        let next = (end + 1).min(self.len);
        self.buffer.copy_within(next..self.len, 0);
        self.len -= next;
        Ok(Some(name))
    }

    /// True if the path has a component other than `.`.
    fn has_name(&self) -> bool {
        self.bytes().split(|&b| b == b'/').any(|name| !matches!(name, b"" | b"."))
    }

    /// Puts `bytes` and a slash before the path.
    fn put_before(&mut self, bytes: &[u8]) -> Result<()> {
        let shift = bytes.len() + 1;
        if self.len + shift >= MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.buffer.copy_within(..self.len, shift);
        let (head, _) = self.buffer.split_at_mut_checked(shift).ok_or(Errno::NAMETOOLONG)?;
        let (text, slash) = head.split_at_mut_checked(bytes.len()).ok_or(Errno::NAMETOOLONG)?;
        text.copy_from_slice(bytes);
        slash.fill(b'/');
        self.len += shift;
        Ok(())
    }

    fn c_str(&mut self) -> Result<&CStr> {
        *self.buffer.get_mut(self.len).ok_or(Errno::NAMETOOLONG)? = 0;
        CStr::from_bytes_with_nul(self.buffer.get(..=self.len).unwrap_or_default()).map_err(|_| Errno::INVAL)
    }
}

/// Creates one component, which must be missing.
fn make_one(dir: BorrowedFd<'_>, name: &CStr, target: Target, owner: Owner) -> Result<()> {
    let made = match target {
        Target::Directory => {
            fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
            if owner.is_none() {
                return Ok(());
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = fs::openat(dir, name, flags, Mode::empty())?;
            // Another process may have replaced the directory, but only where it could create one of its own as well.
            // A directory with content must not be given away.
            if !is_empty(made.as_fd())? {
                return Err(Errno::EXIST);
            }
            made
        }
        Target::NonDirectory => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?
        }
    };
    let Some((uid, gid)) = owner else { return Ok(()) };
    fs::chownat(&made, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
}

/// True if the directory has no entries.
fn is_empty(dir: BorrowedFd<'_>) -> Result<bool> {
    let mut buffer = [core::mem::MaybeUninit::uninit(); 512];
    let mut entries = fs::RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The path of an fd in the procfs at `/proc`, for calls that take no fd.
pub struct ProcFdPath([u8; 25]);

impl ProcFdPath {
    /// Builds the path of `fd`, which must stay open while the path is in use.
    ///
    /// # Errors
    /// None: the number of an fd always fits.
    pub fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let mut name = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
        let mut digits = [0u8; 10];
        let number = decimal(fd.as_raw_fd(), &mut digits);
        name.get_mut(14..14 + number.len()).ok_or(Errno::INVAL)?.copy_from_slice(number);
        Ok(Self(name))
    }

    /// Returns the path.
    ///
    /// # Errors
    /// None.
    pub fn name(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.0).map_err(|_| Errno::INVAL)
    }
}

/// Copies `bytes` and a NUL into `buffer`.
fn c_path<'b>(buffer: &'b mut [u8], bytes: &[u8]) -> Result<&'b CStr> {
    let slot = buffer.get_mut(..=bytes.len()).ok_or(Errno::NAMETOOLONG)?;
    let (text, nul) = slot.split_at_mut(bytes.len());
    text.copy_from_slice(bytes);
    nul.fill(0);
    CStr::from_bytes_with_nul(slot).map_err(|_| Errno::INVAL)
}

/// Splits an absolute path into its directory and its last component. `buffer` has [`SPLIT`] bytes.
///
/// # Errors
/// `EINVAL` if the path has no last component; `ENAMETOOLONG`.
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

/// The size of the buffer of [`split`], bytes.
pub const SPLIT: usize = 2 * MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_renames_end_the_retries() {
        let mut calls = 0;
        let answer: Result<()> = retry(|| {
            calls += 1;
            Err(Errno::AGAIN)
        });
        assert_eq!((answer, calls), (Err(Errno::AGAIN), TRIES));
        let mut left = 3;
        let answer = retry(|| {
            left -= 1;
            if left == 0 { Ok(()) } else { Err([Errno::AGAIN, Errno::INTR][left % 2]) }
        });
        assert_eq!(answer, Ok(()));
        assert_eq!(retry(|| Err::<(), _>(Errno::NOENT)), Err(Errno::NOENT));
    }

    #[test]
    fn proc_fd_path_leads_to_the_file_of_the_fd() {
        let file = fs::open(c"/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let name = ProcFdPath::new(file.as_fd()).unwrap();
        let target = fs::openat(fs::CWD, name.name().unwrap(), OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(fs::fstat(&target).unwrap().st_ino, fs::fstat(&file).unwrap().st_ino);
    }
}
