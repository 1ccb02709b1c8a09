//! Mounts as file descriptors.
//!
//! A mount is created, cloned and changed while it is detached, and then attached. No process sees a detached mount,
//! so no process sees a mount with the wrong attributes.

use core::ffi::CStr;

use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags},
    io::{Errno, Result},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use crate::{digits::octal_mode, namespace, path::ProcFdPath, plan::FsOption, sys};

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;

/// Creates a file system that belongs to one of the namespaces of this process, as a detached mount with `attributes`
/// (`MOUNT_ATTR_*`). `mode` sets the mode of a tmpfs's root; an option `mode` overrides it.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn create(fstype: &CStr, options: &[FsOption<'_>], attributes: u32, mode: Option<u32>) -> Result<OwnedFd> {
    let mut context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(mode) = mode {
        let text = octal_mode(mode);
        fsconfig_set_string(&context, c"mode", CStr::from_bytes_with_nul(&text).map_err(|_| Errno::INVAL)?)?;
    }
    for option in options {
        match option {
            FsOption::Flag(key) => fsconfig_set_flag(&context, *key)?,
            FsOption::Optional(key) => match fsconfig_set_flag(&context, *key) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(e) => return Err(e),
            },
            FsOption::Pair(key, value) => fsconfig_set_string(&context, *key, *value)?,
            FsOption::PidNamespace(namespace) => match fsconfig_set_fd(&context, c"pidns", namespace) {
                // Before Linux 6.17 procfs shows the pid namespace of the process that opens the context.
                Err(Errno::INVAL) => context = namespace::context_of_children(fstype)?,
                other => other?,
            },
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes))
}

/// Sets the SELinux context of the root of a detached mount. fsetxattr(2) needs an open file, which the fd of a mount
/// is not.
pub(crate) fn set_label(tree: BorrowedFd<'_>, label: &CStr) -> Result<()> {
    let root = fs::openat(tree, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fs::fsetxattr(&root, c"security.selinux", label.to_bytes_with_nul(), fs::XattrFlags::empty())
}

/// Attaches a detached mount on the file or directory of `target`.
pub fn move_onto(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", empty)
}

/// Clones the mount that `fd` lies in, with `fd` as its root, as a detached mount.
pub(crate) fn clone_of(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, c"", flags)
}

/// Changes a mount and its file system by mount(2) with `MS_REMOUNT`. No call takes both an fd and the options as one
/// text, so the call takes the name of the fd in the host's /proc, which is still the /proc of this process.
pub(crate) fn remount(target: BorrowedFd<'_>, flags: u64, data: &CStr) -> Result<()> {
    sys::remount(ProcFdPath::new(target)?.name()?, flags, data)
}
