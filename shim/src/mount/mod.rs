//! The rootfs mounts of a Create request. They are made at `<bundle>/rootfs` before the container and removed after it.
//!
//! `options` translates the option words, `overlay` handles overlays whose layers do not fit in a page, `idmap` maps
//! ids for a user namespace, `loopback` attaches files that are file systems. The runtime makes the mounts of
//! config.json, in the container's own mount namespace. All functions here block, so they run on the pool.

mod idmap;
mod loopback;
pub mod options;
pub mod overlay;
mod table;

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use berth_proto::task::Mount;
use berth_runtime::{Context, Error, MountAccess, Result, clone_mapped, mountinfo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdir, open, openat2},
    mount::move_mount,
};

use self::{
    idmap::{FD_TO_FD, Layers},
    options::MountOptions,
};

/// The number of attempts of an unmount that fails with EBUSY, as in containerd. A scanner or an exiting process may
/// hold the mount for a moment.
const BUSY_TRIES: u32 = 20;
/// The pause between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Makes the directory (0711, so that a user of the container may pass) and all `mounts` on it, in order. If one fails,
/// the earlier ones are unmounted, and the directory is removed if this call has made it.
///
/// # Errors
/// The mount that failed, with its type, source and target.
pub fn mount_all(rootfs: &Path, mounts: &[Mount]) -> Result<()> {
    let made = match mkdir(rootfs, Mode::from_raw_mode(0o711)) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(e) => return Err(e).with_context(|| format!("mkdir {}", rootfs.display())),
    };
    let result = mounts.iter().try_for_each(|m| {
        mount_one(rootfs, m)
            .with_context(|| format!("mount {} {:?} at {}{}", m.type_, m.source, rootfs.display(), m.target))
    });
    if let Err(error) = result {
        if let Err(e) = unmount_recursive(rootfs) {
            log::warn!("undo rootfs mounts: {e}");
        }
        if made {
            let _ = rustix::fs::rmdir(rootfs);
        }
        return Err(error);
    }
    Ok(())
}

/// Unmounts everything at and below `path`, the deepest and latest mount first. It is no error if nothing is mounted. A
/// mount that stays busy (a shell or scanner of the host is in it) is detached, and a line is logged: it is gone from
/// the tree, so that the pod can end, and its last user frees the file system.
///
/// # Errors
/// The first mount that cannot be unmounted. The ones before it stay unmounted, so the call can be repeated.
pub fn unmount_recursive(path: &Path) -> Result<()> {
    let path = real_path(path)?;
    if unmount_plain(&path) {
        return Ok(());
    }
    let points = table::below(&mountinfo::read()?, &path);
    points.iter().rev().try_for_each(|point| unmount(point))
}

/// Unmounts `path` itself, and reports whether that was everything. The mount table has lines for all pods of the node,
/// and nearly always there is one mount with none below it. A mount with another one below it is busy, and an empty
/// directory without a mount has no mount points in it.
fn unmount_plain(path: &Path) -> bool {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL) => {
                return std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            }
            Err(nix::errno::Errno::ENOENT) => return true,
            Err(_) => return false,
        }
    }
}

fn unmount(point: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: another process has unmounted it.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) if tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(nix::errno::Errno::EBUSY) => {
                log::warn!(
                    "{} is busy: it is detached, and its file system stays until its last user is gone",
                    point.display()
                );
                return umount2(point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                    .with_context(|| format!("detach {}", point.display()));
            }
            Err(e) => return Err(e).with_context(|| format!("unmount {}", point.display())),
        }
    }
}

fn mount_one(rootfs: &Path, m: &Mount) -> Result<()> {
    if m.type_.starts_with("fuse.") || m.type_.starts_with("fuse3.") || m.type_.contains('/') {
        return Err(Error::unsupported(format!("mount type {:?} is not supported", m.type_)));
    }
    let options = MountOptions::parse(&m.options)?;
    let [uids, gids] = &options.ids;
    let users = idmap::namespace(uids.as_deref(), gids.as_deref())?;
    let fd = open_target(rootfs, &m.target)?;
    let at = proc_path(&fd);
    // Propagation flags go into a call of their own: the kernel refuses or ignores them beside others (mount(2)).
    if !options.flags.contains(MsFlags::MS_REMOUNT) || !options.data.is_empty() {
        if options.loop_device {
            let device = loopback::attach(Path::new(&m.source), &options)?;
            mount_at(&device.path, &at, &m.type_, options.flags, &options.joined())?;
        } else if m.type_ == "overlay" {
            let users = users.as_ref().map(AsFd::as_fd);
            let layers = users.map(|users| Layers::mount(&options.data, users, fd.as_fd())).transpose()?;
            let data = layers.as_ref().map_or(&options.data, |layers| &layers.data);
            let (data, lower) =
                if overlay::too_long(data) { overlay::shorten(data)? } else { (data.join(","), Vec::new()) };
            mount_at(Path::new(&m.source), &at, &m.type_, options.flags, &data)?;
            drop(lower);
            if let Some(layers) = layers {
                let overlay = layers.unmount(open_target(rootfs, &m.target)?)?;
                move_mount(&overlay, c"", &fd, c"", FD_TO_FD).context("mount without the layers")?;
            }
        } else {
            mount_at(Path::new(&m.source), &at, &m.type_, options.flags, &options.joined())?;
        }
    }
    // The descriptor was opened before the mount and still refers to the directory under it, so it is opened again.
    let fd = open_target(rootfs, &m.target)?;
    let at = proc_path(&fd);
    if !options.propagation.is_empty() {
        change_flags(&at, options.propagation)?;
    }
    let read_only_bind = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    if options.flags.contains(read_only_bind) || options.flags.contains(MsFlags::MS_REMOUNT) && options.data.is_empty()
    {
        // A bind mount ignores these flags; only a remount sets them (mount(2)).
        change_flags(&at, options.flags | MsFlags::MS_REMOUNT).context("remount")?;
    }
    if let Some(users) = users.filter(|_| m.type_ != "overlay") {
        let tree = clone_mapped(&at, users.as_fd(), MountAccess::Unchanged)?;
        move_mount(&tree, c"", &fd, c"", FD_TO_FD).context("mount with mapped ids")?;
    }
    Ok(())
}

fn mount_at(source: &Path, at: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let kind = Some(kind).filter(|k| !k.is_empty());
    let data = Some(data).filter(|d| !d.is_empty());
    Ok(mount(Some(source), at, kind, flags, data)?)
}

fn change_flags(at: &Path, flags: MsFlags) -> Result<()> {
    Ok(mount(None::<&str>, at, None::<&str>, flags, None::<&str>)?)
}

/// Opens the mount point. Neither `..` nor a symlink of the image leads out of the rootfs.
fn open_target(rootfs: &Path, inside: &str) -> Result<OwnedFd> {
    let root = open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", rootfs.display()))?;
    let inside = inside.trim_start_matches('/');
    if inside.is_empty() {
        return Ok(root);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .with_context(|| format!("open {inside} in rootfs"))
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The path as the mount table has it. Only the parent is resolved: a stat(2) of the mount itself hangs when its file
/// system is dead.
fn real_path(path: &Path) -> Result<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("{} is no path for a mount", path.display())));
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(e) => Err(e).with_context(|| format!("resolve {}", parent.display())),
    }
}
