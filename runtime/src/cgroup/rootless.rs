//! Cgroups of a caller without full rights to them: `--rootless`, and the hierarchies that such a caller can use.
//!
//! As with runc, a cgroup that cannot be made is skipped, unless config.json names cgroupsPath or sets a limit. Device rules
//! are always skipped: v1 and v2 let only root of the host change them.

use std::path::Path;

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};

use super::{
    limits::Limits,
    location::{Cgroup, Driver, Hierarchy, Manager, Place},
    path,
    systemd::instance,
    unit::Instance,
};
use crate::{
    error::{Error, Result},
    host::caller::{in_user_namespace, is_user},
};

/// The value of `--rootless`. A front door passes it on; [`Rootless::resolve`] gives it a meaning, once a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rootless {
    /// Depends on the caller, as with runc.
    #[default]
    Auto,
    /// `true`: cgroup setup that the host forbids is skipped, also for root.
    On,
    /// `false`: cgroup setup that the host forbids is an error, also for an unprivileged caller.
    Off,
}

/// The cgroups that the runtime expects to be allowed to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// All cgroups of the host; the systemd driver asks the system instance. A refusal of the kernel is an error.
    Full,
    /// The cgroups that are delegated to the caller; the systemd driver asks the user's instance. A refusal of the kernel is
    /// an error only if config.json names cgroupsPath or sets a limit.
    Delegated,
}

impl Rootless {
    /// Decides which cgroups a container with this `linux.cgroupsPath` may use. [`Rootless::Auto`] means the same as to
    /// runc: the caller has full rights if it is root of the initial user namespace. Root of another user namespace has
    /// them only with the systemd driver, and only if the systemd that it reaches is the namespace's own (LXC).
    pub fn resolve(self, cgroups_path: Option<&Path>, manager: Manager) -> Rights {
        let delegated = match self {
            Self::On => true,
            Self::Off => false,
            Self::Auto => {
                let own_systemd = || is_by_systemd(cgroups_path, manager) && instance::owner_of_bus() == 0;
                is_user() || in_user_namespace() && !own_systemd()
            }
        };
        if delegated { Rights::Delegated } else { Rights::Full }
    }
}

/// Whether systemd makes the cgroup: the caller chose the systemd driver, or the path has its form.
pub(super) fn is_by_systemd(cgroups_path: Option<&Path>, manager: Manager) -> bool {
    manager == Manager::Systemd || manager == Manager::Cgroupfs && cgroups_path.is_some_and(path::is_systemd_form)
}

impl Cgroup {
    /// Drops the hierarchies in which an unprivileged caller may not make a cgroup ([`Rights::Delegated`]). Device rules are
    /// dropped in any case. A container whose cgroup has no hierarchy left stays in the caller's cgroup.
    ///
    /// `named` says that config.json names cgroupsPath: then no hierarchy of the path is dropped, so that a refusal of the
    /// kernel becomes an error. A scope is never dropped: systemd makes it.
    ///
    /// # Errors
    /// The caller may make no v2 cgroup, and `limits` have limits.
    pub fn restrict(mut self, limits: &Limits, named: bool) -> Result<Self> {
        if let Driver::Systemd(unit) = &self.driver {
            // Root of a whole system in a user namespace asks its own system instance, and has full rights there.
            self.rootless = unit.instance == Instance::User;
            return Ok(self);
        }
        self.rootless = true;
        match self.hierarchy {
            Hierarchy::V1 => {
                // The v2 hierarchy of a hybrid host is dropped: a move into it needs write access to the common ancestor.
                self.places.retain(|p| !p.is_v2() && (named || !can_make(p).is_err_and(denied)));
            }
            Hierarchy::V2 if named => {}
            Hierarchy::V2 => self.restrict_v2(limits)?,
        }
        Ok(self)
    }

    fn restrict_v2(&mut self, limits: &Limits) -> Result<()> {
        let Some(place) = self.places.first() else { return Ok(()) };
        let Some(e) = can_make(place).err().filter(|e| denied(*e)) else { return Ok(()) };
        if limits.has_no_rows() {
            self.places.clear();
            return Ok(());
        }
        let text = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
        Err(Error::from(e).context(format!("mkdir {}", place.dir.display())).context(text))
    }
}

/// Checks that the caller may make the directory, or enter it if it exists. Makes nothing.
fn can_make(place: &Place) -> Result<(), Errno> {
    let may = |path: &Path, access| accessat(CWD, path, access, AtFlags::EACCESS);
    let writable = Access::WRITE_OK | Access::EXEC_OK;
    for (n, at) in place.dir.ancestors().enumerate() {
        match may(at, Access::EXISTS) {
            Err(Errno::NOENT) => continue,
            other => other?,
        }
        if n == 0 {
            return may(&at.join("cgroup.procs"), Access::WRITE_OK);
        }
        may(at, writable)?;
        // A new v1 cpuset copies the lists of its parent, which have to be written if they are empty.
        let empty = |file: &str| std::fs::read_to_string(at.join(file)).is_ok_and(|list| list.trim().is_empty());
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if place.has("cpuset") && empty(file) {
                may(&at.join(file), Access::WRITE_OK)?;
            }
        }
        return Ok(());
    }
    Err(Errno::NOENT)
}

fn denied(e: Errno) -> bool {
    matches!(e, Errno::ACCESS | Errno::PERM | Errno::ROFS)
}

/// Whether the kernel refused an operation for want of rights.
pub(super) fn is_denied(e: &Error) -> bool {
    e.errno().is_some_and(|e| denied(Errno::from_raw_os_error(e)))
}
