//! The root file system of the container: mounts, devices, the pivot, and the paths that are masked or read-only.
//!
//! All work happens below one fd, the root of a tree that no other process sees yet. At the end the process leaves the
//! host's tree as a whole.

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, FileType, Mode, OFlags},
    io::{Errno, Result as SysResult},
    mount::{UnmountFlags, unmount},
};

use crate::{
    console, cover,
    defence::Defence,
    device,
    error::{At, Result, refusal},
    mount::{self, MOUNT_ATTR_RDONLY, clone_of, move_onto, set_label},
    path::{self, Owner, Target},
    plan::{Container, Enter, FsOption, Mount, Plan, RootBind, Rootfs, Source, Stdio},
    report::Report,
    sys,
    wire::Step,
};

/// The host's tree. It is the root of the process until [`enter`].
pub struct HostTree {
    root: OwnedFd,
    /// The umask of the runtime's caller, before [`build`] has changed it.
    pub(crate) caller_umask: Mode,
}

/// Builds the root file system with all its mounts. `terminal` becomes the slave of the terminal if the plan asks for
/// one. Returns the host's tree, or `None` if the container has no mounts.
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
    // Mount targets, directories and device nodes get exactly the modes that the plan names.
    let caller_umask = rustix::process::umask(Mode::empty());
    let host_root = attach_rootfs(rootfs)?;
    let root = rootfs.tree;
    for n in 0..rootfs.mounts.len() {
        attach(root, rootfs.mounts, n, Some(report), None)?;
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
    // The default of startContainer hooks and of a payload whose `process.user.umask` is not set.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(Some(HostTree { root: host_root, caller_umask }))
}

/// Masks paths, makes paths and mounts read-only, and makes the tree the root of this process.
pub fn enter(rootfs: &Rootfs<'_>, host: Option<HostTree>) -> Result<()> {
    let Some(HostTree { root: host_root, .. }) = host else {
        rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
        return rustix::process::chroot(c".").at(Step::EnterRoot);
    };
    let root = rootfs.tree;
    path::open_or_make(root, rootfs.cwd, Target::Directory, None).at(Step::MakeCwd)?;
    make_readonly(rootfs.mounts)?;
    cover::all(rootfs, host_root.as_fd())?;
    rootfs.mounts.iter().for_each(|mount| drop(mount.attached.take()));
    if rootfs.readonly {
        sys::mount_setattr(root, false, MOUNT_ATTR_RDONLY, 0, 0).at(Step::RootReadonly)?;
    }
    leave_host(rootfs, host_root.as_fd())?;
    if rootfs.propagation != 0 {
        // The tree is now both the root and the working directory of the process.
        sys::mount_setattr(root, false, 0, 0, rootfs.propagation).at(Step::RootPropagation)?;
    }
    Ok(())
}

/// Attaches the detached clone of the rootfs. By default it goes over `/` of the copied host tree, because that needs
/// no path of the host: a mapped user need not be able to traverse the directories above the bundle. With hooks that
/// look for the rootfs in the bundle it is attached there.
fn attach_rootfs(rootfs: &Rootfs<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host_root = fs::open(c"/", flags, Mode::empty()).at(Step::HostPropagation)?;
    let in_host = rootfs.enter == Enter::InHost;
    if !in_host {
        sys::mount_setattr(host_root.as_fd(), true, 0, 0, rootfs.host_propagation).at(Step::HostPropagation)?;
        // pivot_root(2) and move_mount(2) refuse a parent mount that is shared, whatever the propagation of the tree.
        sys::mount_setattr(host_root.as_fd(), false, 0, 0, libc::MS_PRIVATE).at(Step::HostPropagation)?;
    }
    match rootfs.attach_at {
        None => move_onto(rootfs.tree, host_root.as_fd()).at(Step::AttachRootfs)?,
        Some(path) => {
            let place = fs::open(path, flags, Mode::empty()).at(Step::AttachRootfs)?;
            if !in_host {
                make_mount_private(path).at(Step::AttachRootfs)?;
            }
            move_onto(rootfs.tree, place.as_fd()).at(Step::AttachRootfs)?;
        }
    }
    Ok(host_root)
}

/// Makes the mount that `path` lies on private. mount_setattr(2) takes only the root of a mount, which is one of the
/// directories above `path`.
fn make_mount_private(path: &CStr) -> SysResult<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = fs::open(path, flags, Mode::empty())?;
    // Each round goes up one directory. The last one is `/`, whose mount is private already.
    for _ in path.to_bytes() {
        match sys::mount_setattr(directory.as_fd(), false, 0, 0, libc::MS_PRIVATE) {
            Err(Errno::INVAL) => directory = fs::openat(&directory, c"..", flags, Mode::empty())?,
            other => return other,
        }
    }
    Ok(())
}

/// Creates mount `n` of the plan and attaches it below `root`. `owner` owns the directories that are created for it.
/// If `report` is set, the parent maps the mount's ids. A mount that becomes read-only at the end waits for
/// [`make_readonly`].
pub fn attach(
    root: BorrowedFd<'_>,
    mounts: &[Mount<'_>],
    n: usize,
    report: Option<&Report<'_>>,
    owner: Owner,
) -> Result<()> {
    let Some(mount) = mounts.get(n) else { return Ok(()) };
    match &mount.source {
        Source::Link { to } => link(root, mount.target, to, owner).at_index(Step::MountTarget, n),
        Source::RootBind(bind) => bind_from_root(root, mount, bind, n, (report, owner)),
        Source::Tree { fd, directory } => {
            let (target, _) = find_target(root, mount, target_for(*directory), n, owner)?;
            let clone = if mount.reclone { reclone(*fd).at_index(Step::MountAttach, n)? } else { None };
            attach_tree(clone.as_ref().map_or(*fd, AsFd::as_fd), target.as_fd(), mount, n)?;
            let tree = || clone.map_or_else(|| rustix::io::fcntl_dupfd_cloexec(fd, 0), Ok);
            keep(mount, tree).at_index(Step::MountAttach, n)
        }
        Source::Fs { fstype, options, attributes, relabel, target_mode } => {
            let (target, mode) = find_target(root, mount, Target::Directory, n, owner)?;
            let mode = mode.filter(|_| *target_mode);
            let tree = mount::create(fstype, options, *attributes, mode).at_index(Step::MountCreate, n)?;
            if let Some(label) = relabel {
                set_label(tree.as_fd(), label).at_index(Step::MountLabel, n)?;
            }
            attach_tree(tree.as_fd(), target.as_fd(), mount, n)?;
            keep(mount, || Ok(tree)).at_index(Step::MountAttach, n)
        }
        Source::Remount { of, flags, data } => {
            let again = |target: BorrowedFd<'_>| {
                mount::remount(target, *flags, data).at_index(Step::MountAttach, n)?;
                propagate(target, mount, n)
            };
            match of.and_then(|of| mounts.get(of)?.with_attached(again)) {
                Some(done) => done,
                None => again(path::open(root, mount.target, OFlags::PATH).at_index(Step::MountTarget, n)?.as_fd()),
            }
        }
    }
}

/// Keeps the attached mount for the steps that need it.
fn keep(mount: &Mount<'_>, tree: impl FnOnce() -> SysResult<OwnedFd>) -> SysResult<()> {
    if mount.readonly_at_end || mount.kept.get() {
        mount.attached.set(Some(tree()?));
    }
    Ok(())
}

/// Makes the mounts read-only that wait for it. It uses the fds by which they were attached: their paths may lead
/// elsewhere by now.
pub fn make_readonly(mounts: &[Mount<'_>]) -> Result<()> {
    for (n, mount) in mounts.iter().enumerate() {
        let Some(tree) = mount.attached.take() else { continue };
        if mount.readonly_at_end {
            sys::mount_setattr(tree.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0).at_index(Step::MountAttach, n)?;
        }
        if mount.kept.get() {
            mount.attached.set(Some(tree));
        }
    }
    Ok(())
}

/// The kind of target that a source needs.
fn target_for(directory: bool) -> Target {
    if directory { Target::Directory } else { Target::NonDirectory }
}

/// Attaches `tree` on `target`, and sets its propagation.
fn attach_tree(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, mount: &Mount<'_>, n: usize) -> Result<()> {
    move_onto(tree, target).at_index(Step::MountAttach, n)?;
    propagate(tree, mount, n)
}

/// Clones a file system that the parent has created, so that the mount is new. Since Linux 6.8 mountinfo lists mounts
/// by the time of their creation, and readers take that for the order of config.json; the parent's mount is older than
/// all mounts of the child. Before Linux 6.15 the kernel does not clone a detached mount; the child then attaches the
/// parent's.
fn reclone(tree: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    match clone_of(tree, true) {
        Err(Errno::INVAL) => Ok(None),
        other => other.map(Some),
    }
}

/// Binds a part of the root file system on the target of mount `n`.
fn bind_from_root(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    bind: &RootBind<'_>,
    n: usize,
    (report, owner): (Option<&Report<'_>>, Owner),
) -> Result<()> {
    let from = path::open(root, bind.from, OFlags::PATH).at_index(Step::MountSource, n)?;
    let stat = fs::fstat(&from).at_index(Step::MountSource, n)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let tree = clone_of(from.as_fd(), bind.recursive).at_index(Step::MountSource, n)?;
    for (recursive, (set, clear)) in [(false, bind.attributes), (true, bind.recursive_attributes)] {
        if set | clear != 0 {
            sys::mount_setattr(tree.as_fd(), recursive, set, clear, 0).at_index(Step::MountSource, n)?;
        }
    }
    if let Some((users, recursive)) = bind.idmap {
        let mapped = match report {
            Some(report) => report.map_ids(tree.as_fd(), n),
            None => sys::map_ids(tree.as_fd(), recursive, users),
        };
        mapped.at_index(Step::MountSource, n)?;
    }
    let (target, _) = find_target(root, mount, target_for(directory), n, owner)?;
    attach_tree(tree.as_fd(), target.as_fd(), mount, n)?;
    keep(mount, || Ok(tree)).at_index(Step::MountAttach, n)
}

/// Sets the propagation of an attached mount.
fn propagate(tree: BorrowedFd<'_>, mount: &Mount<'_>, n: usize) -> Result<()> {
    for &flags in mount.propagation {
        let recursive = flags & libc::MS_REC != 0;
        sys::mount_setattr(tree, recursive, 0, 0, flags & !libc::MS_REC).at_index(Step::MountPropagation, n)?;
    }
    Ok(())
}

/// Opens the target of mount `n`, and creates it if it is missing. Returns the mode of a target that existed, which a
/// tmpfs may take over.
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
    if mount.plain_directory && Defence::PlainTarget.stands() {
        return find_plain_directory(root, mount.target, n, owner).map(|fd| (fd, None));
    }
    let (target, made) = path::find_or_make(root, mount.target, kind, owner).at_index(Step::MountTarget, n)?;
    let stat = fs::fstat(&target).at_index(Step::MountTarget, n)?;
    // move_mount(2) would fail with EINVAL, which does not tell the reason.
    match (kind, FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
        (Target::Directory, false) => Err(Errno::NOTDIR).at_index(Step::MountTarget, n),
        (Target::NonDirectory, true) => Err(Errno::ISDIR).at_index(Step::MountTarget, n),
        _ => Ok((target, (!made).then_some(stat.st_mode & 0o7777))),
    }
}

/// Opens a target directory that no symbolic link leads to. A missing directory is created and then opened anew: the
/// creation follows links, and a link may have appeared meanwhile.
fn find_plain_directory(root: BorrowedFd<'_>, target: &CStr, n: usize, owner: Owner) -> Result<OwnedFd> {
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

/// Opens the symbolic link at `target` itself. Returns `None` if the path has another file, or none.
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

/// Creates the symbolic link `target` with the content `to`; an existing file stays.
fn link(root: BorrowedFd<'_>, target: &CStr, to: &CStr, owner: Owner) -> SysResult<()> {
    let mut buffer = [0u8; path::SPLIT];
    let (dir, name) = path::split(target, &mut buffer)?;
    let dir = path::open_or_make(root, dir, Target::Directory, owner)?;
    match fs::symlinkat(to, &dir, name) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Unmounts a mount of the host. If a user namespace has locked the mount, covers it with an empty tmpfs.
fn unmount_or_cover(host_root: BorrowedFd<'_>, path: &CStr) -> SysResult<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {
            let target = path::open_without_links(host_root, path)?;
            move_onto(mount::create(c"tmpfs", &[FsOption::Flag(c"ro")], 0, None)?.as_fd(), target.as_fd())
        }
        // The mount that contained it is unmounted already.
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Makes the container's tree the root of the process, and leaves the host's tree.
fn leave_host(rootfs: &Rootfs<'_>, host_root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(rootfs.tree).at(Step::EnterRoot)?;
    match rootfs.enter {
        Enter::Pivot => {
            // pivot_root(2) attaches the old root on the new one, and refuses a new root that is shared. The
            // propagation is restored at the end.
            let shared = rootfs.host_propagation == libc::MS_SHARED;
            if shared {
                sys::mount_setattr(rootfs.tree, false, 0, 0, libc::MS_PRIVATE).at(Step::EnterRoot)?;
            }
            // With "." as both arguments the old root is mounted on the new one (pivot_root(2), NOTES). umount2(2)
            // then detaches it with all mounts below it. Its propagation is cut first, so that the host keeps its
            // mounts. Without a shared root `attach_rootfs` has cut it already, and a second walk over every mount of
            // the host is saved.
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
                unmount_or_cover(host_root, path).at(Step::EnterRoot)?;
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
