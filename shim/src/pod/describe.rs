//! The pod in containerd's words: the specification in the answer to StartSandbox, and the JSON of a verbose status.

use std::path::{Path, PathBuf};

use berth_proto::{any, wkt::Any};
use berth_runtime::{Error, Kind, OCI_VERSION, Result};
use serde_json::{Map, Value, json};

use super::{config::PodConfig, files};

/// The specification of the pod: what containers join and share, as containerd 2.3 stores it and NRI shows it. `pins` are
/// the pinned namespaces by the name of their files in /proc.
///
/// # Errors
/// The specification cannot be encoded.
pub fn spec(config: &PodConfig, pins: &[(&str, PathBuf)]) -> Result<Any> {
    let network = config.network.iter().map(|path| json!({"type": "network", "path": path}));
    let pinned = pins.iter().map(|(name, path)| json!({"type": name, "path": path}));
    let linux = json!({
        "namespaces": network.chain(pinned).collect::<Vec<_>>(),
        "sysctl": config.sysctls,
        "cgroupsPath": config.cri.linux.cgroup_parent,
    });
    let spec = json!({
        "ociVersion": OCI_VERSION,
        "hostname": config.hostname,
        "mounts": mounts(config),
        "annotations": annotations(config),
        "linux": linux,
    });
    Ok(any::json(any::OCI_SPEC, encode(&spec)?))
}

/// The JSON in `info` of a verbose status, which `crictl inspectp` shows: containerd's `SandboxInfo`.
///
/// # Errors
/// The text cannot be encoded.
pub fn info(config: &PodConfig, pid: u32, spec: Option<&[u8]>) -> Result<String> {
    let metadata = &config.cri.metadata;
    let spec = spec.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or(Value::Null);
    let info = json!({
        "pid": pid,
        "processStatus": if spec.is_null() { "deleted" } else { "running" },
        "netNamespaceClosed": spec.is_null() && config.network.is_some(),
        "runtimeType": "io.containerd.berth.v2",
        "runtimeSpec": spec,
        "config": {
            "metadata": {
                "name": metadata.name,
                "uid": metadata.uid,
                "namespace": metadata.namespace,
                "attempt": metadata.attempt,
            },
            "hostname": config.cri.hostname,
            "log_directory": config.cri.log_directory,
            "linux": {"cgroup_parent": config.cri.linux.cgroup_parent, "sysctls": config.sysctls},
        },
    });
    String::from_utf8(encode(&info)?).map_err(|e| Error::new(Kind::Internal, e.to_string()))
}

/// The files that a container gets from the pod.
fn mounts(config: &PodConfig) -> Vec<Value> {
    let bind = |target: &str, source: &Path| json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]});
    let shm = config.own_ipc.then(|| bind("/dev/shm", &config.bundle.join(files::SHM)));
    files::SHARED.iter().map(|(target, name)| bind(target, &config.bundle.join(name))).chain(shm).collect()
}

/// The annotations that containerd gives to a pause container.
fn annotations(config: &PodConfig) -> Value {
    let (metadata, resources) = (&config.cri.metadata, &config.cri.linux.resources);
    let all = [
        ("container-type", "sandbox".to_owned()),
        ("sandbox-id", config.id.clone()),
        ("sandbox-name", metadata.name.clone()),
        ("sandbox-namespace", metadata.namespace.clone()),
        ("sandbox-uid", metadata.uid.clone()),
        ("sandbox-log-directory", config.cri.log_directory.clone()),
        ("sandbox-cpu-period", resources.cpu_period.to_string()),
        ("sandbox-cpu-quota", resources.cpu_quota.to_string()),
        ("sandbox-cpu-shares", resources.cpu_shares.to_string()),
        ("sandbox-memory", resources.memory_limit.to_string()),
    ];
    let named = all.into_iter().map(|(name, value)| (format!("io.kubernetes.cri.{name}"), Value::from(value)));
    Value::Object(named.collect::<Map<_, _>>())
}

fn encode(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::new(Kind::Internal, e.to_string()))
}
