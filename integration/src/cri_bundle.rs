//! A bundle with the configuration that containerd's CRI writes for a container of a pod, in form and size, for
//! measurements without a containerd.

use crate::bundle::Bundle;
use serde_json::{Value, json};
use std::fs;

#[path = "../../runtime/tests/seccomp_oracle/profiles.rs"]
#[allow(dead_code, missing_docs, reason = "of the profiles of the seccomp tests one is used here")]
mod profiles;

/// The paths that Kubernetes masks by default.
pub const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// The paths that Kubernetes makes read-only by default.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Makes a bundle that runs `args`, with busybox as `/bin/true`, `/bin/sleep` and `/bin/sh`.
///
/// The namespaces are the container's own. hosts, hostname, resolv.conf and shm come from the bundle's directory.
pub fn pod_container(args: &[&str]) -> Bundle {
    let bundle = Bundle::busybox(args, &["true", "sleep", "sh"]);
    let volumes = bundle.path().join("volumes");
    fs::create_dir_all(volumes.join("shm")).expect("make a directory");
    for file in ["hostname", "hosts", "resolv.conf"] {
        fs::write(volumes.join(file), "pod\n").expect("write a file");
    }
    let mut mounts = mounts();
    for (target, name) in [
        ("/etc/hostname", "hostname"),
        ("/etc/hosts", "hosts"),
        ("/etc/resolv.conf", "resolv.conf"),
        ("/dev/shm", "shm"),
    ] {
        mounts.push(json!({"destination": target, "type": "bind", "source": volumes.join(name),
            "options": ["rbind", "rprivate", "rw"]}));
    }
    bundle
        .dir("proc", 0o755)
        .dir("etc", 0o755)
        .set("/mounts", Value::Array(mounts))
        .set("/process/capabilities", capabilities())
        .set("/process/oomScoreAdj", json!(1000))
        .unset("/process/rlimits")
        .unset("/hostname")
        .set("/root/readonly", json!(false))
        .set("/annotations", json!({"io.kubernetes.cri.container-type": "container"}))
        .set("/linux/seccomp", profiles::containerd())
        .set("/linux/resources", resources())
        .set("/linux/maskedPaths", json!(MASKED))
}

fn mounts() -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

fn capabilities() -> Value {
    let default = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({"bounding": default, "effective": default, "permitted": default})
}

fn resources() -> Value {
    json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
    })
}
