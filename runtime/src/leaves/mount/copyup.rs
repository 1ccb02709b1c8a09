//! `tmpcopyup`: a new tmpfs gets a copy of the directory that it covers.
//!
//! The runtime fills the tmpfs while it is detached, so the container sees it whole or not at all. It copies symbolic
//! links of the image and follows none. The directory to copy lies in the root file system, or in an earlier mount of
//! the same config.json.
//!
//! The kernel charges the copied pages to the runtime's cgroup, not to the container's. Therefore the code here holds
//! the copy to `linux.resources.memory.limit`. Without that limit only the size of the tmpfs bounds the copy.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fgetxattr,
        flistxattr, fsetxattr,
    },
    io::Errno,
};

use berth_init::plan::{FsOption, Source};

use super::{Builder, MountContext, Options, attributes as fs_attributes, fs_options};
use crate::{Context, Error, Result};

/// Deepest nesting of directories that is copied: each level holds open file descriptors.
const MAX_DEPTH: u32 = 200;

impl<'a> Builder<'a, '_> {
    /// Creates a detached tmpfs and copies into it the directory at `target`, if there is one.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] if an earlier mount covers `target` with a file system that only the child creates.
    pub(super) fn copy_up(
        &self,
        options: &Options,
        target: &Path,
        source: &str,
        context: &MountContext<'_, 'a>,
    ) -> Result<OwnedFd> {
        let arena = self.arena;
        let mut fs = fs_options(arena, options, source, context.label)?;
        let ids = &context.users.ids;
        if ids.has_mappings() {
            // These come first, so that the options of config.json override them.
            let (uid, gid) = (ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?);
            fs.insert(0, FsOption::Pair(c"uid", arena.text(uid.to_string(), "mounts")?));
            fs.insert(0, FsOption::Pair(c"gid", arena.text(gid.to_string(), "mounts")?));
        }
        let tree =
            berth_init::mount::create(c"tmpfs", &fs, fs_attributes(options)?, None).context("create filesystem")?;
        let (root, path) = self.copy_source(target, context)?;
        let path = arena.path(&path, "mounts.destination")?;
        match berth_init::path::open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(from) => {
                let named_mode = options.data.iter().any(|option| option.starts_with("mode="));
                let root_attributes = if named_mode { RootAttributes::Keep } else { RootAttributes::Copy };
                copy(from.as_fd(), tree.as_fd(), root_attributes, &mut Budget { left: context.memory })?;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::from(e).context("tmpcopyup: open the directory")),
        }
        Ok(tree)
    }

    /// Returns the earlier mount that contains `target`, or else the root, and the path of `target` inside it.
    fn copy_source<'f>(&self, target: &Path, context: &MountContext<'f, 'a>) -> Result<(BorrowedFd<'f>, PathBuf)>
    where
        'a: 'f,
    {
        for mount in self.list.iter().rev() {
            let point = Path::new(OsStr::from_bytes(mount.target.to_bytes()));
            let Ok(inside) = target.strip_prefix(point) else { continue };
            return match mount.source {
                Source::Tree { fd, directory: true } => Ok((fd, Path::new("/").join(inside))),
                Source::Remount { .. } => continue,
                _ => Err(Error::unsupported(format!(
                    "tmpcopyup: {} is in a file system that only the container will have",
                    target.display()
                ))),
            };
        }
        Ok((context.root, target.to_owned()))
    }
}

/// Whether the tmpfs's root directory gets mode, owner and times of the copied directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RootAttributes {
    Copy,
    /// The mount names a mode.
    Keep,
}

/// The memory that the copy may still take.
struct Budget {
    /// Bytes; `None` is unlimited.
    left: Option<u64>,
}

impl Budget {
    /// Bytes charged for an inode, besides the pages of its content.
    const ENTRY: u64 = 4096;

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left
            .checked_sub(bytes)
            .ok_or_else(|| Error::invalid("the directory is larger than linux.resources.memory.limit"))?;
        Ok(())
    }
}

/// Copies the content of the directory `from` into the empty directory `to`.
///
/// # Errors
/// Names the entry that cannot be copied.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, root: RootAttributes, budget: &mut Budget) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = fs::openat(from, c".", flags, Mode::empty()).context("tmpcopyup: open the directory")?;
    let to = fs::openat(to, c".", flags, Mode::empty()).context("tmpcopyup: open the tmpfs")?;
    copy_entries(&from, &to, 0, budget)?;
    if root == RootAttributes::Copy {
        copy_attributes(&from, &to).context("tmpcopyup: attributes of the directory")?;
    }
    Ok(())
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: u32, budget: &mut Budget) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("tmpcopyup: directories are nested deeper than {MAX_DEPTH}")));
    }
    for entry in Dir::read_from(from).context("tmpcopyup: read the directory")? {
        let entry = entry.context("tmpcopyup: read the directory")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from, to, name, depth, budget)
            .with_context(|| format!("tmpcopyup: failed to copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

/// Copies one directory entry.
///
/// Other processes may write to `from` meanwhile, so each step works on an opened file, not on its name. Only this
/// process sees `to`.
fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, depth: u32, budget: &mut Budget) -> Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    budget.spend(Budget::ENTRY)?;
    match kind {
        FileType::Directory => {
            let source = fs::openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            fs::mkdirat(to, name, Mode::RWXU)?;
            let copy = fs::openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            copy_entries(&source, &copy, depth + 1, budget)?;
            copy_attributes(&source, &copy)?;
        }
        FileType::RegularFile => {
            let source = open_regular(from, name)?;
            let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = fs::openat(to, name, make, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            copy_content(&mut source, &mut copy, budget)?;
            copy_attributes(&source, &copy)?;
        }
        FileType::Symlink => {
            let target = fs::readlinkat(from, name, Vec::new())?;
            fs::symlinkat(target, to, name)?;
            let (uid, gid) = owner(&stat);
            fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
            fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
            let node = fs::openat(to, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            let (uid, gid) = owner(&stat);
            fs::chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            berth_init::mode::chmod(node.as_fd(), stat.st_mode & 0o7777)?;
        }
        // A socket file of an image has no listener, so a copy would be useless.
        FileType::Socket | FileType::Unknown => {}
    }
    Ok(())
}

/// Copies a file chunk by chunk: its size in stat(2) may be wrong, and it may grow meanwhile.
fn copy_content(from: &mut File, to: &mut File, budget: &mut Budget) -> Result<()> {
    loop {
        let chunk = budget.left.map_or(CHUNK, |left| CHUNK.min(left.saturating_add(1)));
        let copied = std::io::copy(&mut from.by_ref().take(chunk), to)?;
        budget.spend(copied)?;
        if copied < chunk {
            return Ok(());
        }
    }
}

/// Bytes of a file that are copied between two looks at the budget.
const CHUNK: u64 = 1 << 20;

/// Opens a regular file, and no other kind of file.
///
/// In a volume, another container may have replaced the file by a device node since it was examined. This process could
/// open the device, and the container would read its content.
///
/// # Errors
/// `EAGAIN` if the file is no longer a regular one.
fn open_regular(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd> {
    let path = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&path)?.st_mode) != FileType::RegularFile {
        return Err(Errno::AGAIN.into());
    }
    let reopened = format!("/proc/self/fd/{}", path.as_raw_fd());
    Ok(fs::open(reopened, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Copies owner, mode, extended attributes and times, in this order: chown(2) clears set-user-ID bits and file
/// capabilities.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let stat = &fs::fstat(&from)?;
    let (uid, gid) = owner(stat);
    fs::fchown(&to, uid, gid)?;
    fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0u8; 64 << 10];
    let len = match flistxattr(&from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    for name in names.get(..len).unwrap_or_default().split_inclusive(|&b| b == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0u8; 64 << 10];
        let len = fgetxattr(&from, name, &mut value[..])?;
        match fsetxattr(&to, name, value.get(..len).unwrap_or_default(), XattrFlags::empty()) {
            // tmpfs has had `user.*` attributes since Linux 6.6.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    fs::futimens(&to, &times(stat))?;
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.try_into().unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::PathBuf,
    };

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn tmpcopyup_copies_all_entries_and_follows_no_link() {
        let top = Scratch(std::env::temp_dir().join(format!("berth-copyup-{}", std::process::id())));
        let (a, b) = (top.0.join("a"), top.0.join("b"));
        std::fs::create_dir_all(a.join("sub/deep")).unwrap();
        std::fs::write(a.join("sub/file"), "text").unwrap();
        std::fs::set_permissions(a.join("sub/file"), Permissions::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(a.join("sub"), Permissions::from_mode(0o1733)).unwrap();
        symlink("/etc/passwd", a.join("link")).unwrap();
        fs::mknodat(fs::CWD, a.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(a.join("socket")).unwrap();
        let copied = |from: &Path, to: &Path, left: Option<u64>| {
            std::fs::create_dir(to).unwrap();
            let budget = &mut Budget { left };
            copy(File::open(from).unwrap().as_fd(), File::open(to).unwrap().as_fd(), RootAttributes::Copy, budget)
                .map(|()| budget.left)
        };
        // The budget counts a page for each of the six entries, and the four bytes of the file.
        assert_eq!(copied(&a, &b, None).unwrap(), None);
        assert_eq!(copied(&a, &top.0.join("c"), Some(6 * 4096 + 4)).unwrap(), Some(0));
        let error = copied(&a, &top.0.join("d"), Some(6 * 4096 + 3)).unwrap_err().to_string();
        assert!(error.contains("larger than linux.resources.memory.limit"), "{error}");
        assert_eq!(std::fs::read_to_string(b.join("sub/file")).unwrap(), "text");
        assert_eq!(std::fs::metadata(b.join("sub/file")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(std::fs::metadata(b.join("sub")).unwrap().mode() & 0o7777, 0o1733);
        assert_eq!(std::fs::read_link(b.join("link")).unwrap(), PathBuf::from("/etc/passwd"));
        assert_eq!(std::fs::metadata(b.join("fifo")).unwrap().mode() & 0o7777, 0o640);
        assert!(b.join("sub/deep").is_dir() && !b.join("socket").exists());
        let mtime = |path: PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(mtime(a.join("sub/file")), mtime(b.join("sub/file")));
    }
}
