//! Device nodes and the default links of `/dev`: made in the image's own `/dev`, or by the parent in a detached tmpfs.

use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::{Errno, Result},
    process::{Gid, Uid},
};

use crate::{
    path::{self, Target},
    plan::Device,
};

/// Makes a node at its path below `root`, with exactly the mode and owner that the plan says, whatever the umask.
/// One that is there and is the same device is kept; anything else in its place is an error.
pub fn make(root: BorrowedFd<'_>, device: &Device<'_>) -> Result<()> {
    let mut buffer = [0u8; path::SPLIT];
    let (dir, name) = path::split(device.path, &mut buffer)?;
    let opened = if dir == c"/" { None } else { Some(path::open_or_make(root, dir, Target::Directory)?) };
    let dir = opened.as_ref().map_or(root, AsFd::as_fd);
    let kind = FileType::from_raw_mode(device.mode);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    let number = fs::makedev(device.major, device.minor);
    match fs::mknodat(dir, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let there = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same_kind = FileType::from_raw_mode(there.st_mode) == kind;
            if !same_kind || (kind != FileType::Fifo && there.st_rdev != number) {
                return Err(Errno::EXIST);
            }
        }
        Err(e) => return Err(e),
    }
    // By fd, not by name: the directory is the image's, and nothing but the node that was just seen may be changed.
    let node = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let seen = fs::fstat(&node)?;
    if FileType::from_raw_mode(seen.st_mode) != kind {
        return Err(Errno::EXIST);
    }
    if (seen.st_uid, seen.st_gid) != (device.uid, device.gid) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    if seen.st_mode & 0o7777 != device.mode & 0o7777 {
        // O_PATH fds cannot be fchmod-ed before fchmodat2 (Linux 6.6); the directory entry was made by us above.
        fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

/// `/dev/fd`, the standard streams and `ptmx`, as every container runtime makes them; those that exist stay, but
/// `ptmx`, which must be that of the container's own devpts.
pub fn make_links(dev: BorrowedFd<'_>, owner: Option<(u32, u32)>) -> Result<()> {
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

fn link(dev: BorrowedFd<'_>, name: &core::ffi::CStr, to: &core::ffi::CStr, owner: Option<(u32, u32)>) -> Result<()> {
    match fs::symlinkat(to, dev, name) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let Some((uid, gid)) = owner else { return Ok(()) };
    fs::chownat(dev, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}
