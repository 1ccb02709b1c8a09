//! Mounts of a container that is there already: more of them, and some taken away, as `crun mounts` has it.
//!
//! Trees are made as for a new container, here, from the host's files; a thread that has joined the container's mounts
//! hangs them below its root. What depends on more of a container than its mounts (proc, sysfs, cgroup, mqueue) is left to
//! its making.

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
    check,
    failure::{self, Names},
    mount,
    namespace::{self, Users},
    state::{Container, Status},
    sys, userns,
};

/// Adds `mounts` in their order: bind mounts, and tmpfs for a container without a user namespace of its own. All of them
/// or none; directories and files that were made for them to be mounted on stay.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless the container is there; else names the mount.
pub fn add(container: &Container, mounts: &[Mount]) -> Result<()> {
    check::mounts(mounts)?;
    let place = Place::of(container)?;
    for (n, mount) in mounts.iter().enumerate() {
        place.takes(mount).with_context(|| format!("mounts[{n}]"))?;
    }
    let users = place.users()?;
    let mut mounts = mounts.to_vec();
    mount::translate_idmaps_of(&mut mounts, &users.ids)?;
    check::mapped_mounts(&mounts, place.users.is_some())?;
    let arena = Arena::default();
    let scene = mount::Scene {
        bundle: container.bundle(),
        host_propagation: libc::MS_PRIVATE,
        cgroup: container.cgroup(),
        cgroup_namespace: false,
        users: &users,
        user_namespace: place.users.is_some(),
        label: None,
        root: place.root.as_fd(),
        rootfs: container.rootfs(),
        pid_namespace: None,
        memory: None,
        dev: None,
    };
    let planned = mount::plan(&arena, &mounts, &[], scene)?;
    let (list, names) = (planned.list, Names { mounts: &planned.names, ..Names::default() });
    let owner = place.owner(&users.ids)?;
    let lent = sys::Lent(list);
    place.inside(move |root| {
        let list = lent.get();
        // Those who are inside may go through the directories that are made, whatever the caller's umask is.
        let _umask = Umask::of(0).context("unshare the umask")?;
        let attach = |(n, mount)| rootfs::attach(root, mount, n, None, owner).map_err(|failure| (n, failure));
        let attached = list.iter().enumerate().try_for_each(attach);
        attached.and_then(|()| rootfs::seal(list).map_err(|failure| (list.len(), failure))).map_err(|(n, failure)| {
            for done in list.iter().take(n).rev() {
                drop(done.open.take());
                let _ = detach(root, done.target);
            }
            failure::word(failure, None, &names)
        })
    })
}

/// Takes `mounts` away, the last one first; only their destinations are looked at.
///
/// # Errors
/// As [`add`]; a destination on which nothing is mounted. Those after it in the list are gone by then.
pub fn remove(container: &Container, mounts: &[Mount]) -> Result<()> {
    check::mounts(mounts)?;
    let place = Place::of(container)?;
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
    place.inside(|root| {
        for (n, target) in targets.iter().enumerate().rev() {
            detach(root, target).map_err(|e| match e {
                Errno::INVAL => Error::invalid(format!("{}: {}: not mounted", field(n), target.to_string_lossy())),
                e => Error::from(e).context(format!("{}: {}", field(n), target.to_string_lossy())),
            })?;
        }
        Ok(())
    })
}

/// Where a container's mounts are.
struct Place {
    mounts: File,
    users: Option<File>,
    root: OwnedFd,
}

impl Place {
    fn of(container: &Container) -> Result<Self> {
        let own = container.state().namespaces;
        let why = match container.status()? {
            _ if own & namespace::flag::MOUNT == 0 => Some("its mounts are the host's"),
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
        let place = Self {
            mounts: open("ns/mnt")?,
            users: if own & namespace::flag::USER != 0 { Some(open("ns/user")?) } else { None },
            root: rustix::fs::open(of_init("root"), flags, Mode::empty()).with_context(|| of_init("root"))?,
        };
        // All of that was of this very process, not of another with its pid.
        container.pidfd()?;
        Ok(place)
    }

    fn takes(&self, mount: &Mount) -> Result<()> {
        let words = mount.options().as_deref().unwrap_or_default();
        match mount.typ().as_deref().unwrap_or_default() {
            _ if words.iter().any(|word| word == "remount") => {
                Err(Error::unsupported("remount: not of a mount to be added"))
            }
            _ if words.iter().any(|word| matches!(word.as_str(), "bind" | "rbind")) => Ok(()),
            "bind" => Ok(()),
            "tmpfs" if self.users.is_none() => Ok(()),
            "tmpfs" => Err(Error::unsupported("type: a tmpfs cannot be added in a user namespace")),
            other => Err(Error::unsupported(format!("type: {other:?}: only bind mounts and tmpfs can be added"))),
        }
    }

    fn users(&self) -> Result<Users<'_>> {
        let Some(users) = &self.users else { return Ok(Users::default()) };
        let found = userns::read(users.as_fd()).context("the container's user namespace")?;
        Ok(Users { ids: found.ids, fd: Some(users.as_fd()), no_groups: !found.setgroups })
    }

    /// Who gets what is made for the mounts: root of the container's user namespace, if it has one.
    fn owner(&self, ids: &userns::Ids) -> Result<path::Owner> {
        if self.users.is_none() {
            return Ok(None);
        }
        Ok(Some((ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?)))
    }

    /// Runs `act` with the container's root, among the container's mounts, but with this process' own root: paths that
    /// are not below that fd, such as /proc, are the host's.
    fn inside(&self, act: impl FnOnce(BorrowedFd<'_>) -> Result<()> + Send) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::open(c"/", flags, Mode::empty()).context("open /")?;
        namespace::among(Some(self.mounts.as_fd()), || {
            rustix::process::fchdir(&host).and_then(|()| rustix::process::chroot(c".")).context("chroot")?;
            act(self.root.as_fd())
        })
    }
}

/// Takes away what is mounted at `target`, with all below it. EINVAL: nothing is.
fn detach(root: BorrowedFd<'_>, target: &std::ffi::CStr) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let at = path::open(root, target, OFlags::PATH)?;
    unmount(format!("/proc/self/fd/{}", at.as_raw_fd()), UnmountFlags::DETACH)
}
