//! A container of a pod gets the pod's namespaces and files.
//!
//! containerd writes `/proc/<pid of the sandbox>/ns/<type>` into config.json. A pod without a process reports pid 0, so
//! such a path exists for no process: a path that is not replaced here is an error and never the host's namespace.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_runtime::{Error, Result};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type, Mount, MountBuilder, Spec};

use super::{config::PidNamespace, files};
use crate::error::precondition;

/// The annotation that names the sandbox of a container.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// A namespace of the pod as a container finds it.
#[derive(Debug)]
pub enum Shared<'a> {
    /// The pod's own.
    Own(&'a OwnedFd),
    /// The pod has the host's.
    Host,
    /// The pod has none.
    None,
}

/// The namespaces and files that a container takes from its pod.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The id of the sandbox.
    pub id: &'a str,
    /// The pid that containerd was told.
    pub pid: u32,
    /// The directory of the pod's files.
    pub bundle: &'a Path,
    /// The pod has its own `/dev/shm`.
    pub shm: bool,
    /// The network namespace.
    pub network: Shared<'a>,
    /// The ipc namespace.
    pub ipc: Shared<'a>,
    /// The uts namespace.
    pub uts: Shared<'a>,
    /// The user namespace.
    pub user: Shared<'a>,
    /// The pid namespace.
    pub pids: Shared<'a>,
}

impl<'a> Shared<'a> {
    /// The pod's own namespace, else that of the host.
    pub fn or_host(own: Option<&'a OwnedFd>) -> Self {
        own.map_or(Self::Host, Self::Own)
    }

    /// The pid namespace of a pod.
    pub fn pids(mode: PidNamespace, own: Option<&'a OwnedFd>) -> Self {
        match mode {
            PidNamespace::Host => Self::Host,
            PidNamespace::Pod | PidNamespace::Container => own.map_or(Self::None, Self::Own),
        }
    }
}

impl Offer<'_> {
    /// Changes the config.json of a container of this pod.
    ///
    /// # Errors
    /// [`berth_runtime::Kind::FailedPrecondition`] for a container of another sandbox.
    /// [`berth_runtime::Kind::InvalidArgument`] for a namespace that the pod has not.
    pub fn apply(&self, spec: &mut Spec) -> Result<()> {
        let named = spec.annotations().as_ref().and_then(|all| all.get(SANDBOX_ID));
        if let Some(other) = named.filter(|id| *id != self.id) {
            return Err(precondition(format!("the container is of sandbox {other:?}, and this is {:?}", self.id)));
        }
        if let Some(linux) = spec.linux_mut()
            && let Some(namespaces) = linux.namespaces().clone()
        {
            let mut joined = Vec::with_capacity(namespaces.len());
            for namespace in namespaces {
                joined.extend(self.namespace(namespace)?);
            }
            linux.set_namespaces(Some(joined));
        }
        let read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true);
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        self.add_files(&mut mounts, read_only)?;
        spec.set_mounts(Some(mounts));
        Ok(())
    }

    /// The entry for the runtime; `None` for the host's namespace, which the runtime itself is in.
    fn namespace(&self, mut namespace: LinuxNamespace) -> Result<Option<LinuxNamespace>> {
        let Some(path) = namespace.path().clone() else { return Ok(Some(namespace)) };
        let (name, shared) = match namespace.typ() {
            Type::Network => ("net", &self.network),
            Type::Ipc => ("ipc", &self.ipc),
            Type::Uts => ("uts", &self.uts),
            Type::User => ("user", &self.user),
            Type::Pid => ("pid", &self.pids),
            Type::Mount | Type::Cgroup | Type::Time => return Ok(Some(namespace)),
        };
        if path != Path::new(&format!("/proc/{}/ns/{name}", self.pid)) {
            return Ok(Some(namespace));
        }
        match shared {
            Shared::Own(fd) => {
                namespace.set_path(Some(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))));
                Ok(Some(namespace))
            }
            Shared::Host => Ok(None),
            Shared::None => Err(Error::invalid(format!(
                "linux.namespaces: {}: sandbox {:?} has no {name} namespace for all its containers",
                path.display(),
                self.id
            ))),
        }
    }

    /// Adds the pod's files that config.json has no mount for. A container's own `/dev/shm` is replaced only if it is the
    /// tmpfs that containerd puts into each config.json.
    fn add_files(&self, mounts: &mut Vec<Mount>, read_only: bool) -> Result<()> {
        for (target, name) in files::SHARED {
            if !mounts.iter().any(|mount| mount.destination() == Path::new(target)) {
                mounts.push(bind(self.bundle.join(name), target, if read_only { "ro" } else { "rw" })?);
            }
        }
        let default = |mount: &&mut Mount| {
            let source = mount.source().as_deref();
            mount.destination() == Path::new("/dev/shm")
                && mount.typ().as_deref() == Some("tmpfs")
                && source == Some(Path::new("shm"))
        };
        if let Some(shm) = mounts.iter_mut().find(default).filter(|_| self.shm) {
            *shm = bind(self.bundle.join(files::SHM), "/dev/shm", "rw")?;
        }
        Ok(())
    }
}

fn bind(source: PathBuf, target: &str, access: &str) -> Result<Mount> {
    let options: Vec<_> = ["rbind", "rprivate", access].map(str::to_owned).into();
    let mount = MountBuilder::default().destination(target).typ("bind").source(source).options(options).build();
    mount.map_err(|e| Error::invalid(format!("mount {target}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// config.json of a container after it joined a pod with an own ipc namespace, whose network is the host's.
    fn joined(config: Value) -> Result<Value> {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let offer = Offer {
            id: "pod",
            pid: 0,
            bundle: Path::new("/bundle"),
            shm: true,
            network: Shared::Host,
            ipc: Shared::Own(&file),
            uts: Shared::or_host(None),
            user: Shared::Host,
            pids: Shared::pids(PidNamespace::Container, None),
        };
        let mut spec: Spec = serde_json::from_value(config).unwrap();
        offer.apply(&mut spec)?;
        let mut value = serde_json::to_value(spec).unwrap();
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        for namespace in value["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
            if namespace["path"] == own {
                namespace["path"] = "OWN".into();
            }
        }
        Ok(value)
    }

    fn config(namespaces: Value) -> Value {
        json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": {"namespaces": namespaces}})
    }

    #[test]
    fn paths_of_the_sandbox_become_the_namespaces_of_the_pod() {
        let value = joined(config(json!([
            {"type": "pid"},
            {"type": "ipc", "path": "/proc/0/ns/ipc"},
            {"type": "network", "path": "/proc/0/ns/net"},
            {"type": "uts", "path": "/proc/0/ns/uts"},
            {"type": "mount"},
            {"type": "cgroup", "path": "/proc/7/ns/cgroup"},
        ])));
        let want = json!([
            {"type": "pid"},
            {"type": "ipc", "path": "OWN"},
            {"type": "mount"},
            {"type": "cgroup", "path": "/proc/7/ns/cgroup"},
        ]);
        assert_eq!(value.unwrap()["linux"]["namespaces"], want);
    }

    #[test]
    fn a_path_of_another_process_stays_as_it_is() {
        let namespaces = json!([{"type": "pid", "path": "/proc/17/ns/pid"}, {"type": "ipc", "path": "/proc/0/ns/net"}]);
        assert_eq!(joined(config(namespaces.clone())).unwrap()["linux"]["namespaces"], namespaces);
    }

    #[test]
    fn a_pid_namespace_that_the_pod_has_not_is_refused() {
        let error = joined(config(json!([{"type": "pid", "path": "/proc/0/ns/pid"}]))).unwrap_err().to_string();
        assert!(error.contains("has no pid namespace"), "{error}");
    }

    #[test]
    fn a_container_of_another_sandbox_is_refused() {
        let mut other = config(json!([]));
        other["annotations"] = json!({SANDBOX_ID: "other"});
        assert!(joined(other).is_err());
        let mut own = config(json!([]));
        own["annotations"] = json!({SANDBOX_ID: "pod"});
        joined(own).unwrap();
    }

    #[test]
    fn files_of_the_pod_are_added_where_config_json_has_none() {
        let mut with = config(json!([]));
        with["mounts"] = json!([
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/kubelet/hosts", "options": ["rbind"]},
        ]);
        with["root"]["readonly"] = json!(true);
        let mounts = joined(with).unwrap()["mounts"].clone();
        let sources: Vec<_> =
            mounts.as_array().unwrap().iter().map(|mount| mount["source"].as_str().unwrap()).collect();
        assert_eq!(sources, ["/bundle/shm", "/kubelet/hosts", "/bundle/hostname", "/bundle/resolv.conf"]);
        assert_eq!(mounts[3]["options"], json!(["rbind", "rprivate", "ro"]));
        let mut own = config(json!([]));
        own["mounts"] = json!([{"destination": "/dev/shm", "type": "bind", "source": "/volume"}]);
        assert_eq!(joined(own).unwrap()["mounts"][0]["source"], "/volume");
    }
}
