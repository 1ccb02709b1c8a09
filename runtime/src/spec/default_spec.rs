//! The example config.json that the `spec` command writes: a shell on a terminal, few capabilities, a read-only root.
//!
//! The fields have the order of the runtime specification (1.3.0), which readers know. [`crate::spec::bundle`] parses
//! config.json.

use serde::Serialize;

use crate::OCI_VERSION;

/// An example configuration, to be serialised to JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: &'static str,
    mounts: Vec<Mount>,
    linux: Linux,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User,
    args: [&'static str; 1],
    env: [&'static str; 2],
    cwd: &'static str,
    capabilities: Capabilities,
    rlimits: [Rlimit; 1],
    no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
struct User {
    uid: u32,
    gid: u32,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    bounding: [&'static str; 3],
    effective: [&'static str; 3],
    permitted: [&'static str; 3],
}

#[derive(Debug, Serialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: &'static str,
    hard: u64,
    soft: u64,
}

#[derive(Debug, Serialize)]
struct Root {
    path: &'static str,
    readonly: bool,
}

#[derive(Debug, Serialize)]
struct Mount {
    destination: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid_mappings: Option<[IdMapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid_mappings: Option<[IdMapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    namespaces: Vec<Namespace>,
    masked_paths: &'static [&'static str],
    readonly_paths: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct IdMapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Debug, Serialize)]
struct Resources {
    devices: [DeviceRule; 1],
}

#[derive(Debug, Serialize)]
struct DeviceRule {
    allow: bool,
    access: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: &'static str,
}

const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// Paths that a container must not read. The powercap counters reveal the work of other processes (CVE-2020-8694). runc
/// does not mask them; Docker does.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Returns the example configuration. With `unified` the host has only cgroup v2, so the container gets a cgroup
/// namespace. With `rootless` it maps root to these user and group ids, which cannot create network interfaces, mount
/// sysfs or write to cgroups.
pub fn default_spec(unified: bool, rootless: Option<(u32, u32)>) -> Spec {
    let mut namespaces: Vec<_> =
        ["pid", "network", "ipc", "uts", "mount"].map(|kind| Namespace { kind }).into_iter().collect();
    if unified {
        namespaces.push(Namespace { kind: "cgroup" });
    }
    if rootless.is_some() {
        namespaces.retain(|namespace| namespace.kind != "network");
        namespaces.push(Namespace { kind: "user" });
    }
    let mapping = |host_id| [IdMapping { container_id: 0, host_id, size: 1 }];
    Spec {
        oci_version: OCI_VERSION,
        process: Process {
            terminal: true,
            user: User { uid: 0, gid: 0 },
            args: ["sh"],
            env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            cwd: "/",
            capabilities: Capabilities { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
            rlimits: [Rlimit { kind: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
            no_new_privileges: true,
        },
        root: Root { path: "rootfs", readonly: true },
        hostname: "berth",
        mounts: mounts(rootless.is_some()),
        linux: Linux {
            uid_mappings: rootless.map(|(uid, _)| mapping(uid)),
            gid_mappings: rootless.map(|(_, gid)| mapping(gid)),
            resources: rootless
                .is_none()
                .then_some(Resources { devices: [DeviceRule { allow: false, access: "rwm" }] }),
            namespaces,
            masked_paths: MASKED,
            readonly_paths: READONLY,
        },
    }
}

/// Returns the mounts. An unprivileged caller can only bind sysfs, and has no mapping for group 5 (tty).
fn mounts(rootless: bool) -> Vec<Mount> {
    let mount = |destination, kind, source, options: &[&'static str]| Mount {
        destination,
        kind,
        source,
        options: options.to_vec(),
    };
    let mut pts = mount(
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    );
    let mut sys = mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    if rootless {
        pts.options.retain(|option| *option != "gid=5");
        sys = mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    }
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        pts,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(unified: bool, rootless: Option<(u32, u32)>) -> Value {
        serde_json::to_value(default_spec(unified, rootless)).unwrap()
    }

    #[test]
    fn default_spec_parses_as_a_runtime_spec() {
        for rootless in [None, Some((1000, 1001))] {
            let text = serde_json::to_string(&default_spec(true, rootless)).unwrap();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.version(), OCI_VERSION);
            assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        }
    }

    #[test]
    fn default_spec_has_a_cgroup_namespace_only_on_cgroup_v2() {
        let kinds = |v: Value| -> Vec<String> {
            v["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n["type"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(kinds(value(false, None)), ["pid", "network", "ipc", "uts", "mount"]);
        assert_eq!(kinds(value(true, None)), ["pid", "network", "ipc", "uts", "mount", "cgroup"]);
        assert_eq!(kinds(value(false, Some((1, 2)))), ["pid", "ipc", "uts", "mount", "user"]);
    }

    #[test]
    fn rootless_default_spec_maps_the_caller_and_binds_sysfs() {
        let v = value(false, Some((1000, 1001)));
        assert_eq!(v["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
        assert_eq!(v["linux"]["gidMappings"], json!([{"containerID": 0, "hostID": 1001, "size": 1}]));
        assert_eq!(v["linux"].get("resources"), None);
        assert_eq!(
            v["mounts"][5],
            json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
        );
        assert!(!v["mounts"].to_string().contains("gid="));
    }

    #[test]
    fn default_spec_masks_powercap_and_denies_all_devices() {
        let v = value(false, None);
        assert!(v["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/sys/devices/virtual/powercap")));
        assert_eq!(v["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
        assert_eq!(v["mounts"][0], json!({"destination": "/proc", "type": "proc", "source": "proc"}));
    }
}
