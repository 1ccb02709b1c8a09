//! Plans bind mounts: clones the source of the host, detached, with open_tree(2).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use berth_init::plan::{Device, RootBind, Source};
use oci_spec::runtime::Mount as Spec;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType},
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    Builder, MountContext, Options, Submounts, attr, check_proc_target, clean, clone_tree, path_in_rootfs,
    set_propagation,
};
use crate::{Context, Error, Result};

impl<'a> Builder<'a, '_> {
    pub(super) fn bind(
        &mut self,
        mount: &Spec,
        target: &Path,
        name: &str,
        options: &Options,
        context: &MountContext<'_, 'a>,
    ) -> Result<()> {
        let arena = self.arena;
        let source = mount.source().as_deref().filter(|s| !s.as_os_str().is_empty());
        let source = source.ok_or_else(|| Error::invalid("source: must be specified for a bind mount"))?;
        let source = context.bundle.join(source);
        if let Some(word) = options.data.first() {
            return Err(Error::invalid(format!(
                "bind mounts cannot have any filesystem-specific options applied: {word}"
            )));
        }
        let submounts = options.bind.unwrap_or(Submounts::Include);
        if options.copy_symlink
            && let Ok(to) = std::fs::read_link(&source)
        {
            let link = Source::Link { to: arena.path(&to, "mounts.source")? };
            self.push(arena.path(target, "mounts.destination")?, link, &[], name);
            return Ok(());
        }
        if !options.source_nofollow
            && let Some(from) = self.source_inside_rootfs(&source, submounts, context)
        {
            let inside = RootBind {
                from: arena.path(&from, "mounts.source")?,
                recursive: submounts.included(),
                attributes: options.bind_attributes(),
                recursive_attributes: options.recursive_attributes(),
                idmap: self
                    .idmaps
                    .requested_namespace(mount, options)?
                    .map(|fd| (arena.fd(fd), options.idmap == Some(Submounts::Include))),
            };
            let target = arena.path(target, "mounts.destination")?;
            self.push(target, Source::RootBind(inside), arena.list(options.propagation.clone()), name);
            return Ok(());
        }
        let tree = if options.source_nofollow { clone_link(&source)? } else { clone_tree(&source, submounts)? };
        let stat = rustix::fs::fstat(&tree).with_context(|| format!("stat {}", source.display()))?;
        let procfs = rustix::fs::fstatfs(&tree).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC);
        check_proc_target(target, procfs)?;
        set_attributes(&tree, options, context).with_context(|| format!("mount_setattr {}", source.display()))?;
        self.idmaps.apply(mount, options, &tree, &source)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let c_target = arena.path(target, "mounts.destination")?;
        let source = Source::Tree { fd: arena.fd(tree), directory };
        self.push(c_target, source, arena.list(options.propagation.clone()), name);
        if let Some(last) = self.list.last_mut() {
            last.onto_link = options.target_nofollow;
        }
        Ok(())
    }

    /// If `source` lies below the target of an earlier mount, returns its path inside the rootfs.
    ///
    /// Such a source cannot be cloned here: only the child has the earlier mount. A recursive bind counts as well if an
    /// earlier mount lies below its source.
    fn source_inside_rootfs(
        &self,
        source: &Path,
        submounts: Submounts,
        context: &MountContext<'_, 'a>,
    ) -> Option<PathBuf> {
        let from = path_in_rootfs(&clean(source), context.rootfs)?;
        let covered = |target: &PathBuf| from.starts_with(target) || submounts.included() && target.starts_with(&from);
        self.targets.iter().any(covered).then_some(from)
    }

    /// Binds the host's device node of the same path, because the kernel refuses mknod(2) in a user namespace.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] if the host's node has another type or another number.
    pub(super) fn bind_device(&mut self, device: &Device<'a>) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(device.path.to_bytes()));
        let tree = clone_tree(path, Submounts::Exclude)?;
        let there = rustix::fs::fstat(&tree)?;
        let number = rustix::fs::makedev(device.major, device.minor);
        if FileType::from_raw_mode(there.st_mode) != FileType::from_raw_mode(device.mode) || there.st_rdev != number {
            return Err(Error::invalid(
                "the host's device there has another type or number, and a user namespace may not create devices",
            ));
        }
        let name = format!("\"{0}\" to rootfs at \"{0}\"", path.display());
        self.push(device.path, Source::Tree { fd: self.arena.fd(tree), directory: false }, &[], &name);
        Ok(())
    }
}

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Clones the mount of `path` as a detached mount, without following a symbolic link at its end.
fn clone_link(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, path, flags).with_context(|| format!("open_tree {}", path.display()))
}

/// Sets the attributes and the propagation of `tree`, a detached clone of the source.
///
/// A clone starts with the source's propagation and in the host's peer groups. It gets the propagation of the
/// container's tree, as the child gives it to everything that it copies. Otherwise a mount made in the container would
/// appear on the host.
pub(super) fn set_attributes(
    tree: &OwnedFd,
    options: &Options,
    context: &MountContext<'_, '_>,
) -> rustix::io::Result<()> {
    use berth_init::sys::mount_setattr;
    let (set, clear) = options.bind_attributes();
    let clear = if context.user_namespace { clear & !locked_attributes(tree, options)? } else { clear };
    let shared = context.user_namespace && context.host_propagation == libc::MS_SHARED;
    if options.bind == Some(Submounts::Exclude) && options.set_recursive | options.clear_recursive == 0 && !shared {
        // A single mount takes attributes and propagation in one call.
        return mount_setattr(tree.as_fd(), false, set, clear, context.host_propagation);
    }
    // In a user namespace the clone becomes at most a slave of the host's peer group. The kernel does the same when
    // it copies mounts into a user namespace (mount_namespaces(7)).
    set_propagation(tree, context.host_propagation, context.user_namespace.then_some(libc::MS_SLAVE))?;
    if set | clear != 0 {
        mount_setattr(tree.as_fd(), false, set, clear, 0)?;
    }
    if options.set_recursive | options.clear_recursive != 0 {
        let (set, clear) = options.recursive_attributes();
        mount_setattr(tree.as_fd(), true, set, clear, 0)?;
    }
    Ok(())
}

/// Returns the attributes of `tree` that the kernel locks for a user namespace (mount_namespaces(7), "restrictions").
///
/// This process could clear them, since it runs outside of the namespace. It keeps them as the kernel would.
///
/// # Errors
/// `EPERM`, as from the kernel, if the options clear a locked attribute or choose another access time.
fn locked_attributes(tree: &OwnedFd, options: &Options) -> rustix::io::Result<u64> {
    use rustix::{fs::StatVfsMountFlags as Flags, io::Errno};
    let now = rustix::fs::fstatvfs(tree)?.f_flag;
    let of = |flags: &[(Flags, u64)]| flags.iter().filter(|(f, _)| now.contains(*f)).fold(0, |all, (_, bit)| all | bit);
    let locked = of(&[
        (Flags::RDONLY, attr::RDONLY),
        (Flags::NOSUID, attr::NOSUID),
        (Flags::NODEV, attr::NODEV),
        (Flags::NOEXEC, attr::NOEXEC),
        (Flags::NODIRATIME, attr::NODIRATIME),
    ]);
    // No flag at all is strictatime in f_flag. In MOUNT_ATTR_* no flag at all is relatime.
    let atime = match of(&[(Flags::NOATIME, attr::NOATIME), (Flags::RELATIME, attr::STRICTATIME)]) {
        0 => attr::STRICTATIME,
        bits if bits & attr::NOATIME != 0 => attr::NOATIME,
        _ => 0,
    };
    let (set, all) = (options.set, options.set_recursive);
    let other_atime = set & attr::ATIME != atime || (set ^ locked) & attr::NODIRATIME != 0;
    let other_atime_below = (all | options.clear_recursive) & attr::ATIME != 0 && all & attr::ATIME != atime;
    // `diratime` without a choice of access time asks for nothing, as `atime` does.
    let cleared = (options.clear & !attr::NODIRATIME | options.clear_recursive) & locked;
    if cleared != 0 || options.chooses_atime() && other_atime || other_atime_below {
        return Err(Errno::PERM);
    }
    Ok(locked)
}
