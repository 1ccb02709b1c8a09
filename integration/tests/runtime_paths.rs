//! Masked and readonly paths, device nodes, the default `/dev`, and sysctls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Case, Refusal, all, refused},
    mounts,
    runtime::Runtime,
};
use serde_json::{Value, json};

#[test]
fn masked_paths_show_nothing() {
    let runtime = Runtime::new("masked");
    let bundle = Bundle::probe(&[
        "report",
        "read=/proc/keys",
        "list=/sys/firmware",
        "list=/dir",
        "read=/file",
        "stat=/file",
        "mountinfo",
        "+",
        "open",
        "w",
        "/dir/new",
        "/file",
    ])
    .file("dir/secret", "x", 0o644)
    .file("file", "secret", 0o644)
    .set(
        "/linux/maskedPaths",
        json!(["/proc/keys", "/sys/firmware", "/dir", "/file", "/missing", "/dir/not-there/either", "/dir", "/file"]),
    )
    .set("/root/readonly", json!(false));
    let out = runtime.run("c1", &bundle).ok();
    let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let report = &lines[0];
    assert_eq!(report["read"]["/proc/keys"], "");
    assert_eq!(report["read"]["/file"], "");
    assert_eq!(report["stat"]["/file"]["rdev"], json!([1, 3]), "a masked file is /dev/null: {report}");
    assert_eq!(report["list"]["/sys/firmware"], json!([]));
    assert_eq!(report["list"]["/dir"], json!([]));
    assert_eq!(lines[1]["open"]["/dir/new"], libc::ENOENT, "not created by open without O_CREAT");
    let table = mounts::reported(report);
    assert!(mounts::at(&table, "/dir").unwrap().has("ro"), "{table:#?}");
    for path in ["/dir", "/file"] {
        assert_eq!(
            table.iter().filter(|m| m.point == path).count(),
            1,
            "{path}, which is named twice, is covered once"
        );
    }
    assert!(mounts::at(&table, "/missing").is_none() && !bundle.rootfs().join("missing").exists());
    assert_eq!(std::fs::read_to_string(bundle.rootfs().join("dir/secret")).unwrap(), "x");
}

#[test]
fn readonly_paths_refuse_writes() {
    let runtime = Runtime::new("readonly");
    let bundle = Bundle::probe(&[
        "open",
        "w",
        "/proc/sys/kernel/domainname",
        "/dir/file",
        "/dir/sub/file",
        "+",
        "report",
        "mountinfo",
        "read=/dir/file",
    ])
    .file("dir/file", "text", 0o666)
    .file("dir/sub/file", "", 0o666)
    .set("/linux/readonlyPaths", json!(["/proc/sys", "/dir", "/missing"]))
    .set("/root/readonly", json!(false));
    let out = runtime.run("c1", &bundle).ok();
    let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (path, errno) in lines[0]["open"].as_object().unwrap() {
        assert_eq!(*errno, libc::EROFS, "{path}");
    }
    assert_eq!(lines[1]["read"]["/dir/file"], "text");
    let table = mounts::reported(&lines[1]);
    assert!(mounts::at(&table, "/dir").unwrap().has("ro"), "{table:#?}");
    assert!(mounts::at(&table, "/missing").is_none());
}

/// Options such as nosuid of the mount stay when the path becomes read-only.
#[test]
fn readonly_path_keeps_the_flags_of_its_mount() {
    let runtime = Runtime::new("readonly-flags");
    let bundle = Bundle::probe(&["report", "mountinfo"])
        .mount("/mnt", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"])
        .set("/linux/readonlyPaths", json!(["/mnt"]));
    let table = mounts::reported(&runtime.run("c1", &bundle).ok().json());
    let mount = mounts::at(&table, "/mnt").unwrap();
    assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|o| mount.has(o)), "{mount:?}");
}

#[test]
fn default_dev_has_the_standard_devices_and_links() {
    let runtime = Runtime::new("dev");
    let out = runtime.run("c1", &Bundle::probe(&["report", "dev"])).ok();
    let dev = out.json()["dev"].clone();
    let mut names: Vec<&str> = dev.as_object().unwrap().keys().map(|k| k.strip_prefix("/dev/").unwrap()).collect();
    names.retain(|n| !n.starts_with("pts/"));
    names.sort_unstable();
    let expected = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(
        names.iter().filter(|n| **n != "core").collect::<Vec<_>>(),
        expected.iter().filter(|n| **n != "core").collect::<Vec<_>>()
    );
    for (name, numbers) in
        [("null", [1, 3]), ("zero", [1, 5]), ("full", [1, 7]), ("random", [1, 8]), ("urandom", [1, 9]), ("tty", [5, 0])]
    {
        let node = &dev[format!("/dev/{name}")];
        assert_eq!((&node["type"], &node["rdev"]), (&json!("c"), &json!(numbers)), "{name}: {node}");
        assert_eq!(
            (&node["mode"], &node["uid"], &node["gid"]),
            (&json!(0o666), &json!(0), &json!(0)),
            "{name}: {node}"
        );
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        assert_eq!(dev[format!("/dev/{name}")]["target"], target, "{name}");
    }
    assert_eq!(dev["/dev/pts/ptmx"]["mode"], 0o666);
    assert_eq!(dev["/dev/shm"]["mode"], 0o1777);
}

#[test]
fn configured_device_nodes_are_made() {
    let runtime = Runtime::new("devices");
    let bundle = Bundle::probe(&[
        "report",
        "dev",
        "stat=/dev/net/tun",
        "stat=/dev/pipe",
        "stat=/dev/loop",
        "+",
        "open",
        "rw",
        "/dev/net/tun",
        "/dev/kmsg",
        "/dev/null",
    ])
    .set(
        "/linux/devices",
        json!([
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666, "uid": 7, "gid": 8},
            {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o644},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            {"path": "/dev/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 0o640, "uid": 0, "gid": 6}
        ]),
    )
    .set(
        "/linux/resources/devices",
        json!([
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}
        ]),
    );
    let out = runtime.run("c1", &bundle).ok();
    let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let expected = [
        ("/dev/net/tun", "c", [10, 200], 0o666, 7, 8),
        ("/dev/kmsg", "c", [1, 11], 0o644, 0, 0),
        ("/dev/pipe", "p", [0, 0], 0o600, 0, 0),
        ("/dev/loop", "b", [7, 0], 0o640, 0, 6),
    ];
    for (path, kind, numbers, mode, uid, gid) in expected {
        let node = &lines[0]["dev"][path];
        assert_eq!((&node["type"], &node["rdev"]), (&json!(kind), &json!(numbers)), "{path}: {node}");
        assert_eq!(
            (&node["mode"], &node["uid"], &node["gid"]),
            (&json!(mode), &json!(uid), &json!(gid)),
            "{path}: {node}"
        );
    }
    let open = &lines[1]["open"];
    assert_eq!(
        (&open["/dev/net/tun"], &open["/dev/kmsg"], &open["/dev/null"]),
        (&json!(0), &json!(libc::EPERM), &json!(0)),
        "{open}"
    );
}

/// A list of device rules, and device nodes with their mode for mknod(2) and whether they may be read.
struct Rules {
    rules: &'static str,
    nodes: &'static [(i64, u32, u32, bool)],
}

const CHAR: i64 = 0o020_666;
const BLOCK: i64 = 0o060_666;

const RULES: &[Rules] = &[
    Rules {
        rules: r#"[{"allow":false,"access":"rwm"}]"#,
        nodes: &[(CHAR, 1, 11, false), (BLOCK, 7, 0, false), (CHAR, 1, 3, true)],
    },
    Rules {
        rules: r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":7,"access":"r"}]"#,
        nodes: &[(BLOCK, 7, 0, true), (BLOCK, 7, 1, true), (BLOCK, 8, 1, false)],
    },
    Rules {
        rules: r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"r"}]"#,
        nodes: &[(CHAR, 1, 11, false), (CHAR, 1, 5, true)],
    },
];

#[test]
fn device_rules_allow_and_deny_devices() {
    let runtime = Runtime::new("device-rules");
    for row in RULES {
        let paths: Vec<String> = (0..row.nodes.len()).map(|n| format!("/t/{n}")).collect();
        let mknod = |((mode, major, minor, _), path): (&(i64, u32, u32, bool), &String)| {
            format!("{}:@{path},{mode},{}", libc::SYS_mknod, libc::makedev(*major, *minor))
        };
        let calls: Vec<String> = row.nodes.iter().zip(&paths).map(mknod).collect();
        let (calls, opens) = (calls.iter().map(String::as_str), paths.iter().map(String::as_str));
        let words: Vec<&str> = ["syscall"].into_iter().chain(calls).chain(["+", "open", "r"]).chain(opens).collect();
        let caps = json!(["CAP_MKNOD"]);
        let bundle = Bundle::probe(&words)
            .mount("/t", "tmpfs", "tmpfs", &[])
            .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
            .set("/linux/resources/devices", serde_json::from_str(row.rules).unwrap());
        let out = runtime.run("c1", &bundle).ok();
        for ((.., readable), path) in row.nodes.iter().zip(&paths) {
            // Opening a node without a driver gives ENXIO or ENODEV. Only EPERM counts.
            let errno = &out.json()["open"][path];
            assert_ne!(*errno, libc::ENOENT, "mknod is allowed by default: {out:#?}");
            let refused = *errno == libc::EPERM;
            assert_eq!(refused, !readable, "{}: {path}: {out:#?}", row.rules);
        }
    }
}

#[test]
fn sysctls_of_own_namespaces_are_set() {
    all("sysctl", SYSCTLS);
}

const SYSCTLS: &[Case] = &[
    Case {
        name: "of the network and ipc namespaces",
        set: |b| {
            b.set(
                "/linux/sysctl",
                json!({"net.ipv4.ip_forward": "1", "net.core.somaxconn": "77", "kernel.shmmni": "99",
                "kernel.msgmax": "8191", "fs.mqueue.msg_max": "9"}),
            )
            .args(&[
                "/probe",
                "report",
                "read=/proc/sys/net/ipv4/ip_forward",
                "read=/proc/sys/net/core/somaxconn",
                "read=/proc/sys/kernel/shmmni",
                "read=/proc/sys/kernel/msgmax",
                "read=/proc/sys/fs/mqueue/msg_max",
            ])
        },
        sees: &[(
            "/read",
            r#"{"/proc/sys/net/ipv4/ip_forward":"1","/proc/sys/net/core/somaxconn":"77","/proc/sys/kernel/shmmni":"99",
            "/proc/sys/kernel/msgmax":"8191","/proc/sys/fs/mqueue/msg_max":"9"}"#,
        )],
    },
    Case {
        name: "with slashes, where a name holds a dot",
        set: |b| {
            b.set("/linux/sysctl", json!({"net/ipv4/conf/lo/forwarding": "1"})).args(&[
                "/probe",
                "report",
                "read=/proc/sys/net/ipv4/conf/lo/forwarding",
            ])
        },
        sees: &[("/read", r#"{"/proc/sys/net/ipv4/conf/lo/forwarding":"1"}"#)],
    },
    Case {
        name: "kernel.domainname of a new uts namespace",
        set: |b| b.set("/linux/sysctl", json!({"kernel.domainname": "sea"})),
        sees: &[("/uts/domainname", r#""sea""#)],
    },
];

#[test]
fn sysctls_of_the_hosts_namespaces_are_refused() {
    refused("sysctl-refused", SYSCTLS_REFUSED);
}

const SYSCTLS_REFUSED: &[Refusal] = &[
    Refusal {
        name: "one of the whole host",
        set: |b| b.set("/linux/sysctl", json!({"kernel.core_pattern": "x"})),
        says: &["kernel.core_pattern"],
    },
    Refusal {
        name: "one of the whole host's vm",
        set: |b| b.set("/linux/sysctl", json!({"vm.overcommit_memory": "1"})),
        says: &["vm.overcommit_memory"],
    },
    Refusal {
        name: "net without a network namespace",
        set: |b| b.host_namespace("network").set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})),
        says: &["net.ipv4.ip_forward"],
    },
    Refusal {
        name: "ipc without an ipc namespace",
        set: |b| b.host_namespace("ipc").set("/linux/sysctl", json!({"kernel.shmmni": "99"})),
        says: &["kernel.shmmni"],
    },
    Refusal {
        name: "the host name, which has a field of its own",
        set: |b| b.set("/linux/sysctl", json!({"kernel.hostname": "x"})),
        says: &["kernel.hostname"],
    },
    Refusal {
        name: "one that does not exist",
        set: |b| b.set("/linux/sysctl", json!({"net.ipv4.no_such": "1"})),
        says: &["no_such"],
    },
    Refusal {
        name: "a value the kernel refuses",
        set: |b| b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "x"})),
        says: &["ip_forward", "invalid argument"],
    },
    Refusal {
        name: "a way out",
        set: |b| b.set("/linux/sysctl", json!({"net/../kernel/core_pattern": "x"})),
        says: &["core_pattern"],
    },
];
