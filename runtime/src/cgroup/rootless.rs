//! Cgroups for a runtime that may not have any: what can be had is used, the rest is left out unless it is asked for.
//!
//! As runc has it: what config.json asks for by name, a path or a limit, has to be had; the device rules never can, since
//! both kinds of cgroup keep them for root of the host.

use std::path::Path;

use oci_spec::runtime::LinuxResources;
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};

use super::{
    Cgroup, Driver, Hierarchy, Manager, Place,
    dir::{Dir, gone},
    entry, is_by_systemd,
    systemd::{self, Whose},
    v2,
};
use crate::{
    error::{Context, Error, Result},
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
                let own_systemd = || is_by_systemd(cgroups_path, manager) && systemd::owner_of_bus() == 0;
                is_user() || in_user_namespace() && !own_systemd()
            }
        };
        if delegated { Rights::Delegated } else { Rights::Full }
    }
}

/// Leaves out of `cgroup` what this user may not make; see [`Cgroup::left_to_user`].
pub(super) fn attain(cgroup: &mut Cgroup, resources: &LinuxResources, named: bool) -> Result<()> {
    if let Driver::Systemd(unit) = &cgroup.driver {
        // systemd makes it, whoever asks; root of a machine in a user namespace asks as root.
        cgroup.rootless = unit.whose == Whose::User;
        return Ok(());
    }
    cgroup.rootless = true;
    match cgroup.hierarchy {
        Hierarchy::V1 => {
            // Of a v2 hierarchy beside the others a user has nothing: it takes a right to the cgroup that he comes from, too.
            cgroup.places.retain(|p| !p.controllers.is_empty() && (named || !attainable(p).is_err_and(denied)));
            Ok(())
        }
        Hierarchy::V2 if named => Ok(()),
        Hierarchy::V2 => attain_v2(cgroup, resources),
    }
}

fn attain_v2(cgroup: &mut Cgroup, resources: &LinuxResources) -> Result<()> {
    let Some(place) = cgroup.places.first() else { return Ok(()) };
    let Some(e) = attainable(place).err().filter(|e| denied(*e)) else { return Ok(()) };
    if v2::writes(resources)?.is_empty() {
        cgroup.places.clear();
        return Ok(());
    }
    let text = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
    Err(Error::from(e).context(format!("mkdir {}", place.dir.display())).context(text))
}

/// Whether the directory can be made, or is there and can be entered. Nothing is made by the question.
fn attainable(place: &Place) -> Result<(), Errno> {
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
        // What a new cpuset begins with comes from the one above, or has to be put there first.
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

/// True for an error that says that it is not ours to do.
pub(super) fn is_denied(e: &Error) -> bool {
    e.errno().is_some_and(|e| denied(Errno::from_raw_os_error(e)))
}

/// Puts this process into the cgroup, as [`Cgroup::enter`] says.
pub(super) fn enter(cgroup: &Cgroup, init: Option<&str>) -> Result<()> {
    for place in &cgroup.places {
        let entered = match (enter_place(place, &place.dir), init) {
            // The cgroup is gone, or it is a v2 one that has controllers on for those below it, or that is threaded.
            (Err(e), Some(init)) if gone(&e) || matches!(e.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
                enter_place(place, &entry::path_of(&place.controllers, init)?)
            }
            (entered, _) => entered,
        };
        match entered {
            Err(e) if init.is_some() && cgroup.rootless && is_denied(&e) => {}
            other => other.context("unable to apply cgroup configuration")?,
        }
    }
    Ok(())
}

/// v1: one's own thread alone, which does not wait for all forks of the machine.
fn enter_place(place: &Place, dir: &Path) -> Result<()> {
    let file = if place.controllers.is_empty() { "cgroup.procs" } else { "tasks" };
    Dir::open(dir)?.write(file, "0")
}
