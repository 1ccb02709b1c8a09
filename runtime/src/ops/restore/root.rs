//! The root file system as CRIU sees it: a mount of its own, in a mount namespace of its own.
//!
//! CRIU needs a mount whose parent is not over-mounted. The host never sees this mount, and it ends with CRIU, so no crash
//! leaves it.

use std::{
    fs::{DirBuilder, remove_dir},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use berth_init::{
    mount::move_onto,
    path::{Target, open_or_make},
    sys::{mount_setattr, setns, unshare},
};
use oci_spec::runtime::Mount;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat},
    mount::{UnmountFlags, unmount},
};

use crate::{
    Context, Result,
    arena::Arena,
    criu::Session,
    leaves::mount::{self, Submounts, external},
    namespace::{kind, thread::run_in_thread},
    plan,
    spec::bundle::Bundle,
};

/// The name of the mount point in the state directory; it is runc's.
const NAME: &str = "criu-root";

/// The mount point.
pub struct Place(PathBuf);

impl Place {
    /// Makes the directory in the state directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn make(state: &Path) -> Result<Self> {
        let path = state.join(NAME);
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("mkdir {}", path.display()))?;
        Ok(Self(path))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the directory. With an error it goes with the state directory.
    pub fn remove(&self) {
        let _ = remove_dir(&self.0);
    }

    /// Starts CRIU in a mount namespace where the root file system is mounted here, and in the cgroup namespace `cgroups`.
    /// Makes the mount points that the root file system lacks.
    ///
    /// # Errors
    /// Names the root file system, or the bind mount whose source is missing.
    pub fn start(
        &self,
        criu: &Path,
        bundle: &Bundle,
        (streams, files): ([BorrowedFd<'_>; 3], &[BorrowedFd<'_>]),
        cgroups: Option<BorrowedFd<'_>>,
    ) -> Result<Session> {
        run_in_thread(bundle, |bundle| {
            unshare(libc::CLONE_FS.unsigned_abs() | kind::MOUNT).context("unshare the mount namespace")?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let host = rustix::fs::open("/", flags, Mode::empty()).context("open /")?;
            mount_setattr(host.as_fd(), true, 0, 0, libc::MS_SLAVE).context("make / a slave")?;
            let rootfs = plan::rootfs_path(bundle);
            let tree = mount::clone_tree(&rootfs, Submounts::Include).context("root.path")?;
            mount::set_propagation(&tree, libc::MS_PRIVATE, None).context("root.path")?;
            let place = rustix::fs::open(&self.0, flags, Mode::empty()).context("open the place of the root")?;
            move_onto(tree.as_fd(), place.as_fd()).context("mount the root file system")?;
            let mounts = bundle.spec.mounts().as_deref().unwrap_or_default();
            make_targets(&tree, mounts, bundle, &rootfs)?;
            cgroups.map_or(Ok(()), |own| setns(own, kind::CGROUP)).context("join the cgroup namespace")?;
            Session::start(criu, streams, files)
        })
    }
}

/// Makes missing mount points. Each bind mount is there for a moment, so that points of later mounts are made in it.
fn make_targets(root: &OwnedFd, mounts: &[Mount], bundle: &Bundle, rootfs: &Path) -> Result<()> {
    let arena = Arena::default();
    let mut binds = Vec::new();
    let mut inner: Vec<PathBuf> = Vec::new();
    let mut made = Ok(());
    for (n, mount) in mounts.iter().enumerate() {
        let at = external::destination(mount, rootfs);
        // CRIU makes the points in file systems that it restores itself.
        if inner.iter().any(|point| at.starts_with(point)) {
            continue;
        }
        let bind = external::is_bind(mount);
        let make = || -> Result<Option<OwnedFd>> {
            let target = arena.path(&at, "mounts.destination")?;
            if !bind {
                open_or_make(root.as_fd(), target, Target::Directory, None)?;
                return Ok(None);
            }
            let source = bundle.dir.join(mount.source().clone().unwrap_or_default());
            let tree = mount::clone_tree(&source, Submounts::Include)?;
            let directory = FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory;
            let kind = if directory { Target::Directory } else { Target::NonDirectory };
            let target = open_or_make(root.as_fd(), target, kind, None)?;
            move_onto(tree.as_fd(), target.as_fd())?;
            Ok(Some(tree))
        };
        match make().with_context(|| format!("mounts[{n}]: {}", at.display())) {
            Ok(tree) => binds.extend(tree),
            Err(e) => {
                made = Err(e);
                break;
            }
        }
        if !bind {
            inner.push(at);
        }
    }
    for tree in binds.iter().rev() {
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        unmount(path.as_str(), UnmountFlags::DETACH).context("unmount a bind mount")?;
    }
    made
}
