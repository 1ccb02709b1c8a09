//! Paths inside the root filesystem.
//!
//! Every path is resolved by openat2(2) with `RESOLVE_IN_ROOT`: the kernel takes `/` and `..` in symbolic links as the
//! root's, whatever a layer has put there. Calls that change something name a directory's descriptor and one component,
//! which they do not follow.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid},
    io::Errno,
};

/// Symbolic links that are followed while missing directories are made, as `MAXSYMLINKS` of the kernel.
const LINKS: usize = 40;
/// The most times that a directory is emptied to be removed: another process may make files in it without end.
const TRIES: u32 = 128;
/// Directories that are open at once while a tree is removed.
const OPEN: usize = 64;

/// The root filesystem.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// A directory in which entries are made.
#[derive(Debug)]
pub struct Parent {
    /// Its path as the entries have it.
    pub path: Vec<u8>,
    /// The directory.
    pub fd: OwnedFd,
    /// Its inode.
    pub ino: u64,
    /// The path has to be resolved again for the next entry.
    pub is_stale: bool,
    times: Timestamps,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Takes the descriptor of the root directory.
    ///
    /// # Errors
    /// The kernel has no openat2(2).
    pub fn new(root: OwnedFd) -> Result<Self> {
        let root = Self(root);
        root.open_directory(b"").context("openat2 (Linux 5.6)")?;
        Ok(root)
    }

    /// Opens a directory for use in other calls (`O_PATH`), following symbolic links inside the root.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens what is at a path, following symbolic links inside the root.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_file(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        Ok(self.open(path, flags)?)
    }

    /// Opens a regular file to read it, following symbolic links inside the root; `None` if there is none. No other kind of
    /// file is opened, because some devices act on open(2), and a FIFO blocks.
    ///
    /// # Errors
    /// The path leads to another kind of file, or as openat2(2).
    pub fn open_regular(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let found = match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            found => found?,
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(Error::invalid("it is no regular file"));
        }
        let file = rustix::fs::open(name_of(&found), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Some(file))
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        berth_runtime::retry(|| rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
    }

    /// Opens a directory to make entries in it. Missing directories on the way are made with mode 0755 and `owner`, also
    /// where a symbolic link of the image points to; files on the way are replaced by directories. Each of them counts as
    /// one of the `left` entries.
    ///
    /// # Errors
    /// A system call fails, links form a loop, or no entry is left.
    pub fn make_parent(&self, path: &[u8], owner: Option<(Uid, Gid)>, left: &mut u64) -> Result<Parent> {
        let fd = match self.open_directory(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.make_directories(path, owner, LINKS, left)?;
                self.open_directory(path).context("open the directory")?
            }
            Err(e) => return Err(e).context("open the directory"),
        };
        Parent::new(path, fd)
    }

    /// Opens a directory as [`Root::make_parent`] does, if it is there.
    ///
    /// # Errors
    /// As openat2(2), but for paths that lead nowhere.
    pub fn find_parent(&self, path: &[u8]) -> Result<Option<Parent>> {
        match self.open_directory(path) {
            Ok(fd) => Parent::new(path, fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e).context("open the directory"),
        }
    }

    fn make_directories(&self, path: &[u8], owner: Option<(Uid, Gid)>, links: usize, left: &mut u64) -> Result<()> {
        let mut directory = self.open_directory(b"").context("open the root")?;
        let mut prefix = Vec::new();
        for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            let above = prefix.clone();
            prefix.push(b'/');
            prefix.extend_from_slice(component);
            directory = match self.open_directory(&prefix) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_one(directory.as_fd(), (&above, component), owner, links, left)?;
                    self.open_directory(&prefix).context("open a directory that was made")?
                }
                Err(e) => return Err(e).context("open a directory on the way"),
            };
        }
        Ok(())
    }

    /// Makes `name` in `directory`, whose path is `above`, a directory.
    fn make_one(
        &self,
        directory: BorrowedFd<'_>,
        (above, name): (&[u8], &[u8]),
        owner: Option<(Uid, Gid)>,
        links: usize,
        left: &mut u64,
    ) -> Result<()> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                let Some(links) = links.checked_sub(1) else { return Err(Error::from_errno(libc::ELOOP)) };
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).context("read a symbolic link")?;
                let path = match target.as_bytes() {
                    absolute if absolute.starts_with(b"/") => absolute.to_vec(),
                    relative => [above, b"/", relative].concat(),
                };
                return self.make_directories(&path, owner, links, left);
            }
            Ok(_) => rustix::fs::unlinkat(directory, name, AtFlags::empty()).context("replace a file on the way")?,
            Err(e) => return Err(e).context("look at a directory on the way"),
        }
        count_entry(left)?;
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        rustix::fs::mkdirat(directory, name, mode).context("make a directory on the way")?;
        if let Some((uid, gid)) = owner {
            rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .context("set the owner of a directory on the way")?;
        }
        Ok(())
    }
}

/// Takes one of the entries that are `left`.
///
/// # Errors
/// None is left.
pub fn count_entry(left: &mut u64) -> Result<()> {
    *left = left.checked_sub(1).ok_or_else(|| Error::invalid("more entries than --max-entries allows"))?;
    Ok(())
}

impl Parent {
    fn new(path: &[u8], fd: OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).context("look at the directory")?;
        Ok(Self { path: path.to_vec(), fd, ino: stat.st_ino, is_stale: false, times: times_of(&stat) })
    }

    /// Sets the times that the directory had when it was opened.
    ///
    /// # Errors
    /// As utimensat(2).
    pub fn restore_times(&self) -> Result<()> {
        rustix::fs::utimensat(&self.fd, c".", &self.times, AtFlags::empty()).context("set the times of a directory")
    }
}

/// The times of a directory for utimensat(2): its modification, while its access is left alone.
pub fn times_of(stat: &Stat) -> Timestamps {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds },
    }
}

/// The name of an `O_PATH` descriptor, for calls that take none: it names the file, whatever its path is by now.
fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Returns true for a directory.
pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Removes `name` in `parent`, with everything below it if it is a directory. Nothing is followed. The depth does not
/// matter: what lies deep is moved up to `parent` first, under names that no entry of a layer can have.
///
/// # Errors
/// As unlinkat(2) and openat(2).
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut pending = vec![name.to_vec()];
    let mut moved = 0;
    while let Some(name) = pending.pop() {
        remove_level(parent, &name, OPEN, &mut |deep: BorrowedFd<'_>, child: &[u8]| {
            moved += 1;
            let up = format!(".wh..wh.berth.{moved}").into_bytes();
            rustix::fs::renameat(deep, child, parent, up.as_slice()).context("move a directory")?;
            pending.push(up);
            Ok(())
        })?;
    }
    Ok(())
}

/// Removes one level, and those below it as long as `depth` is left; deeper ones are handed to `move_up`.
fn remove_level(
    directory: BorrowedFd<'_>,
    name: &[u8],
    depth: usize,
    move_up: &mut dyn FnMut(BorrowedFd<'_>, &[u8]) -> Result<()>,
) -> Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e).context("remove"),
    }
    let Some(depth) = depth.checked_sub(1) else { return move_up(directory, name) };
    let mut tries = 0;
    loop {
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if tries < TRIES => tries += 1,
            Err(e) => return Err(e).context("remove a directory"),
        }
        let mut entries = open_entries(directory, name)?;
        while let Some(entry) = entries.read() {
            let entry = entry.context("read a directory")?;
            let child = entry.file_name().to_bytes();
            if !matches!(child, b"." | b"..") {
                remove_level(entries.fd().context("read a directory")?, child, depth, move_up)?;
            }
        }
    }
}

/// Opens a directory to read its entries. A directory whose mode refuses its owner gets mode 0700 first, by its descriptor.
fn open_entries(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(directory, name, flags, Mode::empty());
    let fd = match open() {
        Err(Errno::ACCESS) => {
            let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(directory, name, path, Mode::empty()).context("open a directory")?;
            // fchmod(2) refuses an O_PATH descriptor.
            rustix::fs::chmod(name_of(&found), Mode::RWXU).context("open a directory")?;
            open()
        }
        opened => opened,
    };
    Dir::new(fd.context("open a directory")?).context("read a directory")
}
