//! Plans the root file system: its tree, its mounts, its devices, and its masked and read-only paths.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use berth_init::plan::{Device, Enter, Rootfs};
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};

use super::{init::Sources, rootfs_path};
use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    host::{caller, mountinfo},
    leaves::{
        lsm,
        mount::{self, MountContext, Mounts, device},
    },
    namespace::{NamespacePlan, kind},
};

/// The device nodes of a container, sorted by the way in which they are created.
struct Devices<'a> {
    /// Bound from the host, because the caller or the container may not create them.
    bound: Vec<Device<'a>>,
    /// Created by the child.
    made: Vec<Device<'a>>,
    /// A detached tmpfs that holds device nodes, for a tmpfs mount at /dev.
    dev: Option<OwnedFd>,
    /// The child creates the links of /dev.
    links: bool,
}

impl<'a> Sources<'_, 'a> {
    /// Plans the root file system. Returns it with the names of its mounts.
    pub(super) fn rootfs(&self, arena: &'a Arena, placement: &NamespacePlan<'a>) -> Result<(Rootfs<'a>, Vec<String>)> {
        let (spec, linux, payload) = (&self.bundle.spec, self.linux()?, self.payload()?);
        let path = rootfs_path(self.bundle);
        let own_tree = placement.made & kind::MOUNT != 0;
        let cwd = arena.path(payload.cwd(), "process.cwd")?;
        let propagation = mount::root_propagation(linux.rootfs_propagation().as_deref())?;
        let label = lsm::mount_label(arena, linux.mount_label().as_deref())?;
        let empty = Rootfs {
            tree: arena.fd(open_rootfs(&path)?),
            attach_at: None,
            host_propagation: 0,
            enter: Enter::Chroot,
            mounts: &[],
            devices: &[],
            dev_links: false,
            console: false,
            cwd,
            readonly_paths: &[],
            masked_paths: &[],
            mask_options: &[],
            readonly: false,
            propagation: 0,
        };
        let readonly = spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true));
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        if !own_tree && mounts.is_empty() && !readonly && !hides_paths(linux) {
            return Ok((empty, Vec::new()));
        }
        let host_propagation = host_propagation(propagation);
        let (mounts, tree, devices) = self.mounts(arena, placement, &path, (label, propagation))?;
        let rootfs = Rootfs {
            tree: arena.fd(tree),
            host_propagation,
            enter: if !own_tree {
                Enter::InHost
            } else if self.options.no_pivot {
                Enter::MoveAndChroot { hide: mountinfo::whole_mounts(arena, &path)? }
            } else {
                Enter::Pivot
            },
            mounts: mounts.list,
            devices: arena.list(devices.made),
            dev_links: devices.links,
            console: payload.terminal() == Some(true),
            readonly_paths: mount::covers(
                arena,
                mounts.list,
                linux.readonly_paths().as_deref(),
                "linux.readonlyPaths",
            )?,
            masked_paths: mount::covers(arena, mounts.list, linux.masked_paths().as_deref(), "linux.maskedPaths")?,
            mask_options: mount::mask_options(arena, label),
            readonly,
            propagation: propagation.unwrap_or(0),
            ..empty
        };
        Ok((rootfs, mounts.names))
    }

    /// Plans the mounts, the tree that they go into, and the devices.
    fn mounts(
        &self,
        arena: &'a Arena,
        placement: &NamespacePlan<'a>,
        path: &Path,
        (label, propagation): (Option<&'a CStr>, Option<u64>),
    ) -> Result<(Mounts<'a>, OwnedFd, Devices<'a>)> {
        let linux = self.linux()?;
        let user_namespace = placement.is_private(LinuxNamespaceType::User);
        // mountinfo lists mounts in the order of their creation, and `/` belongs first. So the tree comes before the
        // mounts.
        let tree = clone_root(path, propagation, user_namespace)?;
        let mounts = self.bundle.spec.mounts().as_deref().unwrap_or_default();
        let mut devices = self.devices(arena, placement, label)?;
        let memory = linux.resources().as_ref().and_then(|r| r.memory().as_ref()).and_then(|memory| memory.limit());
        let joins_pid = placement.child.joins.iter().find(|join| join.flags & kind::PID != 0);
        let context = MountContext {
            bundle: &self.bundle.dir,
            host_propagation: host_propagation(propagation),
            cgroup: self.cgroup,
            cgroup_namespace: placement.is_private(LinuxNamespaceType::Cgroup),
            users: &placement.users,
            user_namespace,
            label,
            root: tree.as_fd(),
            rootfs: path,
            pid_namespace: joins_pid.map(|join| join.fd),
            // 0 and -1 mean no limit.
            memory: memory.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
            dev: devices.dev.take(),
        };
        let mounts = mount::plan(arena, mounts, &devices.bound, context)
            .context("unable to start container process: error during container init")?;
        Ok((mounts, tree, devices))
    }

    fn devices(&self, arena: &'a Arena, placement: &NamespacePlan<'a>, label: Option<&'a CStr>) -> Result<Devices<'a>> {
        let mounts = self.bundle.spec.mounts().as_deref().unwrap_or_default();
        if !mount::needs_devices(mounts) {
            return Ok(Devices { bound: Vec::new(), made: Vec::new(), dev: None, links: false });
        }
        let ids = &placement.users.ids;
        let devices = device::plan(arena, self.linux()?.devices().as_deref().unwrap_or_default(), ids)?;
        // An unprivileged process may create a fifo with mknod(2), but no device.
        let partition = |devices: Vec<Device<'a>>, apart: bool| -> (Vec<_>, Vec<_>) {
            devices.into_iter().partition(|device| apart && device.mode & libc::S_IFMT != libc::S_IFIFO)
        };
        let (mut bound, devices) = partition(devices, caller::is_user() || caller::in_user_namespace());
        let (dev, devices) = device::build_dev(arena, mounts, devices, ids, label)?;
        let (left, made) = partition(devices, placement.is_private(LinuxNamespaceType::User));
        bound.extend(left);
        Ok(Devices { bound, made, links: dev.is_none(), dev })
    }
}

/// Returns true if config.json has masked or read-only paths.
fn hides_paths(linux: &Linux) -> bool {
    [linux.masked_paths(), linux.readonly_paths()].into_iter().flatten().any(|list| !list.is_empty())
}

/// Returns the propagation of the tree while init builds the root.
fn host_propagation(wanted: Option<u64>) -> u64 {
    match wanted {
        None => libc::MS_SLAVE,
        // Nothing can be bound from an unbindable tree. The root becomes unbindable at the end.
        Some(libc::MS_UNBINDABLE) => libc::MS_PRIVATE,
        Some(other) => other,
    }
}

/// Clones the root file system as a detached tree, with its propagation.
fn clone_root(path: &Path, propagation: Option<u64>, user_namespace: bool) -> Result<OwnedFd> {
    let tree = mount::clone_tree(path, mount::Submounts::Include)
        .with_context(|| format!("root.path: rootfs {}", path.display()))?;
    // A shared root is shared with other mount namespaces of the container, not with the host. Otherwise mounts in it
    // would appear on the host, and stay there. Volumes keep the host's peer group.
    let before = if user_namespace { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    // Whatever the host's mounts are, the root is a slave only if config.json asks for it.
    let own = if propagation.is_some() { host_propagation(propagation) } else { libc::MS_PRIVATE };
    mount::set_propagation(&tree, own, Some(before)).context("rootfs propagation")?;
    Ok(tree)
}

fn open_rootfs(path: &Path) -> Result<OwnedFd> {
    let what = || format!("root.path: rootfs {}", path.display());
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    fd.map_err(|e| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Error::from(e).with_kind(Kind::NotFound),
        other => other.into(),
    })
    .with_context(what)
}
