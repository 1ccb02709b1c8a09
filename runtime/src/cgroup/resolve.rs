//! From `linux.cgroupsPath` to a [`Cgroup`]: which driver makes it, and which directories it has.

use std::path::Path;

use super::{
    host::host,
    location::{Cgroup, Driver, Hierarchy, Manager},
    path::{self, CgroupsPath},
    rootless::{Rights, is_by_systemd},
    systemd::scope,
    unit::{self, Instance, Unit},
};
use crate::error::{Error, Result};

impl Cgroup {
    /// Finds the cgroup of container `id`, without making it.
    ///
    /// An absolute `cgroups_path` counts from the root of the hierarchy. A relative one counts from the caller's cgroup, on
    /// v2 from its parent, because a v2 cgroup with processes cannot have limited children. No path means `id`.
    ///
    /// With [`Manager::Systemd`], or a path of the form `slice:prefix:name`, the cgroup is that of a scope: of the system
    /// instance, or of the user's instance with [`Rights::Delegated`]. With [`Manager::Disabled`] there is none, whatever
    /// the path.
    ///
    /// # Errors
    /// A path that contains `..` or names the root; a host without cgroups; a user's systemd that does not answer.
    pub fn resolve(cgroups_path: Option<&Path>, id: &str, manager: Manager, rights: Rights) -> Result<Self> {
        if manager == Manager::Disabled {
            // A container without a cgroup has no device rules either, like a rootless one: they would hit the caller.
            let hierarchy = Hierarchy::of_host()?;
            return Ok(Self { hierarchy, driver: Driver::Cgroupfs, places: Vec::new(), rootless: true });
        }
        let hierarchy = Hierarchy::of_host()?;
        let (driver, path) = if is_by_systemd(cgroups_path, manager) {
            let instance = match rights {
                Rights::Full => Instance::System,
                Rights::Delegated if hierarchy == Hierarchy::V1 => {
                    let text = "cannot use rootless systemd cgroups manager on cgroup v1";
                    return Err(Error::unsupported(format!("systemd cgroup driver: {text}")));
                }
                Rights::Delegated => Instance::User,
            };
            let unit = Unit::new(cgroups_path, id, instance)?;
            let path = CgroupsPath::from_root(scope::cgroup_path(&unit)?);
            (Driver::Systemd(unit), path)
        } else {
            (Driver::Cgroupfs, CgroupsPath::new(cgroups_path, id)?)
        };
        let places = path::places(host()?, &path)?;
        Ok(Self { hierarchy, driver, places, rootless: false })
    }

    /// Finds the cgroup of a pod, which the kubelet has made above those of its containers: an absolute path, or the name of
    /// a systemd slice.
    ///
    /// # Errors
    /// A path that contains `..` or names the root, the malformed name of a slice, or a host without cgroups.
    pub fn of_pod(parent: &str) -> Result<Self> {
        let path = if !parent.contains('/') && parent.ends_with(".slice") {
            let bad = || Error::invalid(format!("cgroup_parent: invalid slice name {parent:?}"));
            CgroupsPath::from_root(unit::expand(parent).ok_or_else(bad)?)
        } else {
            CgroupsPath::new(Some(Path::new(parent)), "pod")?
        };
        let places = path::places(host()?, &path)?;
        Ok(Self { hierarchy: Hierarchy::of_host()?, driver: Driver::Cgroupfs, places, rootless: false })
    }
}
