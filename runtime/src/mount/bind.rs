//! Bind mounts: the host's tree as the container gets it.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use berth_init::plan::{Device, Inside, Source};
use oci_spec::runtime::Mount as Spec;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType},
    mount::{OpenTreeFlags, open_tree},
};

use super::{Builder, Options, Scene, attr, clean, clone_tree, in_root, inside_proc, set_propagation};
use crate::{Context, Error, Result};

impl<'a> Builder<'a, '_> {
    pub(super) fn bind(
        &mut self,
        mount: &Spec,
        target: &Path,
        name: &str,
        options: &Options,
        scene: &Scene<'_, 'a>,
    ) -> Result<()> {
        let arena = self.arena;
        let source = mount.source().as_deref().filter(|s| !s.as_os_str().is_empty());
        let source = source.ok_or_else(|| Error::invalid("source: must be specified for a bind mount"))?;
        let source = scene.bundle.join(source);
        if let Some(word) = options.data.first() {
            return Err(Error::invalid(format!(
                "bind mounts cannot have any filesystem-specific options applied: {word}"
            )));
        }
        let recursive = options.bind.unwrap_or(true);
        if options.copy_symlink
            && let Ok(to) = std::fs::read_link(&source)
        {
            let link = Source::Link { to: arena.path(&to, "mounts.source")? };
            self.push(arena.path(target, "mounts.destination")?, link, &[], name);
            return Ok(());
        }
        if !options.link_itself
            && let Some(from) = self.shown_by_then(&source, recursive, scene)
        {
            let inside = Inside {
                from: arena.path(&from, "mounts.source")?,
                recursive,
                attributes: options.bind_attributes(),
                all: options.tree_attributes(),
                ids: self.idmaps.wanted(mount, options)?.map(|fd| (arena.fd(fd), options.idmap == Some(true))),
            };
            let target = arena.path(target, "mounts.destination")?;
            self.push(target, Source::Inside(inside), arena.list(options.propagation.clone()), name);
            return Ok(());
        }
        let tree = if options.link_itself { clone_link(&source)? } else { clone_tree(&source, recursive)? };
        let stat = rustix::fs::fstat(&tree).with_context(|| format!("stat {}", source.display()))?;
        let procfs = rustix::fs::fstatfs(&tree).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC);
        inside_proc(target, procfs)?;
        set_attributes(&tree, options, scene).with_context(|| format!("mount_setattr {}", source.display()))?;
        self.idmaps.apply(mount, options, &tree, &source)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let c_target = arena.path(target, "mounts.destination")?;
        let source = Source::Tree { fd: arena.fd(tree), directory };
        self.push(c_target, source, arena.list(options.propagation.clone()), name);
        if let Some(last) = self.list.last_mut() {
            last.on_link = options.on_link;
        }
        Ok(())
    }

    /// Where in the root file system a source is that shows what an earlier mount has put there.
    fn shown_by_then(&self, source: &Path, recursive: bool, scene: &Scene<'_, 'a>) -> Option<PathBuf> {
        let from = in_root(&clean(source), scene.rootfs)?;
        let covered = |target: &PathBuf| from.starts_with(target) || recursive && target.starts_with(&from);
        self.targets.iter().any(covered).then_some(from)
    }

    /// The host's device of that path and number: mknod(2) is not for a user namespace.
    pub(super) fn device(&mut self, device: &Device<'a>) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(device.path.to_bytes()));
        let tree = clone_tree(path, false)?;
        let there = rustix::fs::fstat(&tree)?;
        let number = rustix::fs::makedev(device.major, device.minor);
        if FileType::from_raw_mode(there.st_mode) != FileType::from_raw_mode(device.mode) || there.st_rdev != number {
            return Err(Error::invalid("the host's is another one, and a user namespace may not make any"));
        }
        let name = format!("\"{0}\" to rootfs at \"{0}\"", path.display());
        self.push(device.path, Source::Tree { fd: self.arena.fd(tree), directory: false }, &[], &name);
        Ok(())
    }
}

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// A detached clone of the link at `path`, or of whatever is there, itself.
fn clone_link(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, path, flags).with_context(|| format!("open_tree {}", path.display()))
}

/// The clone has the source's propagation, in the host's peer groups. It gets that of the tree it will hang in, which
/// the child gives to everything that it copies; without that, a mount made in the container would appear outside.
pub(super) fn set_attributes(tree: &OwnedFd, options: &Options, scene: &Scene<'_, '_>) -> rustix::io::Result<()> {
    use berth_init::sys::mount_setattr;
    let (set, clear) = options.bind_attributes();
    let clear = if scene.user_namespace { clear & !locked(tree, options)? } else { clear };
    let shared = scene.user_namespace && scene.host_propagation == libc::MS_SHARED;
    if options.bind == Some(false) && options.set_all | options.clear_all == 0 && !shared {
        // One mount: all in one call.
        return mount_setattr(tree.as_fd(), false, set, clear, scene.host_propagation);
    }
    // In a user namespace a slave of the host's at most, as the kernel makes it for what it copies there itself
    // (mount_namespaces(7)).
    set_propagation(tree, scene.host_propagation, scene.user_namespace.then_some(libc::MS_SLAVE))?;
    if set | clear != 0 {
        mount_setattr(tree.as_fd(), false, set, clear, 0)?;
    }
    if options.set_all | options.clear_all != 0 {
        let (set, clear) = options.tree_attributes();
        mount_setattr(tree.as_fd(), true, set, clear, 0)?;
    }
    Ok(())
}

/// Attributes that the kernel would not let a user namespace take away (mount_namespaces(7), "restrictions"): they stay,
/// though this process could.
///
/// # Errors
/// `EPERM` as the kernel has it, when one of them is named to be cleared, or another choice of access time is.
fn locked(tree: &OwnedFd, options: &Options) -> rustix::io::Result<u64> {
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
    // All zero is relatime; a mount without any of the flags is strictatime.
    let atime = match of(&[(Flags::NOATIME, attr::NOATIME), (Flags::RELATIME, attr::STRICTATIME)]) {
        0 => attr::STRICTATIME,
        bits if bits & attr::NOATIME != 0 => attr::NOATIME,
        _ => 0,
    };
    let (set, all) = (options.set, options.set_all);
    let other = set & attr::ATIME != atime || (set ^ locked) & attr::NODIRATIME != 0;
    let other_below = (all | options.clear_all) & attr::ATIME != 0 && all & attr::ATIME != atime;
    // Without a choice `diratime` asks for nothing, as `atime` does.
    let taken = (options.clear & !attr::NODIRATIME | options.clear_all) & locked;
    if taken != 0 || options.chooses_atime() && other || other_below {
        return Err(Errno::PERM);
    }
    Ok(locked)
}
