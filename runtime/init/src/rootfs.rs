//! The root file system: mounts, devices, the way in, and what is hidden or read-only in it.
//!
//! Everything happens below one fd, the root of a tree that nobody else sees yet; the host's tree is left behind as a
//! whole at the end.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, FileType, Mode, OFlags},
    io::{Errno, Result as SysResult},
    mount::{UnmountFlags, unmount},
};

use crate::{
    console, cover, device,
    error::{At, Result, refusal},
    mount::{self, MOUNT_ATTR_RDONLY, clone_of, move_onto, set_label},
    path::{self, Owner, Target},
    plan::{Container, Enter, FsOption, Mount, Plan, RootBind, Rootfs, Source, Stdio},
    report::Report,
    sys,
    wire::Step,
};

/// The host's tree, which is the root until [`enter`].
pub struct HostTree {
    root: OwnedFd,
    /// The umask of the runtime's caller: [`build`] has set another one.
    pub(crate) caller_umask: Mode,
}

/// Builds the root, with all that is mounted in it. `terminal` becomes the terminal's slave when the plan asks for a
/// terminal. Returns the root of the host's tree, which [`enter`] leaves behind.
pub fn build(
    container: &Container<'_>,
    terminal: &mut Option<OwnedFd>,
    plan: &Plan<'_>,
    report: &Report<'_>,
) -> Result<Option<HostTree>> {
    let rootfs = &container.rootfs;
    if matches!(rootfs.enter, Enter::Chroot) {
        return Ok(None);
    }
    // Mount targets, directories and nodes are born with the modes that they are to have.
    let caller_umask = rustix::process::umask(Mode::empty());
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
    Ok(Some(HostTree { root: host_root, caller_umask }))
}

/// Hides and seals what the plan says, and makes the tree the root of this process.
pub fn enter(rootfs: &Rootfs<'_>, host: Option<HostTree>) -> Result<()> {
    let Some(HostTree { root: host_root, .. }) = host else {
        rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
        return rustix::process::chroot(c".").at(Step::EnterRoot);
    };
    let root = rootfs.tree;
    path::open_or_make(root, rootfs.cwd, Target::Directory, None).at(Step::MakeCwd)?;
    make_readonly(rootfs.mounts)?;
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
    match rootfs.attach_at {
        None => move_onto(rootfs.tree, host_root.as_fd()).at(Step::AttachRootfs)?,
        Some(path) => {
            let place = fs::open(path, flags, Mode::empty()).at(Step::AttachRootfs)?;
            if !in_host {
                unshare_mount_of(path).at(Step::AttachRootfs)?;
            }
            move_onto(rootfs.tree, place.as_fd()).at(Step::AttachRootfs)?;
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
/// `report` has its parent map ids. What becomes read-only in the end waits for [`make_readonly`].
pub fn attach(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    n: usize,
    report: Option<&Report<'_>>,
    owner: Owner,
) -> Result<()> {
    match &mount.source {
        Source::Link { to } => link(root, mount.target, to, owner).at_index(Step::MountTarget, n),
        Source::RootBind(inside) => bind_inside(root, mount, inside, n, (report, owner)),
        Source::Tree { fd, directory } => {
            let (target, _) = find_target(root, mount, kind(*directory), n, owner)?;
            let renewed = if mount.reclone { renew(*fd) } else { None };
            hang(renewed.as_ref().map_or(*fd, AsFd::as_fd), target.as_fd(), mount, n)?;
            if mount.readonly_at_end {
                let tree = renewed.map_or_else(|| rustix::io::fcntl_dupfd_cloexec(fd, 0), Ok);
                mount.attached.set(Some(tree.at_index(Step::MountAttach, n)?));
            }
            Ok(())
        }
        Source::Fs { fstype, options, attributes, relabel, target_mode } => {
            let (target, mode) = find_target(root, mount, Target::Directory, n, owner)?;
            let mode = mode.filter(|_| *target_mode);
            let tree = mount::create(fstype, options, *attributes, mode).at_index(Step::MountCreate, n)?;
            if let Some(label) = relabel {
                set_label(tree.as_fd(), label).at_index(Step::MountLabel, n)?;
            }
            hang(tree.as_fd(), target.as_fd(), mount, n)?;
            if mount.readonly_at_end {
                mount.attached.set(Some(tree));
            }
            Ok(())
        }
        Source::Remount { flags, data } => {
            let target = path::open(root, mount.target, OFlags::PATH).at_index(Step::MountTarget, n)?;
            mount::remount(target.as_fd(), *flags, data).at_index(Step::MountAttach, n)?;
            propagate(target.as_fd(), mount, n)
        }
    }
}

/// Makes those mounts read-only that are to be so when nothing has to be made in them any more: by the descriptors that they
/// were attached by, since their names may lead elsewhere by now.
pub fn make_readonly(mounts: &[Mount<'_>]) -> Result<()> {
    for (n, mount) in mounts.iter().enumerate() {
        let Some(tree) = mount.attached.take() else { continue };
        sys::mount_setattr(tree.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0).at_index(Step::MountAttach, n)?;
    }
    Ok(())
}

/// What a target has to be for this source.
fn kind(directory: bool) -> Target {
    if directory { Target::Directory } else { Target::NonDirectory }
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
    inside: &RootBind<'_>,
    n: usize,
    (report, owner): (Option<&Report<'_>>, Owner),
) -> Result<()> {
    let from = path::open(root, inside.from, OFlags::PATH).at_index(Step::MountSource, n)?;
    let stat = fs::fstat(&from).at_index(Step::MountSource, n)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let tree = clone_of(from.as_fd(), inside.recursive).at_index(Step::MountSource, n)?;
    for (recursive, (set, clear)) in [(false, inside.attributes), (true, inside.recursive_attributes)] {
        if set | clear != 0 {
            sys::mount_setattr(tree.as_fd(), recursive, set, clear, 0).at_index(Step::MountSource, n)?;
        }
    }
    if let Some((users, recursive)) = inside.idmap {
        let mapped = match report {
            Some(report) => report.map_ids(tree.as_fd(), n),
            None => sys::map_ids(tree.as_fd(), recursive, users),
        };
        mapped.at_index(Step::MountSource, n)?;
    }
    let (target, _) = find_target(root, mount, kind(directory), n, owner)?;
    hang(tree.as_fd(), target.as_fd(), mount, n)
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
    if mount.onto_link
        && let Some(link) = find_link(root, mount.target, owner).at_index(Step::MountTarget, n)?
    {
        return Ok((link, None));
    }
    if mount.plain_directory {
        return ordinary(root, mount.target, n, owner).map(|fd| (fd, None));
    }
    let (target, made) = path::find_or_make(root, mount.target, kind, owner).at_index(Step::MountTarget, n)?;
    let stat = fs::fstat(&target).at_index(Step::MountTarget, n)?;
    // move_mount(2) would say EINVAL, which names no fault.
    match (kind, FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
        (Target::Directory, false) => Err(Errno::NOTDIR).at_index(Step::MountTarget, n),
        (Target::NonDirectory, true) => Err(Errno::ISDIR).at_index(Step::MountTarget, n),
        _ => Ok((target, (!made).then_some(stat.st_mode & 0o7777))),
    }
}

/// A directory that is reached through no link. Where it had to be made it is looked for once more: a link may have come
/// there meanwhile, and what made it follows links.
fn ordinary(root: BorrowedFd<'_>, target: &CStr, n: usize, owner: Owner) -> Result<OwnedFd> {
    let found = match path::open_without_links(root, target) {
        Err(Errno::NOENT) => {
            path::open_or_make(root, target, Target::Directory, owner).at_index(Step::MountTarget, n)?;
            path::open_without_links(root, target)
        }
        other => other,
    };
    match found {
        Err(Errno::LOOP | Errno::NOTDIR) => Err(refusal(Step::NotPlainDirectory, n)),
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

/// Takes a mount of the host's away, or covers it where a user namespace holds on to it.
fn hide_mount(host_root: BorrowedFd<'_>, path: &CStr) -> SysResult<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {
            let target = path::open_without_links(host_root, path)?;
            move_onto(mount::create(c"tmpfs", &[FsOption::Flag(c"ro")], 0, None)?.as_fd(), target.as_fd())
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
            if rootfs.attach_at.is_some() {
                move_onto(rootfs.tree, host_root).at(Step::EnterRoot)?;
            }
            rustix::process::chroot(c".").at(Step::EnterRoot)?;
        }
        Enter::InHost | Enter::Chroot => rustix::process::chroot(c".").at(Step::EnterRoot)?,
    }
    rustix::process::chdir(c"/").at(Step::EnterRoot)
}
