//! `linux.maskedPaths` and `linux.readonlyPaths`.
//!
//! Each path is resolved once, inside the root, and the file that it leads to is covered. The root itself cannot be
//! covered: the kernel looks paths up below a mount on the root, not in it.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat, StatxFlags},
    io::{Errno, Result as SysResult},
};

use crate::{
    error::{At, Result, refusal},
    mount::{MOUNT_ATTR_RDONLY, clone_of, create, move_onto},
    path,
    plan::{FsOption, Rootfs},
    sys,
    wire::Step,
};

/// The index of [`Step::MaskedPath`] if the null device fails, and not a path: no list is that long.
const NULL_DEVICE: usize = u32::MAX as usize;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Covers all paths of the plan. The host's tree must still be mounted.
pub(crate) fn all(rootfs: &Rootfs<'_>, host_root: BorrowedFd<'_>) -> Result<()> {
    if rootfs.readonly_paths.is_empty() && rootfs.masked_paths.is_empty() {
        return Ok(());
    }
    let root = Root { fd: rootfs.tree, stat: fs::fstat(rootfs.tree).at(Step::EnterRoot)? };
    for (n, &path) in rootfs.readonly_paths.iter().enumerate() {
        make_readonly(&root, path).at_index(Step::ReadonlyPath, n)?;
    }
    mask_all(&root, host_root, rootfs)
}

/// The root of the tree, with its stat(2).
struct Root<'a> {
    fd: BorrowedFd<'a>,
    stat: Stat,
}

impl Root<'_> {
    /// Resolves `path` inside the root. Returns `None` if no file is there: a missing path needs no cover.
    fn find(&self, path: &CStr) -> SysResult<Option<Found>> {
        let at = match path::open(self.fd, path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other?,
        };
        let stat = fs::fstat(&at)?;
        // A bind mount of the root's directory has the same inode but another mount, and can be covered.
        let same = (stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino);
        let root = same && mount_id(at.as_fd())? == mount_id(self.fd)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(Some(Found { at, root, directory }))
    }
}

/// The file that a path leads to.
struct Found {
    at: OwnedFd,
    root: bool,
    directory: bool,
}

/// The id of the mount of `fd` (`STATX_MNT_ID`, Linux 5.8).
fn mount_id(fd: BorrowedFd<'_>) -> SysResult<u64> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
}

/// Covers a path with a read-only bind mount of itself. The mount is read-only before it is attached, and the path is
/// resolved once (GHSA-3q8j-pf29-vwv8). If the path leads to the root, the root itself becomes read-only.
fn make_readonly(root: &Root<'_>, path: &CStr) -> SysResult<()> {
    let Some(found) = root.find(path)? else { return Ok(()) };
    if found.root {
        return sys::mount_setattr(root.fd, false, MOUNT_ATTR_RDONLY, 0, 0);
    }
    let view = clone_of(found.at.as_fd(), true)?;
    sys::mount_setattr(view.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0)?;
    move_onto(view.as_fd(), found.at.as_fd())
}

/// Masks files with the host's own null device, never with one that the image brought (CVE-2025-31133), and
/// directories with one empty read-only tmpfs for all of them.
fn mask_all(root: &Root<'_>, host_root: BorrowedFd<'_>, rootfs: &Rootfs<'_>) -> Result<()> {
    if rootfs.masked_paths.is_empty() {
        return Ok(());
    }
    let null = fs::openat(host_root, c"dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .at_index(Step::MaskedPath, NULL_DEVICE)?;
    let stat = fs::fstat(&null).at_index(Step::MaskedPath, NULL_DEVICE)?;
    if stat.st_rdev != fs::makedev(1, 3) || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(Errno::NODEV).at_index(Step::MaskedPath, NULL_DEVICE);
    }
    let mut masks = Masks { null, file: None, directory: None, options: rootfs.mask_options };
    for (n, &path) in rootfs.masked_paths.iter().enumerate() {
        let Some(found) = root.find(path).at_index(Step::MaskedPath, n)? else { continue };
        if found.root {
            return Err(refusal(Step::MaskedPath, n));
        }
        masks.attach(found.at.as_fd(), found.directory).at_index(Step::MaskedPath, n)?;
    }
    Ok(())
}

/// The masks. The first mask of each kind is created, and the others are clones of it: an attached mount can be cloned
/// on all kernels, a detached one only since Linux 6.15.
struct Masks<'a> {
    null: OwnedFd,
    file: Option<OwnedFd>,
    directory: Option<OwnedFd>,
    options: &'a [FsOption<'a>],
}

impl Masks<'_> {
    /// Attaches a mask on `target`.
    fn attach(&mut self, target: BorrowedFd<'_>, directory: bool) -> SysResult<()> {
        let first = if directory { &self.directory } else { &self.file };
        if let Some(first) = first {
            return move_onto(clone_of(first.as_fd(), false)?.as_fd(), target);
        }
        let mask = if directory { self.empty_directory() } else { self.null_device() }?;
        move_onto(mask.as_fd(), target)?;
        *if directory { &mut self.directory } else { &mut self.file } = Some(mask);
        Ok(())
    }

    /// An empty read-only tmpfs.
    fn empty_directory(&self) -> SysResult<OwnedFd> {
        const ATTRIBUTES: u64 = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        create(c"tmpfs", self.options, u32::try_from(ATTRIBUTES).map_err(|_| Errno::INVAL)?, None)
    }

    /// A read-only bind mount of the null device. The container sees the host's inode, and must not change its mode or
    /// owner, which `MOUNT_ATTR_RDONLY` prevents. `MOUNT_ATTR_NODEV` would make it impossible to open; a read must
    /// return end of file instead of an error.
    fn null_device(&self) -> SysResult<OwnedFd> {
        let mask = clone_of(self.null.as_fd(), false)?;
        sys::mount_setattr(mask.as_fd(), false, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0)?;
        Ok(mask)
    }
}
