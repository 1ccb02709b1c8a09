//! `linux.maskedPaths` and `linux.readonlyPaths`.
//!
//! A path in a mount of the plan is resolved from the mount itself, so that a directory above the mount that another
//! process renames changes nothing. Any other path is resolved once inside the root. The file that the path leads to is
//! covered. The root itself cannot be covered: the kernel looks paths up below a mount on the root, not in it.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat, StatxFlags},
    io::{Errno, Result as SysResult, fcntl_dupfd_cloexec},
};

use crate::{
    error::{At, Result, refusal},
    mount::{MOUNT_ATTR_RDONLY, clone_of, create, move_onto},
    path,
    plan::{Cover, FsOption, Mount, Rootfs, Within},
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
    let mut root = Root {
        fd: rootfs.tree,
        stat: fs::fstat(rootfs.tree).at(Step::EnterRoot)?,
        mounts: rootfs.mounts,
        in_place: None,
    };
    for (n, path) in rootfs.readonly_paths.iter().enumerate() {
        for found in root.find(path).at_index(Step::ReadonlyPath, n)?.iter().flatten() {
            make_readonly(&root, found).at_index(Step::ReadonlyPath, n)?;
        }
    }
    mask_all(&mut root, host_root, rootfs)
}

/// The root of the tree, with its stat(2) and its mounts.
struct Root<'a> {
    fd: BorrowedFd<'a>,
    stat: Stat,
    mounts: &'a [Mount<'a>],
    /// The mount that the last path lies in, if the mount's target led to it.
    in_place: Option<usize>,
}

impl Root<'_> {
    /// Resolves a path. It leads to two files if it lies in a mount that another mount covers. A missing file needs no
    /// cover.
    fn find(&mut self, cover: &Cover<'_>) -> SysResult<[Option<Found>; 2]> {
        let (within, in_place) = match cover.within {
            Some(within) => self.find_within(within)?,
            None => (None, false),
        };
        // The next path may lie below the cover of a mount's root.
        self.in_place = cover.within.filter(|within| in_place && !within.rest.is_empty()).map(|within| within.mount);
        Ok([within, if in_place { None } else { self.find_from_root(cover.path)? }])
    }

    /// Resolves a path from its mount. Also returns whether the path leads there from the root as well.
    fn find_within(&self, Within { mount: n, rest }: Within<'_>) -> SysResult<(Option<Found>, bool)> {
        let Some(mount) = self.mounts.get(n) else { return Ok((None, false)) };
        let find = |tree: BorrowedFd<'_>| {
            let in_place = self.in_place == Some(n) || self.leads_to(mount.target, tree)?;
            let at = if rest.is_empty() { fcntl_dupfd_cloexec(tree, 0) } else { path::open_beneath(tree, rest) };
            match at {
                Ok(at) => {
                    let directory = is_directory(&fs::fstat(&at)?);
                    Ok((Some(Found { at, root: false, directory }), in_place))
                }
                Err(Errno::NOENT | Errno::NOTDIR) => Ok((None, in_place)),
                // A link leads out of the mount.
                Err(Errno::XDEV) => Ok((None, false)),
                Err(e) => Err(e),
            }
        };
        mount.with_attached(find).unwrap_or(Ok((None, false)))
    }

    /// Returns whether `target` leads to the mount `tree`.
    fn leads_to(&self, target: &CStr, tree: BorrowedFd<'_>) -> SysResult<bool> {
        match path::open(self.fd, target, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            there => is_same_mount(there?.as_fd(), tree),
        }
    }

    /// Resolves `path` inside the root.
    fn find_from_root(&self, path: &CStr) -> SysResult<Option<Found>> {
        let at = match path::open(self.fd, path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other?,
        };
        let stat = fs::fstat(&at)?;
        // A bind mount of the root's directory has the same inode but another mount, and can be covered.
        let same = (stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino);
        let root = same && is_same_mount(at.as_fd(), self.fd)?;
        Ok(Some(Found { at, root, directory: is_directory(&stat) }))
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The file that a path leads to.
struct Found {
    at: OwnedFd,
    root: bool,
    directory: bool,
}

/// Returns whether both files are on one mount. Without statx(2) two roots with the same inode count as one.
fn is_same_mount(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> SysResult<bool> {
    match (mount_id(one), mount_id(other)) {
        (Err(Errno::NOSYS), _) => {
            let [one, other] = [fs::fstat(one)?, fs::fstat(other)?];
            Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
        }
        (one, other) => Ok(one? == other?),
    }
}

/// The id of the mount of `fd` (`STATX_MNT_ID`, Linux 5.8).
fn mount_id(fd: BorrowedFd<'_>) -> SysResult<u64> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
}

/// Covers a path with a read-only bind mount of itself. The mount is read-only before it is attached, and the path is
/// resolved once (GHSA-3q8j-pf29-vwv8). If the path leads to the root, the root itself becomes read-only.
fn make_readonly(root: &Root<'_>, found: &Found) -> SysResult<()> {
    if found.root {
        return sys::mount_setattr(root.fd, false, MOUNT_ATTR_RDONLY, 0, 0);
    }
    let view = clone_of(found.at.as_fd(), true)?;
    sys::mount_setattr(view.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0)?;
    move_onto(view.as_fd(), found.at.as_fd())
}

/// Masks files with the host's own null device, never with one that the image brought (CVE-2025-31133), and
/// directories with one empty read-only tmpfs for all of them.
fn mask_all(root: &mut Root<'_>, host_root: BorrowedFd<'_>, rootfs: &Rootfs<'_>) -> Result<()> {
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
    for (n, path) in rootfs.masked_paths.iter().enumerate() {
        for found in root.find(path).at_index(Step::MaskedPath, n)?.iter().flatten() {
            if found.root {
                return Err(refusal(Step::MaskedPath, n));
            }
            masks.attach(found.at.as_fd(), found.directory).at_index(Step::MaskedPath, n)?;
        }
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
