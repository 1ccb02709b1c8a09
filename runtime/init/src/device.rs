//! Device nodes and the default links of `/dev`. The child creates them in the image's own `/dev`, or the parent in a
//! detached tmpfs.

use core::ffi::CStr;

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

/// Creates a device node at its path below `root`, with the mode and the owner of the plan: the umask of the caller
/// must be 0. `owner` owns the directories that are created on the way.
///
/// The directory may be a volume that other processes write to, so the name is used for the creation only, and all
/// further calls use the fd of the node. An existing node of the same device stays as it is: it may be the host's own,
/// bound there.
///
/// # Errors
/// `EEXIST` if another file has the name; as mknod(2).
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
    if !is_device(&seen, device) {
        return Err(Errno::EXIST);
    }
    if made { set_owner_and_mode(node.as_fd(), &seen, device) } else { Ok(()) }
}

/// True if the file is the device of the plan, with any mode and owner.
fn is_device(seen: &Stat, device: &Device<'_>) -> bool {
    let kind = FileType::from_raw_mode(device.mode);
    let same = kind == FileType::Fifo || seen.st_rdev == fs::makedev(device.major, device.minor);
    FileType::from_raw_mode(seen.st_mode) == kind && same
}

/// Sets the owner and the mode of a new node where mknod(2) could not: mknod gives it the owner of the process, and a
/// default ACL of the directory may narrow the mode. chown(2) clears the set-user-ID and set-group-ID bits, so the
/// mode is set again after it.
fn set_owner_and_mode(node: BorrowedFd<'_>, seen: &Stat, device: &Device<'_>) -> Result<()> {
    let other_owner = (seen.st_uid, seen.st_gid) != (device.uid, device.gid);
    if other_owner {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    let wanted = device.mode & 0o7777;
    let bits_cleared = other_owner && wanted & 0o6000 != 0;
    if seen.st_mode & 0o7777 != wanted || bits_cleared { mode::chmod(node, wanted) } else { Ok(()) }
}

/// Creates `/dev/fd`, the links of the standard streams, and `ptmx`, as every runtime does. Existing links stay,
/// except for `ptmx`: it must be that of the container's own devpts. With an `owner` no other process may see the
/// directory yet.
///
/// # Errors
/// As symlink(2), unlink(2) and chown(2).
pub fn make_links(dev: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    const LINKS: [(&CStr, &CStr); 4] = [
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

/// Creates a symbolic link that `owner` owns; an existing file stays.
fn link(dev: BorrowedFd<'_>, name: &CStr, to: &CStr, owner: Owner) -> Result<()> {
    match fs::symlinkat(to, dev, name) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let Some((uid, gid)) = owner else { return Ok(()) };
    fs::chownat(dev, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}
