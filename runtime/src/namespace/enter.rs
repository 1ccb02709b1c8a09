//! Work inside the container's user namespace, for a runtime that is an ordinary user.
//!
//! Only root of that namespace can make mounts and enter what belongs to it; state, hooks and the way to systemd are the
//! user's own. So what plans and clones a process is done [beside](sys::run_in_vfork_child): by a process that has the memory and the
//! descriptors of this one, but credentials of its own.
//!
//! ```text
//! the runtime, a user            beside it
//! the user namespace, its maps
//! waits ------------------------ the cgroup and oom_score_adj, still as the user
//!                                joins the user namespace, becomes its root; new mount namespace
//!                                plan, clone3(CLONE_PARENT) ------------------ init, the runtime's child
//! goes on <--------------------- ends
//! ```
//!
//! It hides (`PR_SET_DUMPABLE`) before it enters: a namespace that is joined has others in it.

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
    namespace::{joined, kind, time, user},
    sys,
};

/// A user namespace to work in.
pub struct UsernsHelper {
    namespace: OwnedFd,
    ids: Ids,
    setgroups: bool,
    mounts: bool,
    clocks: Option<String>,
}

/// What children get that the work makes, of what only the user himself can give them.
#[derive(Default)]
pub struct PreEntry<'l> {
    /// `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// Where they are born.
    pub cgroup: Option<&'l Cgroup>,
    /// The container's init, for [`Cgroup::enter`] of an exec.
    pub init: Option<&'l str>,
}

impl UsernsHelper {
    /// The user namespace of a new container, made or joined; `None` where the runtime is root and needs none to work in.
    ///
    /// # Errors
    /// As [`user::make`]; a namespace that cannot be joined is named.
    pub fn of(spec: &Spec, ids: &Ids) -> Result<Option<Self>> {
        let linux = spec.linux().as_ref();
        let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        let Some(users) = namespaces.iter().find(|n| n.typ() == Type::User).filter(|_| caller::is_user()) else {
            return Ok(None);
        };
        let new = |kind| namespaces.iter().any(|n| n.typ() == kind && joined(n).is_none());
        let (namespace, ids, setgroups) = match joined(users) {
            None => {
                ids.check_complete()?;
                // Whether it was to be denied was asked before anything was made.
                (user::make(ids).context("linux")?, ids.clone(), true)
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
        let clocks = new(Type::Time).then(|| time::offsets(linux.and_then(|l| l.time_offsets().as_ref())));
        Ok(Some(Self { namespace, ids, setgroups, mounts: new(Type::Mount), clocks }))
    }

    /// The user namespace of a container that is there, by its init.
    pub fn join(init: OwnedFd) -> Self {
        Self { namespace: init, ids: Ids::default(), setgroups: true, mounts: false, clocks: None }
    }

    /// Its mappings, as the host sees them.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Whether setgroups(2) is allowed in it.
    pub fn setgroups(&self) -> bool {
        self.setgroups
    }

    /// Does `work` in there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what the work says.
    pub fn run_in_userns<T>(&self, pre_entry: &PreEntry<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let dumpable = init::prctl(libc::PR_GET_DUMPABLE, 0, 0).context("prctl PR_GET_DUMPABLE")?;
        let done = sys::run_in_vfork_child(|| {
            self.enter(pre_entry)?;
            work()
        });
        // It is the memory that hides; what fs.suid_dumpable made of it cannot be asked for (prctl(2)).
        if dumpable == 1 {
            init::prctl(libc::PR_SET_DUMPABLE, 1, 0).context("prctl PR_SET_DUMPABLE")?;
        }
        done?
    }

    fn enter(&self, pre_entry: &PreEntry<'_>) -> Result<()> {
        let hide = || init::prctl(libc::PR_SET_DUMPABLE, 0, 0).context("prctl PR_SET_DUMPABLE");
        if let Some(value) = pre_entry.oom_score_adj {
            fs::write("/proc/self/oom_score_adj", value.to_string())
                .context("process.oomScoreAdj: write oom_score_adj")?;
        }
        if let Some(cgroup) = pre_entry.cgroup {
            cgroup.enter(pre_entry.init)?;
        }
        // The kernel asks for the rights of whoever opened it, and shows it to nobody once this process hides.
        let clocks = self.clocks.as_ref().map(|offsets| {
            let file = File::options().write(true).open("/proc/self/timens_offsets");
            file.context("linux.timeOffsets: open timens_offsets").map(|file| (file, offsets))
        });
        let clocks = clocks.transpose()?;
        hide()?;
        init::setns(self.namespace.as_fd(), kind::USER).context("join the user namespace")?;
        init::set_ids(0, 0).context("become root of the user namespace")?;
        hide()?;
        if let Some((mut file, offsets)) = clocks {
            init::unshare(kind::TIME).map_err(time::unsupported)?;
            file.write_all(offsets.as_bytes()).context("linux.timeOffsets: write timens_offsets")?;
        }
        if self.mounts {
            init::unshare(kind::MOUNT).context("make a mount namespace")?;
        }
        Ok(())
    }
}
