//! Device nodes and the default links of `/dev`: made in the image's own `/dev`, or by the parent in a detached tmpfs.

use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::{Errno, Result},
    process::{Gid, Uid},
};

use crate::{
    mode,
    path::{self, Owner, Target},
    plan::Device,
};

/// Makes a node at its path below `root`, with exactly the mode and owner that the plan says: the umask of the caller is 0.
/// Directories on the way are `owner`'s.
///
/// The directory may be a volume that others write to, so nothing is done to a name once it has been looked at. A node
/// that is there and is the same device stays as it is: it may be the host's own, mounted there. Anything else in its
/// place is an error.
pub fn make(root: BorrowedFd<'_>, device: &Device<'_>, owner: Owner) -> Result<()> {
    let mut buffer = [0u8; path::SPLIT];
    let (dir, name) = path::split(device.path, &mut buffer)?;
    let opened = if dir == c"/" { None } else { Some(path::open_or_make(root, dir, Target::Directory, owner)?) };
    let dir = opened.as_ref().map_or(root, AsFd::as_fd);
    let kind = FileType::from_raw_mode(device.mode);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    let made = match fs::mknodat(dir, name, kind, mode, fs::makedev(device.major, device.minor)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e),
    };
    let node = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let seen = fs::fstat(&node)?;
    if !is(&seen, device) {
        return Err(Errno::EXIST);
    }
    if made { settle(node.as_fd(), &seen, device) } else { Ok(()) }
}

/// The device that the plan wants, whatever its mode and owner.
fn is(seen: &Stat, device: &Device<'_>) -> bool {
    let kind = FileType::from_raw_mode(device.mode);
    let same = kind == FileType::Fifo || seen.st_rdev == fs::makedev(device.major, device.minor);
    FileType::from_raw_mode(seen.st_mode) == kind && same
}

/// What mknod(2) could not give to a new node: another owner, and a mode that a default ACL of the directory has narrowed,
/// or that chown(2) takes set-user-ID bits from.
fn settle(node: BorrowedFd<'_>, seen: &Stat, device: &Device<'_>) -> Result<()> {
    let given = (seen.st_uid, seen.st_gid) != (device.uid, device.gid);
    if given {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    let wanted = device.mode & 0o7777;
    let taken = given && wanted & 0o6000 != 0;
    if seen.st_mode & 0o7777 != wanted || taken { mode::chmod(node, wanted) } else { Ok(()) }
}

/// `/dev/fd`, the standard streams and `ptmx`, as every container runtime makes them; those that exist stay, but
/// `ptmx`, which must be that of the container's own devpts. With an `owner` the directory must be nobody else's to see
/// yet.
pub fn make_links(dev: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    const LINKS: [(&core::ffi::CStr, &core::ffi::CStr); 4] = [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
    ];
    for (name, to) in LINKS {
        link(dev, name, to, owner)?;
    }
    if fs::access(c"/proc/kcore", fs::Access::EXISTS).is_ok() {
        link(dev, c"core", c"/proc/kcore", owner)?;
    }
    match fs::unlinkat(dev, c"ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    link(dev, c"ptmx", c"pts/ptmx", owner)
}

fn link(dev: BorrowedFd<'_>, name: &core::ffi::CStr, to: &core::ffi::CStr, owner: Owner) -> Result<()> {
    match fs::symlinkat(to, dev, name) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let Some((uid, gid)) = owner else { return Ok(()) };
    fs::chownat(dev, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}
