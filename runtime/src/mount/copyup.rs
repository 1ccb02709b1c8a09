//! `tmpcopyup`: a tmpfs that begins with what the image has at its place.
//!
//! It is filled here, detached, by the runtime: the container sees it whole or not at all, and nothing of the image is
//! followed, only copied. What lies there is found in the root file system, or in a mount of the same config.json that
//! comes before it.
//!
//! The memory that this takes is the runtime's, not the container's, whose limit therefore holds for it here. Without a limit
//! it is that of the tmpfs, as for what the container itself would put there.

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

use super::{Builder, Options, Scene, attributes as fs_attributes, fs_options};
use crate::{Context, Error, Result};

/// Directories deeper than this are refused, since each level holds descriptors.
const DEPTH: u32 = 200;

impl<'a> Builder<'a, '_> {
    /// A tmpfs with what is at its place: in the mount before it that is there, else in the root file system.
    pub(super) fn copied_up(
        &self,
        options: &Options,
        target: &Path,
        source: &str,
        scene: &Scene<'_, 'a>,
    ) -> Result<OwnedFd> {
        let arena = self.arena;
        let mut fs = fs_options(arena, options, source, scene.label)?;
        let ids = &scene.users.ids;
        if ids.mapped() {
            // In front: what config.json says comes after.
            let (uid, gid) = (ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?);
            fs.insert(0, FsOption::Pair(c"uid", arena.text(uid.to_string(), "mounts")?));
            fs.insert(0, FsOption::Pair(c"gid", arena.text(gid.to_string(), "mounts")?));
        }
        let tree =
            berth_init::rootfs::create(c"tmpfs", &fs, fs_attributes(options)?, None).context("create filesystem")?;
        let (root, inside) = self.below(target, scene)?;
        let inside = arena.path(&inside, "mounts.destination")?;
        match berth_init::path::open(root, inside, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(from) => {
                let itself = !options.data.iter().any(|word| word.starts_with("mode="));
                copy(from.as_fd(), tree.as_fd(), itself, &mut Room { left: scene.memory })?;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::from(e).context("tmpcopyup: open the directory")),
        }
        Ok(tree)
    }

    /// The mount of this config.json that `target` lies in, or the root, and the path inside it.
    fn below<'f>(&self, target: &Path, scene: &Scene<'f, 'a>) -> Result<(BorrowedFd<'f>, PathBuf)>
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
        Ok((scene.root, target.to_owned()))
    }
}

/// How much may still be copied, bytes.
struct Room {
    left: Option<u64>,
}

impl Room {
    /// What a file costs besides its content, which the kernel keeps in pages.
    const ENTRY: u64 = 4096;

    fn take(&mut self, bytes: u64) -> Result<()> {
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left
            .checked_sub(bytes)
            .ok_or_else(|| Error::invalid("more than linux.resources.memory.limit is there to be copied"))?;
        Ok(())
    }
}

/// Copies what is in the directory `from` into the empty directory `to`; with `itself`, its mode and owner, too.
///
/// # Errors
/// Names the entry that cannot be copied.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, itself: bool, room: &mut Room) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = fs::openat(from, c".", flags, Mode::empty()).context("tmpcopyup: open the directory")?;
    let to = fs::openat(to, c".", flags, Mode::empty()).context("tmpcopyup: open the tmpfs")?;
    entries(&from, &to, 0, room)?;
    if itself {
        attributes(&from, &to).context("tmpcopyup: attributes of the directory")?;
    }
    Ok(())
}

fn entries(from: &OwnedFd, to: &OwnedFd, depth: u32, room: &mut Room) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::invalid(format!("tmpcopyup: directories are nested deeper than {DEPTH}")));
    }
    for entry in Dir::read_from(from).context("tmpcopyup: read the directory")? {
        let entry = entry.context("tmpcopyup: read the directory")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        one(from, to, name, depth, room)
            .with_context(|| format!("tmpcopyup: failed to copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

/// Others may write to the directory `from`, so what counts is what was opened. `to` is nobody else's to see yet.
fn one(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, depth: u32, room: &mut Room) -> Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    room.take(Room::ENTRY)?;
    match kind {
        FileType::Directory => {
            let source = fs::openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            fs::mkdirat(to, name, Mode::RWXU)?;
            let copy = fs::openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            entries(&source, &copy, depth + 1, room)?;
            attributes(&source, &copy)?;
        }
        FileType::RegularFile => {
            let source = open_regular(from, name)?;
            let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = fs::openat(to, name, make, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            content(&mut source, &mut copy, room)?;
            attributes(&source, &copy)?;
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
            berth_init::mode::set(node.as_fd(), stat.st_mode & 0o7777)?;
        }
        // Nobody listens at a socket of an image.
        FileType::Socket | FileType::Unknown => {}
    }
    Ok(())
}

/// Copies a file piece by piece: it may be longer than it says, and grow meanwhile.
fn content(from: &mut File, to: &mut File, room: &mut Room) -> Result<()> {
    loop {
        let piece = room.left.map_or(PIECE, |left| PIECE.min(left.saturating_add(1)));
        let copied = std::io::copy(&mut from.by_ref().take(piece), to)?;
        room.take(copied)?;
        if copied < piece {
            return Ok(());
        }
    }
}

/// Bytes of a file that are copied before the room is looked at again.
const PIECE: u64 = 1 << 20;

/// Opens a regular file and nothing else: a name of a volume may have become a device since it was looked at, which this
/// process could open and no container should have read.
fn open_regular(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd> {
    let path = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&path)?.st_mode) != FileType::RegularFile {
        return Err(Errno::AGAIN.into());
    }
    let again = format!("/proc/self/fd/{}", path.as_raw_fd());
    Ok(fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Owner first: a change of it takes set-user-ID bits and file capabilities away.
fn attributes(from: impl AsFd, to: impl AsFd) -> Result<()> {
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
            // A tmpfs knows those of users since Linux 6.6.
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
    fn everything_is_copied_and_nothing_followed() {
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
            let room = &mut Room { left };
            copy(File::open(from).unwrap().as_fd(), File::open(to).unwrap().as_fd(), true, room).map(|()| room.left)
        };
        // Six entries that count for a page each, and four bytes.
        assert_eq!(copied(&a, &b, None).unwrap(), None);
        assert_eq!(copied(&a, &top.0.join("c"), Some(6 * 4096 + 4)).unwrap(), Some(0));
        let error = copied(&a, &top.0.join("d"), Some(6 * 4096 + 3)).unwrap_err().to_string();
        assert!(error.contains("more than linux.resources.memory.limit"), "{error}");
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
