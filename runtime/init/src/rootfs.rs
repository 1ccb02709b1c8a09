//! The root file system: mounts, devices, the way in, and what is hidden or read-only in it.
//!
//! Everything happens below one fd, the root of a tree that nobody else sees yet; the host's tree is left behind as a
//! whole at the end.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, FileType, Mode, OFlags},
    io::{Errno, Result as SysResult},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
    },
};

use crate::{
    At, Report, Result, console,
    cover::{self, MOUNT_ATTR_RDONLY},
    device, namespace,
    path::{self, OfFd, Owner, Target},
    plan::{Container, Enter, FsOption, Inside, Mount, Plan, Rootfs, Source, Stdio},
    sys,
    wire::{Failure, Step},
};

/// Builds the root, with all that is mounted in it. `terminal` becomes the terminal's slave when the plan asks for a
/// terminal. Returns the root of the host's tree, which [`enter`] leaves behind.
pub fn build(
    container: &Container<'_>,
    terminal: &mut Option<OwnedFd>,
    plan: &Plan<'_>,
    report: &Report<'_>,
) -> Result<Option<OwnedFd>> {
    let rootfs = &container.rootfs;
    if matches!(rootfs.enter, Enter::Chroot) {
        return Ok(None);
    }
    // Mount targets, directories and nodes are born with the modes that they are to have.
    report.umask.set(Some(rustix::process::umask(Mode::empty())));
    let host_root = attach_rootfs(rootfs)?;
    let root = rootfs.tree;
    for (n, mount) in rootfs.mounts.iter().enumerate() {
        attach(root, mount, n, Some(report), None)?;
    }
    for (n, node) in rootfs.devices.iter().enumerate() {
        device::make(root, node, None).at_index(Step::Device, n)?;
    }
    if rootfs.dev_links {
        let dev = path::open_or_make(root, c"/dev", Target::Directory, None).at(Step::DevLink)?;
        device::make_links(dev.as_fd(), None).at(Step::DevLink)?;
    }
    if let Stdio::Terminal { .. } = plan.stdio {
        let slave = console::open_in(root, plan, report)?;
        if rootfs.console {
            console::bind(root, &slave).at(Step::ConsoleBind)?;
        }
        *terminal = Some(slave);
    }
    // That of hooks, and of a payload that has none of its own.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(Some(host_root))
}

/// Hides and seals what the plan says, and makes the tree the root of this process.
pub fn enter(rootfs: &Rootfs<'_>, host_root: Option<OwnedFd>) -> Result<()> {
    let Some(host_root) = host_root else {
        rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
        return rustix::process::chroot(c".").at(Step::EnterRoot);
    };
    let root = rootfs.tree;
    path::open_or_make(root, rootfs.cwd, Target::Directory, None).at(Step::MakeCwd)?;
    seal(rootfs.mounts)?;
    cover::all(rootfs, host_root.as_fd())?;
    if rootfs.readonly {
        sys::mount_setattr(root, false, MOUNT_ATTR_RDONLY, 0, 0).at(Step::RootReadonly)?;
    }
    leave_host(rootfs, host_root.as_fd())?;
    if rootfs.propagation != 0 {
        // The root is now ".", and the process' own root.
        sys::mount_setattr(root, false, 0, 0, rootfs.propagation).at(Step::RootPropagation)?;
    }
    Ok(())
}

/// Hangs the detached clone of the rootfs over `/` of the copied tree: the one place that needs no path of the host,
/// so nothing on the way to the bundle has to be traversable for a mapped user. Hooks of the mount namespace look for it
/// in the bundle; for them it is hung there.
fn attach_rootfs(rootfs: &Rootfs<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host_root = fs::open(c"/", flags, Mode::empty()).at(Step::HostPropagation)?;
    let in_host = rootfs.enter == Enter::InHost;
    if !in_host {
        sys::mount_setattr(host_root.as_fd(), true, 0, 0, rootfs.host_propagation).at(Step::HostPropagation)?;
        // pivot_root(2) and the move need a parent that is not shared, whatever the tree's propagation is.
        sys::mount_setattr(host_root.as_fd(), false, 0, 0, libc::MS_PRIVATE).at(Step::HostPropagation)?;
    }
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match rootfs.at {
        None => move_mount(rootfs.tree, c"", &host_root, c"", empty).at(Step::AttachRootfs)?,
        Some(path) => {
            let place = fs::open(path, flags, Mode::empty()).at(Step::AttachRootfs)?;
            if !in_host {
                unshare_mount_of(path).at(Step::AttachRootfs)?;
            }
            move_mount(rootfs.tree, c"", &place, c"", empty).at(Step::AttachRootfs)?;
        }
    }
    Ok(host_root)
}

/// Makes the mount that `path` is on private. Only its root can be named, which is one of the directories above.
fn unshare_mount_of(path: &CStr) -> SysResult<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = fs::open(path, flags, Mode::empty())?;
    // Each turn goes up one directory; the last is `/`, whose mount is private already.
    for _ in path.to_bytes() {
        match sys::mount_setattr(directory.as_fd(), false, 0, 0, libc::MS_PRIVATE) {
            Err(Errno::INVAL) => directory = fs::openat(&directory, c"..", flags, Mode::empty())?,
            other => return other,
        }
    }
    Ok(())
}

/// Makes mount number `n` and hangs it below `root`; directories that are made for it are `owner`'s. Whoever has a
/// `report` has its parent map ids. What becomes read-only in the end waits for [`seal`].
pub fn attach(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    n: usize,
    report: Option<&Report<'_>>,
    owner: Owner,
) -> Result<()> {
    match &mount.source {
        Source::Link { to } => link(root, mount.target, to, owner).at_index(Step::MountTarget, n),
        Source::Inside(inside) => bind_inside(root, mount, inside, n, (report, owner)),
        Source::Tree { fd, directory } => {
            let (target, _) = find_target(root, mount, kind(*directory), n, owner)?;
            let renewed = if mount.renewed { renew(*fd) } else { None };
            hang(renewed.as_ref().map_or(*fd, AsFd::as_fd), target.as_fd(), mount, n)?;
            if mount.sealed {
                let tree = renewed.map_or_else(|| rustix::io::fcntl_dupfd_cloexec(fd, 0), Ok);
                mount.open.set(Some(tree.at_index(Step::MountAttach, n)?));
            }
            Ok(())
        }
        Source::Fs { fstype, options, attributes, relabel } => {
            let (target, mode) = find_target(root, mount, Target::Directory, n, owner)?;
            let tree = create(fstype, options, *attributes, mode).at_index(Step::MountCreate, n)?;
            if let Some(label) = relabel {
                set_label(tree.as_fd(), label).at_index(Step::MountLabel, n)?;
            }
            hang(tree.as_fd(), target.as_fd(), mount, n)?;
            if mount.sealed {
                mount.open.set(Some(tree));
            }
            Ok(())
        }
        Source::Remount { flags, data } => {
            let target = path::open(root, mount.target, OFlags::PATH).at_index(Step::MountTarget, n)?;
            remount(target.as_fd(), *flags, data).at_index(Step::MountAttach, n)?;
            propagate(target.as_fd(), mount, n)
        }
    }
}

/// Makes those mounts read-only that are to be so when nothing has to be made in them any more: by the descriptors that they
/// were attached by, since their names may lead elsewhere by now.
pub fn seal(mounts: &[Mount<'_>]) -> Result<()> {
    for (n, mount) in mounts.iter().enumerate() {
        let Some(tree) = mount.open.take() else { continue };
        sys::mount_setattr(tree.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0).at_index(Step::MountAttach, n)?;
    }
    Ok(())
}

/// What a target has to be for this source.
fn kind(directory: bool) -> Target {
    if directory { Target::Directory } else { Target::File }
}

fn hang(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, mount: &Mount<'_>, n: usize) -> Result<()> {
    move_onto(tree, target).at_index(Step::MountAttach, n)?;
    propagate(tree, mount, n)
}

/// The same file system in a mount of its own. The kernel lists mounts by when they were made (Linux 6.8), readers take
/// that for the order of config.json, and what the parent has filled is older than what init makes and mounts before it.
/// Where the kernel copies no detached mount (before Linux 6.15), it is the parent's that is attached.
fn renew(tree: BorrowedFd<'_>) -> Option<OwnedFd> {
    clone_of(tree, true).ok()
}

fn bind_inside(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    inside: &Inside<'_>,
    n: usize,
    (report, owner): (Option<&Report<'_>>, Owner),
) -> Result<()> {
    let from = path::open(root, inside.from, OFlags::PATH).at_index(Step::MountSource, n)?;
    let stat = fs::fstat(&from).at_index(Step::MountSource, n)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let tree = clone_of(from.as_fd(), inside.recursive).at_index(Step::MountSource, n)?;
    for (recursive, (set, clear)) in [(false, inside.attributes), (true, inside.all)] {
        if set | clear != 0 {
            sys::mount_setattr(tree.as_fd(), recursive, set, clear, 0).at_index(Step::MountSource, n)?;
        }
    }
    if let Some((users, recursive)) = inside.ids {
        let mapped = match report {
            Some(report) => report.have_mapped(tree.as_fd(), n),
            None => sys::map_ids(tree.as_fd(), recursive, users),
        };
        mapped.at_index(Step::MountSource, n)?;
    }
    let (target, _) = find_target(root, mount, kind(directory), n, owner)?;
    hang(tree.as_fd(), target.as_fd(), mount, n)
}

/// There is no call for this by fd that also takes the file system's own options as they are; the host's /proc, which
/// is still that of this process' root, names the fd.
fn remount(target: BorrowedFd<'_>, flags: u64, data: &CStr) -> SysResult<()> {
    sys::remount(OfFd::new(target)?.name()?, flags, data)
}

fn propagate(tree: BorrowedFd<'_>, mount: &Mount<'_>, n: usize) -> Result<()> {
    for &flags in mount.propagation {
        let recursive = flags & libc::MS_REC != 0;
        sys::mount_setattr(tree, recursive, 0, 0, flags & !libc::MS_REC).at_index(Step::MountPropagation, n)?;
    }
    Ok(())
}

/// Also the mode that a tmpfs takes over from a directory that was there.
fn find_target(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    kind: Target,
    n: usize,
    owner: Owner,
) -> Result<(OwnedFd, Option<u32>)> {
    if mount.on_link
        && let Some(link) = find_link(root, mount.target, owner).at_index(Step::MountTarget, n)?
    {
        return Ok((link, None));
    }
    if mount.ordinary {
        return ordinary(root, mount.target, n, owner).map(|fd| (fd, None));
    }
    let (target, made) = path::find_or_make(root, mount.target, kind, owner).at_index(Step::MountTarget, n)?;
    let stat = fs::fstat(&target).at_index(Step::MountTarget, n)?;
    // move_mount(2) would say EINVAL, which names no fault.
    match (kind, FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
        (Target::Directory, false) => Err(Errno::NOTDIR).at_index(Step::MountTarget, n),
        (Target::File, true) => Err(Errno::ISDIR).at_index(Step::MountTarget, n),
        _ => Ok((target, (!made).then_some(stat.st_mode & 0o7777))),
    }
}

/// A directory that is reached through no link. Where it had to be made it is looked for once more: a link may have come
/// there meanwhile, and what made it follows links.
fn ordinary(root: BorrowedFd<'_>, target: &CStr, n: usize, owner: Owner) -> Result<OwnedFd> {
    let found = match path::open_ordinary(root, target) {
        Err(Errno::NOENT) => {
            path::open_or_make(root, target, Target::Directory, owner).at_index(Step::MountTarget, n)?;
            path::open_ordinary(root, target)
        }
        other => other,
    };
    match found {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Failure { step: Step::NotOrdinary, index: u32::try_from(n).unwrap_or(u32::MAX), errno: 0 })
        }
        other => other.at_index(Step::MountTarget, n),
    }
}

/// The link at `target`, itself; `None` when something else is there, or nothing.
fn find_link(root: BorrowedFd<'_>, target: &CStr, owner: Owner) -> SysResult<Option<OwnedFd>> {
    let mut buffer = [0u8; path::SPLIT];
    let (dir, name) = path::split(target, &mut buffer)?;
    let dir = path::open_or_make(root, dir, Target::Directory, owner)?;
    match fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok((FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == FileType::Symlink).then_some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn link(root: BorrowedFd<'_>, target: &CStr, to: &CStr, owner: Owner) -> SysResult<()> {
    let mut buffer = [0u8; path::SPLIT];
    let (dir, name) = path::split(target, &mut buffer)?;
    let dir = path::open_or_make(root, dir, Target::Directory, owner)?;
    match fs::symlinkat(to, &dir, name) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Creates a file system of one of this process' namespaces, detached. `mode` is that of a tmpfs' root unless the
/// options say another.
pub fn create(fstype: &CStr, options: &[FsOption<'_>], attributes: u32, mode: Option<u32>) -> SysResult<OwnedFd> {
    let mut context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(mode) = mode
        && fstype == c"tmpfs"
        && !options.iter().any(|option| matches!(option, FsOption::Pair(key, _) if *key == c"mode"))
    {
        let octal = [9, 6, 3, 0].map(|shift| b'0' + u8::try_from(mode >> shift & 7).unwrap_or(0));
        let [a, b, c, d] = octal;
        let text = [a, b, c, d, 0];
        fsconfig_set_string(&context, c"mode", CStr::from_bytes_with_nul(&text).map_err(|_| Errno::INVAL)?)?;
    }
    for option in options {
        match option {
            FsOption::Flag(key) => fsconfig_set_flag(&context, *key)?,
            FsOption::Hint(key) => match fsconfig_set_flag(&context, *key) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(e) => return Err(e),
            },
            FsOption::Pair(key, value) => fsconfig_set_string(&context, *key, *value)?,
            FsOption::PidNamespace(namespace) => match fsconfig_set_fd(&context, c"pidns", namespace) {
                // Before Linux 6.17 it is the namespace of the process that opens the context.
                Err(Errno::INVAL) => context = namespace::context_of_children(fstype)?,
                other => other?,
            },
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes))
}

/// The SELinux context of a detached mount's root. An fd of a mount is no open file, which this takes.
fn set_label(tree: BorrowedFd<'_>, label: &CStr) -> SysResult<()> {
    let root = fs::openat(tree, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fs::fsetxattr(&root, c"security.selinux", label.to_bytes_with_nul(), fs::XattrFlags::empty())
}

pub(crate) fn move_onto(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> SysResult<()> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", empty)
}

pub(crate) fn clone_of(fd: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, c"", flags)
}

/// Takes a mount of the host's away, or covers it where a user namespace holds on to it.
fn hide_mount(host_root: BorrowedFd<'_>, path: &CStr) -> SysResult<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {
            let target = path::open_ordinary(host_root, path)?;
            move_onto(create(c"tmpfs", &[FsOption::Flag(c"ro")], 0, None)?.as_fd(), target.as_fd())
        }
        // It went with the mount that it was in.
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Leaves the host's tree behind.
fn leave_host(rootfs: &Rootfs<'_>, host_root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
    match rootfs.enter {
        Enter::Pivot => {
            // The old root is put on the new one, which must not be shared for that either; it becomes so again.
            let shared = rootfs.host_propagation == libc::MS_SHARED;
            if shared {
                sys::mount_setattr(rootfs.tree, false, 0, 0, libc::MS_PRIVATE).at(Step::EnterRoot)?;
            }
            // With both arguments "." the old root ends up mounted on the new one (pivot_root(2), NOTES), and goes
            // from there with all that is below it; its propagation is cut before, so that nothing goes on the host.
            // Unless it is to be shared, `attach_rootfs` has done that, and every mount of the host need not be seen
            // again.
            rustix::process::pivot_root(c".", c".").at(Step::EnterRoot)?;
            rustix::process::fchdir(host_root).at(Step::EnterRoot)?;
            if shared {
                sys::mount_setattr(host_root, true, 0, 0, libc::MS_SLAVE).at(Step::EnterRoot)?;
            }
            unmount(c".", UnmountFlags::DETACH).at(Step::EnterRoot)?;
        }
        Enter::MoveAndChroot { hide } => {
            rustix::process::fchdir(host_root).at(Step::EnterRoot)?;
            sys::mount_setattr(host_root, true, 0, 0, libc::MS_SLAVE).at(Step::EnterRoot)?;
            for path in hide {
                hide_mount(host_root, path).at(Step::EnterRoot)?;
            }
            rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
            if rootfs.at.is_some() {
                move_onto(rootfs.tree, host_root).at(Step::EnterRoot)?;
            }
            rustix::process::chroot(c".").at(Step::EnterRoot)?;
        }
        Enter::InHost | Enter::Chroot => rustix::process::chroot(c".").at(Step::EnterRoot)?,
    }
    rustix::process::chdir(c"/").at(Step::EnterRoot)
}
