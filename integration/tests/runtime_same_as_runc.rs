//! The same config.json on berth and on runc, on the same machine: the kernel then shows the same, or stricter
//! settings.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    cgroup,
    comparison::{NODES, differences, observe},
    runtime::Runtime,
};
use rustix::mount::MountPropagationFlags;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A name, and a change of the default bundle.
type Row = (&'static str, fn(Bundle) -> Bundle);

#[test]
fn containers_are_as_runcs_or_stricter() {
    compare("same", EVERYWHERE);
}

/// The rows that depend on the layout of the host's cgroups.
#[test]
fn limits_and_device_rules_are_as_runcs() {
    let hierarchy = if cgroup::is_v2() { ON_V2 } else { ON_V1 };
    compare("same-limits", &[RESOURCES, hierarchy].concat());
}

/// Runs the comparison in a private mount namespace of this thread: if the host's mounts are shared, runc makes the
/// mount of the bundle private, which changes the propagation of every other bind mount from it.
fn compare(test: &str, rows: &[Row]) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let (ours, theirs) = (Runtime::new(test), Runtime::peer(&format!("{test}-runc")));
    let mut failed = vec![];
    for (name, set) in rows {
        let bundle = || set(Bundle::probe(&[]));
        let (a, b) = (observe(&ours, bundle()), observe(&theirs, bundle()));
        match (a.get("refused"), b.get("refused")) {
            (None, Some(words)) => failed.push(format!("{name}: only runc refuses it: {words}")),
            (Some(words), None) => failed.push(format!("{name}: only berth refuses it: {words}")),
            (Some(ours), Some(_)) => failed.push(format!("{name}: both refuse it: {ours}")),
            (None, None) => failed.extend(differences(&a, &b, stricter).iter().map(|line| format!("{name}: {line}"))),
        }
        for runtime in [&ours, &theirs] {
            runtime.cmd(&["delete", "--force", "c1"]);
        }
        ours.assert_clean(name);
    }
    assert!(failed.is_empty(), "{} differences:\n{}", failed.len(), failed.join("\n"));
}

/// Returns whether a difference is one that berth may have. A mount has more restrictions than runc's. The host's null
/// device masks a file, and not the container's, which the image could replace. Standard input on /dev/null stays as
/// the caller opened it, while runc reopens it for reading and writing.
///
/// In a user namespace runc binds the host's devices, whose owner is not mapped. berth makes nodes in the container's
/// own /dev, which belong to its root.
fn stricter(key: &str, ours: &str, theirs: &str) -> bool {
    if key == "init/fds/0/mode" {
        return (ours, theirs) == ("0", "2");
    }
    if key.contains("/dev//dev/") && (key.ends_with("/uid") || key.ends_with("/gid")) {
        return (ours, theirs) == ("0", "65534");
    }
    if key.contains("/mount /dev/") && theirs.starts_with("devtmpfs /") {
        return ours == "(nothing)";
    }
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.split("; ").collect(), theirs.split("; ").collect());
    key.contains("/mount ") && ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| stricter_mount(a, b))
}

/// Compares mounts in the form `type root options propagation superblock`.
fn stricter_mount(ours: &str, theirs: &str) -> bool {
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.split(' ').collect(), theirs.split(' ').collect());
    if ours.len() != 5 || theirs.len() != 5 {
        return false;
    }
    if ours[1] == "/null" && theirs[1] == "/null" {
        return true;
    }
    let same = [0, 1, 3].into_iter().all(|n| ours[n] == theirs[n]);
    same && [2, 4].into_iter().all(|n| stricter_options(ours[n], theirs[n]))
}

fn stricter_options(ours: &str, theirs: &str) -> bool {
    let (ours, mut theirs): (BTreeSet<&str>, BTreeSet<&str>) = (ours.split(',').collect(), theirs.split(',').collect());
    if ours.contains("ro") {
        theirs.remove("rw");
    }
    theirs.is_subset(&ours) && ours.difference(&theirs).all(|more| ["nosuid", "nodev", "noexec", "ro"].contains(more))
}

#[test]
fn control_comparison_sees_looser_mounts_and_limits() {
    let mount = |options: &str| format!("tmpfs / {options} private rw,size=1k");
    let strict = |ours: &str, theirs: &str| stricter("init/mount /a", &mount(ours), &mount(theirs));
    assert!(strict("nosuid,ro", "rw") && strict("nosuid,rw", "nosuid,rw"));
    for (ours, theirs) in [("rw", "nosuid,rw"), ("rw", "ro"), ("relatime,rw", "rw"), ("ro", "nodev,rw")] {
        assert!(!strict(ours, theirs), "{ours} {theirs}");
    }
    assert!(!stricter("cgroup/memory/memory.max", "2", "1"));
}

fn resources(bundle: Bundle, json: &str) -> Bundle {
    let wanted: Value = serde_json::from_str(json).unwrap();
    bundle.edit(|c| {
        for (name, value) in wanted.as_object().unwrap() {
            c["linux"]["resources"][name] = value.clone();
        }
    })
}

/// Adds device rules, which an exec with CAP_MKNOD tries.
fn devices(bundle: Bundle, rules: &str) -> Bundle {
    let bundle = capabilities(bundle, &["CAP_MKNOD", "CAP_AUDIT_WRITE"]);
    resources(bundle.mount(NODES, "tmpfs", "tmpfs", &["mode=777"]), &format!(r#"{{"devices":{rules}}}"#))
}

fn capabilities(bundle: Bundle, list: &[&str]) -> Bundle {
    let sets = json!({"bounding": list, "effective": list, "permitted": list});
    bundle.set("/process/capabilities", sets)
}

const EVERYWHERE: &[Row] = &[
    ("the default", |b| b),
    ("a writable root", |b| b.set("/root/readonly", json!(false))),
    ("the host's network", |b| b.host_namespace("network")),
    ("the host's ipc", |b| b.host_namespace("ipc")),
    ("the host's uts", |b| b.host_namespace("uts").unset("/hostname")),
    ("the host's pids", |b| b.host_namespace("pid")),
    ("a cgroup namespace", |b| b.host_namespace("cgroup").namespace("cgroup", "")),
    ("no cgroup namespace", |b| b.host_namespace("cgroup")),
    ("a joined network", |b| b.namespace("network", "/proc/self/ns/net")),
    ("names", |b| b.set("/hostname", json!("one")).set("/domainname", json!("two"))),
    ("no capability", |b| capabilities(b, &[])),
    ("many capabilities", |b| {
        capabilities(b, &["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_NET_RAW", "CAP_SYS_ADMIN"])
    }),
    ("inheritable and ambient", |b| {
        let all = json!(["CAP_KILL", "CAP_CHOWN"]);
        let sets =
            json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": ["CAP_KILL"]});
        b.set("/process/capabilities", sets)
    }),
    ("privileges may grow", |b| b.set("/process/noNewPrivileges", json!(false))),
    ("a user", |b| b.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63}))),
    ("a user with ambient capabilities", |b| {
        let all = json!(["CAP_KILL"]);
        let sets = json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all});
        b.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/capabilities", sets)
    }),
    ("limits", |b| {
        let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600}]);
        b.set("/process/rlimits", limits)
    }),
    ("no limits", |b| b.unset("/process/rlimits")),
    ("oom score", |b| b.set("/process/oomScoreAdj", json!(500))),
    ("sysctls", |b| b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}))),
    ("nothing masked", |b| b.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]))),
    ("masked and read-only", |b| {
        b.dir("d", 0o755)
            .file("f", "x", 0o644)
            .set("/linux/maskedPaths", json!(["/d", "/f", "/proc/keys", "/sys/firmware", "/none"]))
            .set("/linux/readonlyPaths", json!(["/proc/sys", "/dev", "/none"]))
    }),
    ("propagation: slave", |b| b.set("/linux/rootfsPropagation", json!("rslave"))),
    ("propagation: shared", |b| b.set("/linux/rootfsPropagation", json!("rshared"))),
    ("propagation: private", |b| b.set("/linux/rootfsPropagation", json!("private"))),
    ("propagation: unbindable", |b| b.set("/linux/rootfsPropagation", json!("unbindable"))),
    ("tmpfs mounts", |b| {
        b.dir("there", 0o710).mount("/there", "tmpfs", "tmpfs", &["nosuid"]).mount(
            "/made/for/it",
            "tmpfs",
            "tmpfs",
            &["size=1m", "mode=700", "ro", "noatime"],
        )
    }),
    ("bind mounts", |b| {
        b.mount("/a", "bind", "/etc", &["bind"])
            .mount("/b", "bind", "/etc", &["rbind", "ro", "nosuid", "rslave"])
            .mount("/c", "bind", "/etc/hostname", &["bind", "rro", "noexec"])
    }),
    ("a directory and an environment", |b| {
        b.set("/process/cwd", json!("/made")).set("/process/env", json!(["A=1", "PATH=/", "A=2", "HOME=/x"]))
    }),
    ("extra devices", |b| {
        b.set(
            "/linux/devices",
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 7, "gid": 8},
                {"path": "/dev/deep/er", "type": "b", "major": 7, "minor": 0}]),
        )
    }),
    ("a user namespace", Bundle::mapped),
    ("a user namespace with devices and limits", |b| {
        resources(b.mapped(), r#"{"memory":{"limit":67108864},"pids":{"limit":50}}"#)
            .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [7]}))
    }),
    ("bind mounts in a user namespace", |b| {
        b.mapped().mount("/a", "bind", "/etc", &["bind"]).mount("/b", "bind", "/etc", &["rbind", "ro", "nosuid"])
    }),
];

const RESOURCES: &[Row] = &[
    ("devices: the default rules", |b| devices(b, r#"[{"allow":false,"access":"rwm"}]"#)),
    ("devices: one more", |b| {
        devices(
            b,
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
            {"allow":true,"type":"b","major":7,"access":"m"}]"#,
        )
    }),
    ("devices: all but one", |b| {
        devices(b, r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"rwm"}]"#)
    }),
    ("devices: all", |b| devices(b, r#"[{"allow":true,"type":"a","access":"rwm"}]"#)),
    ("memory", |b| resources(b, r#"{"memory":{"limit":67108864,"reservation":33554432}}"#)),
    ("memory without limit", |b| resources(b, r#"{"memory":{"limit":-1}}"#)),
    ("cpu shares", |b| resources(b, r#"{"cpu":{"shares":512}}"#)),
    ("few cpu shares", |b| resources(b, r#"{"cpu":{"shares":2}}"#)),
    ("many cpu shares", |b| resources(b, r#"{"cpu":{"shares":262144}}"#)),
    ("cpu quota", |b| resources(b, r#"{"cpu":{"quota":50000,"period":100000}}"#)),
    ("cpu quota, no period", |b| resources(b, r#"{"cpu":{"quota":20000}}"#)),
    ("cpu period alone", |b| resources(b, r#"{"cpu":{"period":50000}}"#)),
    ("cpu burst", |b| resources(b, r#"{"cpu":{"quota":50000,"period":100000,"burst":10000}}"#)),
    ("cpu idle", |b| resources(b, r#"{"cpu":{"idle":1}}"#)),
    ("cpus and nodes", |b| resources(b, r#"{"cpu":{"cpus":"0","mems":"0"}}"#)),
    ("pids", |b| resources(b, r#"{"pids":{"limit":20}}"#)),
    ("pids without limit", |b| resources(b, r#"{"pids":{"limit":-1}}"#)),
    ("throttled block devices", |b| {
        let json = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":7,"minor":0,"rate":1048576}],
            "throttleWriteIOPSDevice":[{"major":7,"minor":0,"rate":100}]}}"#;
        resources(b, json)
    }),
];

const ON_V1: &[Row] = &[
    // On v2 the limit applies to an exec as well, and runc's, which needs threads, fails.
    ("pids: none but one", |b| resources(b, r#"{"pids":{"limit":0}}"#)),
    ("memory and swap", |b| resources(b, r#"{"memory":{"limit":67108864,"swap":134217728,"swappiness":10}}"#)),
    ("no oom killer", |b| resources(b, r#"{"memory":{"limit":67108864,"disableOOMKiller":true}}"#)),
    ("block weight", |b| resources(b, r#"{"blockIO":{"weight":200}}"#)),
];

const ON_V2: &[Row] = &[
    ("memory and swap", |b| resources(b, r#"{"memory":{"limit":67108864,"swap":134217728}}"#)),
    ("block weight", |b| resources(b, r#"{"blockIO":{"weight":200}}"#)),
    ("unified", |b| {
        let json = r#"{"unified":{"memory.high":"33554432","memory.low":"4194304","memory.min":"1048576","pids.max":"77",
            "cpu.weight":"50","memory.oom.group":"1"}}"#;
        resources(b, json)
    }),
];
