//! Paths inside a root that its owner controls.
//!
//! A path is resolved once, by openat2(2) (Linux 5.6) with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, to an `O_PATH`
//! fd; everything after that goes by the fd. No link in the image, whatever it points to, leads outside.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::{Errno, Result},
    process::{Gid, Uid},
};

use crate::digits::decimal;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const MAX: usize = 4096;

/// How often a path is resolved anew, at most, while renames anywhere on the machine keep the kernel from being sure that it
/// stayed inside the root (openat2(2), `EAGAIN`).
const TRIES: u32 = 128;

/// Who gets what is made, when that is not its maker: uid and gid.
pub type Owner = Option<(u32, u32)>;

/// What a mount target must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory,
    /// Anything else.
    NonDirectory,
}

/// Opens `path` below `root` with `flags`.
///
/// # Errors
/// As openat2(2); `EAGAIN` only when each of many tries met a rename.
pub fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, IN_ROOT)
}

/// Opens a directory that is reached through no link at all; `ELOOP` if there is one.
pub fn open_without_links(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    resolve(root, path, OFlags::PATH | OFlags::DIRECTORY, IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    patiently(|| fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how))
}

/// Tries again what was interrupted. Somebody who renames or interrupts for ever must not be waited for that long.
fn patiently<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens `path` (`O_PATH`) below `root`, making it and its parents when missing: directories 0755, or an empty file.
///
/// # Errors
/// As openat2(2) and mkdirat(2).
pub fn open_or_make(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<OwnedFd> {
    find_or_make(root, path, target, owner).map(|(fd, _)| fd)
}

/// As [`open_or_make`], and whether it had to be made.
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

/// Opens the file `name` (`O_PATH`) of the directory `dir`, making it when missing; never through a link.
///
/// # Errors
/// `ELOOP` when it is a link; as openat2(2) and open(2).
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

/// Makes the last component where only that is missing, as nearly always; `ENOENT` when more is, or when it has no
/// plain name.
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

/// Links in a path that are followed at most, as many as the kernel follows.
const LINKS: usize = 40;

/// Makes what is missing, a component at a time, also where dangling links lead to: `done` is the way so far, free of
/// links, and `rest` what is still to be walked. A link's text is put before the rest, one that is absolute starts from
/// the root again, and `..` takes back a name; what is opened is always opened from the root and inside it.
fn make(root: BorrowedFd<'_>, path: &CStr, target: Target, owner: Owner) -> Result<OwnedFd> {
    let (mut done, mut rest) = (Text::new(b"")?, Text::new(path.to_bytes())?);
    let mut links = 0;
    while let Some(name) = rest.take_name()? {
        match name.bytes() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let parent_len = done.len;
        done.push(name.bytes())?;
        match open(root, done.c_str()?, OFlags::PATH | OFlags::NOFOLLOW) {
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
            Ok(_) => {}
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
    if done.len == 0 { Err(Errno::NOENT) } else { open(root, done.c_str()?, OFlags::PATH) }
}

/// A path of at most `PATH_MAX` bytes, its end included.
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

    /// With a slash before the name.
    fn push(&mut self, name: &[u8]) -> Result<()> {
        self.append(b"/")?;
        self.append(name)
    }

    /// Without its last name; the root stays what it is.
    fn pop(&mut self) {
        self.len = self.bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
    }

    /// Takes the first component away; it is empty where slashes are doubled. Nothing left: none.
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

    /// Whether anything but slashes and dots is left.
    fn has_name(&self) -> bool {
        self.bytes().split(|&b| b == b'/').any(|name| !matches!(name, b"" | b"."))
    }

    /// `bytes` and a slash come before it.
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

fn make_one(dir: BorrowedFd<'_>, name: &CStr, target: Target, owner: Owner) -> Result<()> {
    let made = match target {
        Target::Directory => {
            fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
            if owner.is_none() {
                return Ok(());
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = fs::openat(dir, name, flags, Mode::empty())?;
            // Whoever can put another directory in its place has one of his own there as easily, unless this one has
            // something in it.
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

/// The name of a descriptor in the procfs at `/proc`, for calls that take no descriptor.
pub struct ProcFdPath([u8; 25]);

impl ProcFdPath {
    /// Of `fd`, which must stay open meanwhile.
    ///
    /// # Errors
    /// None: a descriptor's number fits.
    pub fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let mut name = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
        let mut digits = [0u8; 10];
        let number = decimal(fd.as_raw_fd(), &mut digits);
        name.get_mut(14..14 + number.len()).ok_or(Errno::INVAL)?.copy_from_slice(number);
        Ok(Self(name))
    }

    /// As a path.
    ///
    /// # Errors
    /// None.
    pub fn name(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.0).map_err(|_| Errno::INVAL)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_without_end_are_not_waited_for() {
        let mut calls = 0;
        let answer: Result<()> = patiently(|| {
            calls += 1;
            Err(Errno::AGAIN)
        });
        assert_eq!((answer, calls), (Err(Errno::AGAIN), TRIES));
        let mut left = 3;
        let answer = patiently(|| {
            left -= 1;
            if left == 0 { Ok(()) } else { Err([Errno::AGAIN, Errno::INTR][left % 2]) }
        });
        assert_eq!(answer, Ok(()));
        assert_eq!(patiently(|| Err::<(), _>(Errno::NOENT)), Err(Errno::NOENT));
    }

    #[test]
    fn a_descriptor_has_a_name() {
        let file = fs::open(c"/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let name = ProcFdPath::new(file.as_fd()).unwrap();
        let target = fs::openat(fs::CWD, name.name().unwrap(), OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(fs::fstat(&target).unwrap().st_ino, fs::fstat(&file).unwrap().st_ino);
    }
}
