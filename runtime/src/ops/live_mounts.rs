//! Adds mounts to an existing container, and removes them (`crun mounts`).
//!
//! The runtime creates detached mounts from files of the host, as for a new container. A thread that has joined the
//! container's mount namespace attaches them below the container's root. Mounts that depend on other namespaces of the
//! container (proc, sysfs, cgroup, mqueue) are not supported.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::{mode::Umask, path, rootfs};
use oci_spec::runtime::Mount;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    container::state::{Container, Status},
    id_maps::Ids,
    leaves::mount,
    namespace::{self, UserNamespace, thread::run_in_mount_ns, user},
    spawn::failure::{self, Names},
    spec::check,
};

/// Adds `mounts` in their order: bind mounts, and tmpfs if the container has no user namespace of its own.
///
/// On failure, no mount of the list stays. Directories and files that were created as targets stay.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless the container is running with its own mount namespace. Other errors name the
/// mount.
pub fn add(container: &Container, mounts: &[Mount]) -> Result<()> {
    check::mounts(mounts)?;
    let opened = OpenContainer::open(container)?;
    for (n, mount) in mounts.iter().enumerate() {
        opened.check_supported(mount).with_context(|| format!("mounts[{n}]"))?;
    }
    let users = opened.users()?;
    let mut mounts = mounts.to_vec();
    mount::translate_idmaps_of(&mut mounts, &users.ids)?;
    check::mapped_mounts(&mounts, opened.users.is_some())?;
    let arena = Arena::default();
    let context = mount::MountContext {
        bundle: container.bundle(),
        host_propagation: libc::MS_PRIVATE,
        cgroup: container.cgroup(),
        cgroup_namespace: false,
        users: &users,
        user_namespace: opened.users.is_some(),
        label: None,
        root: opened.root.as_fd(),
        rootfs: container.rootfs(),
        pid_namespace: None,
        memory: None,
        dev: None,
    };
    let planned = mount::plan(&arena, &mounts, &[], context)?;
    let (list, names) = (planned.list, Names { mounts: &planned.names, ..Names::default() });
    let owner = opened.owner(&users.ids)?;
    opened.run_inside(list, |root, list| {
        // With umask 0 the processes inside may enter the new directories, regardless of the caller's umask.
        let _umask = Umask::set(0).context("unshare the umask")?;
        let attach = |n| rootfs::attach(root, list, n, None, owner).map_err(|failure| (n, failure));
        let attached = (0..list.len()).try_for_each(attach);
        attached.and_then(|()| rootfs::make_readonly(list).map_err(|failure| (list.len(), failure))).map_err(
            |(n, failure)| {
                for done in list.iter().take(n).rev() {
                    drop(done.attached.take());
                    let _ = detach(root, done.target);
                }
                failure::to_error(failure, None, &names)
            },
        )
    })
}

/// Removes `mounts`, the last of the list first. Only their destinations matter.
///
/// # Errors
/// As [`add`], and [`Kind::InvalidArgument`] for a destination without a mount. The mounts after it in the list are
/// removed by then.
pub fn remove(container: &Container, mounts: &[Mount]) -> Result<()> {
    check::mounts(mounts)?;
    let opened = OpenContainer::open(container)?;
    let arena = Arena::default();
    let field = |n: usize| format!("mounts[{n}].destination");
    let targets: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(n, mount)| match mount::clean(mount.destination()) {
            target if target == Path::new("/") => Err(Error::invalid(format!("{}: the root stays", field(n)))),
            target => arena.path(&target, "mounts.destination"),
        })
        .collect::<Result<_>>()?;
    opened.run_inside(&(), |root, ()| {
        for (n, target) in targets.iter().enumerate().rev() {
            detach(root, target).map_err(|e| match e {
                Errno::INVAL => Error::invalid(format!("{}: {}: not mounted", field(n), target.to_string_lossy())),
                e => Error::from(e).context(format!("{}: {}", field(n), target.to_string_lossy())),
            })?;
        }
        Ok(())
    })
}

/// The namespaces and the root of a container, opened.
struct OpenContainer {
    mounts: File,
    users: Option<File>,
    root: OwnedFd,
}

impl OpenContainer {
    fn open(container: &Container) -> Result<Self> {
        let own = container.state().namespaces;
        let why = match container.status()? {
            _ if own & namespace::kind::MOUNT == 0 => Some("its mounts are the host's"),
            Status::Stopped => Some("it is not running"),
            _ => None,
        };
        if let Some(why) = why {
            let text = format!("cannot change the mounts of container {}: {why}", container.id());
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        let init = container.init()?;
        let directory = init.directory()?;
        let of_init = |what: &str| format!("{directory}/{what}");
        let open = |what: &str| File::open(of_init(what)).with_context(|| format!("open {}", of_init(what)));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = Self {
            mounts: open("ns/mnt")?,
            users: if own & namespace::kind::USER != 0 { Some(open("ns/user")?) } else { None },
            root: rustix::fs::open(of_init("root"), flags, Mode::empty()).with_context(|| of_init("root"))?,
        };
        // The files belong to init, not to a later process with the same pid, if init still exists now.
        container.pidfd()?;
        Ok(opened)
    }

    fn check_supported(&self, mount: &Mount) -> Result<()> {
        let options = mount.options().as_deref().unwrap_or_default();
        match mount.typ().as_deref().unwrap_or_default() {
            _ if options.iter().any(|option| option == "remount") => {
                Err(Error::unsupported("remount: cannot be added to a running container"))
            }
            _ if options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind")) => Ok(()),
            "bind" => Ok(()),
            "tmpfs" if self.users.is_none() => Ok(()),
            "tmpfs" => Err(Error::unsupported("type: a tmpfs cannot be added in a user namespace")),
            other => Err(Error::unsupported(format!("type: {other:?}: only bind mounts and tmpfs can be added"))),
        }
    }

    fn users(&self) -> Result<UserNamespace<'_>> {
        let Some(users) = &self.users else { return Ok(UserNamespace::default()) };
        let found = user::read(users.as_fd()).context("the container's user namespace")?;
        Ok(UserNamespace { ids: found.ids, fd: Some(users.as_fd()), denies_setgroups: !found.setgroups })
    }

    /// Returns the owner of new targets: root of the container's user namespace, if it has one.
    fn owner(&self, ids: &Ids) -> Result<path::Owner> {
        if self.users.is_none() {
            return Ok(None);
        }
        Ok(Some((ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?)))
    }

    /// Runs `act` on `value` with the container's root in the container's mount namespace, but with the root directory of the
    /// host. Thus absolute paths, such as /proc, are the host's.
    fn run_inside<V: ?Sized>(
        &self,
        value: &V,
        act: impl FnOnce(BorrowedFd<'_>, &V) -> Result<()> + Send,
    ) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::open(c"/", flags, Mode::empty()).context("open /")?;
        run_in_mount_ns(Some(self.mounts.as_fd()), value, |value| {
            rustix::process::fchdir(&host).and_then(|()| rustix::process::chroot(c".")).context("chroot")?;
            act(self.root.as_fd(), value)
        })
    }
}

/// Unmounts `target` and all mounts below it. `EINVAL` says that nothing is mounted there.
fn detach(root: BorrowedFd<'_>, target: &std::ffi::CStr) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let at = path::open(root, target, OFlags::PATH)?;
    unmount(format!("/proc/self/fd/{}", at.as_raw_fd()), UnmountFlags::DETACH)
}
