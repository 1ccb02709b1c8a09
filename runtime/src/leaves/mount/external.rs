//! The mounts of a container whose content lies outside of it. CRIU cannot make them anew, so a dump gives each a name
//! and a restore gives each name a source.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::{clean, fstype, is_cgroup, path_in_rootfs};
use crate::{
    Result,
    cgroup::{self, Cgroup},
};

/// The device nodes that each container has. In a user namespace they are bind mounts.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The name and the source of a mask over a file.
pub const MASK: &str = "/dev/null";

/// A mount from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The absolute path in the container, as config.json writes it. It is also the name.
    pub at: PathBuf,
    /// The absolute path on the host.
    pub source: PathBuf,
}

/// Returns true for a bind mount.
pub fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    fstype(mount) == "bind" || options.iter().any(|option| option == "bind" || option == "rbind")
}

/// Returns the path of a mount in the container.
pub fn destination(mount: &Mount, rootfs: &Path) -> PathBuf {
    let at = clean(mount.destination());
    path_in_rootfs(&at, rootfs).unwrap_or(at)
}

/// Returns the bind mounts, the cgroups that are bound, and the devices of a config.json.
///
/// # Errors
/// No cgroup hierarchy is mounted.
pub fn external(spec: &Spec, bundle: &Path, rootfs: &Path, cgroup: &Cgroup) -> Result<Vec<External>> {
    let mut found = Vec::new();
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let own_cgroups = namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup);
    for mount in spec.mounts().iter().flatten() {
        let at = destination(mount, rootfs);
        if is_bind(mount) {
            let source = mount.source().clone().unwrap_or_default();
            found.push(External { at, source: bundle.join(source) });
        } else if is_cgroup(mount) && !own_cgroups {
            bound_cgroups(&mut found, &at, cgroup)?;
        }
    }
    let more = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let devices = DEVICES.iter().map(PathBuf::from).chain(more.iter().map(|device| clean(device.path())));
    found.extend(devices.map(|path| External { at: path.clone(), source: path }));
    Ok(found)
}

/// Without a cgroup namespace a cgroup mount shows the host's hierarchies ([`super::cgroupfs`]).
fn bound_cgroups(found: &mut Vec<External>, at: &Path, cgroup: &Cgroup) -> Result<()> {
    let host = cgroup::host()?;
    for mount in host.mounts() {
        let controller = mount.controllers.first().map_or("", String::as_str);
        match (mount.is_v2(), mount.point.file_name(), cgroup.path_in(controller)) {
            (true, ..) if host.unified() => found.push(External { at: at.to_owned(), source: mount.point.clone() }),
            (false, Some(name), Some(path)) => found.push(External { at: at.join(name), source: path.to_owned() }),
            (false, Some(name), None) if cgroup.is_rootless() => {
                found.push(External { at: at.join(name), source: mount.own_dir() });
            }
            _ => {}
        }
    }
    Ok(())
}
