//! Enters the container's user namespace for an unprivileged caller.
//!
//! Only root of that namespace may create mounts and join the namespaces that belong to it. But state files, hooks and
//! the connection to systemd need the caller's own identity. So the planning and the clone run in a vfork child
//! ([`sys::run_in_vfork_child`]). It shares memory and file descriptors with the runtime, and has its own credentials.
//!
//! ```text
//! the runtime, unprivileged      the vfork child
//! creates the user namespace
//! waits ------------------------ as the caller: writes oom_score_adj, joins the cgroup
//!                                joins the user namespace, becomes its root, unshares the mount namespace
//!                                plans, clone3(CLONE_PARENT) ----------------- init, a child of the runtime
//! goes on <--------------------- exits
//! ```
//!
//! The child clears `PR_SET_DUMPABLE` before it enters, because other processes in a joined namespace could ptrace it.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use berth_init::sys as init;
use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};
use rustix::fs::{Mode, OFlags};

use crate::{
    Context, Result,
    cgroup::Cgroup,
    host::caller,
    id_maps::Ids,
    namespace::{kind, path_to_join, time, user},
    sys,
};

/// Runs code in a user namespace, in a vfork child.
pub struct UsernsHelper {
    namespace: OwnedFd,
    ids: Ids,
    setgroups: bool,
    /// The container gets a new mount namespace, which the child unshares.
    new_mount_namespace: bool,
    /// Content for timens_offsets, if the container gets a new time namespace.
    time_offsets: Option<String>,
}

/// Settings that the unprivileged caller must apply to the child before it enters the user namespace. Processes that
/// the child clones inherit them.
#[derive(Default)]
pub struct PreEntry<'l> {
    /// `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// The cgroup that the child joins.
    pub cgroup: Option<&'l Cgroup>,
    /// Pid of the container's init, for [`Cgroup::join`] in an exec.
    pub init: Option<&'l str>,
}

impl UsernsHelper {
    /// Creates or opens the user namespace of a new container. Returns `None` if the runtime is root and needs no
    /// helper.
    ///
    /// # Errors
    /// As [`user::create`]. An error names the path of a namespace that cannot be joined.
    pub fn for_spec(spec: &Spec, ids: &Ids) -> Result<Option<Self>> {
        let linux = spec.linux().as_ref();
        let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        let Some(users) = namespaces.iter().find(|n| n.typ() == Type::User).filter(|_| caller::is_user()) else {
            return Ok(None);
        };
        let new = |kind| namespaces.iter().any(|n| n.typ() == kind && path_to_join(n).is_none());
        let (namespace, ids, setgroups) = match path_to_join(users) {
            None => {
                ids.check_complete()?;
                // setgroups(2) counts as allowed: if it must be denied, check() has refused additional groups.
                (user::create(ids).context("linux")?, ids.clone(), true)
            }
            Some(path) => {
                let what = || format!("linux.namespaces: user namespace path {}", path.display());
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let fd = rustix::fs::open(path, flags, Mode::empty()).with_context(what)?;
                let found = user::read(fd.as_fd()).with_context(what)?;
                found.ids.check_complete().with_context(what)?;
                (fd, found.ids, found.setgroups)
            }
        };
        let time_offsets = new(Type::Time).then(|| time::offsets(linux.and_then(|l| l.time_offsets().as_ref())));
        Ok(Some(Self { namespace, ids, setgroups, new_mount_namespace: new(Type::Mount), time_offsets }))
    }

    /// Opens the user namespace of an existing container by the pidfd of its init.
    pub fn for_container(init: OwnedFd) -> Self {
        Self { namespace: init, ids: Ids::default(), setgroups: true, new_mount_namespace: false, time_offsets: None }
    }

    /// Returns the namespace's mappings, as the host sees them.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Returns true if the namespace allows setgroups(2).
    pub fn setgroups(&self) -> bool {
        self.setgroups
    }

    /// Runs `work` as root of the user namespace, in a vfork child.
    ///
    /// # Errors
    /// The error of `work`, or of entering the namespace.
    pub fn run_in_userns<T>(&self, pre_entry: &PreEntry<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let dumpable = init::prctl(libc::PR_GET_DUMPABLE, 0, 0).context("prctl PR_GET_DUMPABLE")?;
        let done = sys::run_in_vfork_child(|| {
            self.enter(pre_entry)?;
            work()
        });
        // PR_SET_DUMPABLE belongs to the shared memory, so it must be restored. A value that came from fs.suid_dumpable
        // cannot be set again (PR_SET_DUMPABLE(2const)).
        if dumpable == 1 {
            init::prctl(libc::PR_SET_DUMPABLE, 1, 0).context("prctl PR_SET_DUMPABLE")?;
        }
        done?
    }

    fn enter(&self, pre_entry: &PreEntry<'_>) -> Result<()> {
        let clear_dumpable = || init::prctl(libc::PR_SET_DUMPABLE, 0, 0).context("prctl PR_SET_DUMPABLE");
        if let Some(value) = pre_entry.oom_score_adj {
            fs::write("/proc/self/oom_score_adj", value.to_string())
                .context("process.oomScoreAdj: write oom_score_adj")?;
        }
        if let Some(cgroup) = pre_entry.cgroup {
            cgroup.join(pre_entry.init)?;
        }
        // The kernel checks the opener's rights to this file. Once the process is not dumpable, the caller cannot open
        // it.
        let offsets_file = self.time_offsets.as_ref().map(|offsets| {
            let file = File::options().write(true).open("/proc/self/timens_offsets");
            file.context("linux.timeOffsets: open timens_offsets").map(|file| (file, offsets))
        });
        let offsets_file = offsets_file.transpose()?;
        clear_dumpable()?;
        init::setns(self.namespace.as_fd(), kind::USER).context("join the user namespace")?;
        init::set_ids(0, 0).context("become root of the user namespace")?;
        clear_dumpable()?;
        if let Some((mut file, offsets)) = offsets_file {
            init::unshare(kind::TIME).map_err(time::unsupported)?;
            file.write_all(offsets.as_bytes()).context("linux.timeOffsets: write timens_offsets")?;
        }
        if self.new_mount_namespace {
            init::unshare(kind::MOUNT).context("make a mount namespace")?;
        }
        Ok(())
    }
}
