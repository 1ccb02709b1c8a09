//! User namespaces: the mappings, joined ones, devices. (`runtime_idmap` has idmapped mounts.)
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::succeeds_without,
    bundle::{Bundle, MAPPED, map},
    case::{self, Case, Refusal, refused, skipped_on_runc},
    cgroup, mounts,
    runtime::Runtime,
};
use serde_json::{Value, json};

/// Adds a new user namespace.
fn mapped(bundle: Bundle) -> Bundle {
    bundle.mapped()
}

#[test]
fn user_namespace_shows_its_ids_and_owners() {
    case::all("userns", CASES);
}

const CASES: &[Case] = &[
    Case {
        name: "ids and the right to set groups",
        set: |b| {
            mapped(b)
                .args(&["/probe", "report", "ids", "read=/proc/self/setgroups"])
                .set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [9]}))
        },
        sees: &[
            ("/ids", r#"{"uid": [7, 7, 7], "gid": [8, 8, 8], "groups": [9], "fsuid": 7, "fsgid": 8}"#),
            ("/read/~1proc~1self~1setgroups", r#""allow""#),
        ],
    },
    Case {
        name: "kernel filesystems",
        set: |b| {
            mapped(b).args(&[
                "/probe",
                "report",
                "stat=/dev/mqueue",
                "stat=/dev/pts/ptmx",
                "stat=/sys/class",
                "stat=/dev/shm",
            ])
        },
        sees: &[
            ("/stat/~1dev~1mqueue/uid", "0"),
            ("/stat/~1dev~1pts~1ptmx/gid", "0"),
            ("/stat/~1sys~1class/type", r#""d""#),
            ("/stat/~1dev~1shm/uid", "0"),
        ],
    },
    Case {
        name: "kernel parameters of its namespaces",
        set: |b| {
            mapped(b).set("/linux/sysctl", json!({"net.ipv4.ip_unprivileged_port_start": "0"})).args(&[
                "/probe",
                "report",
                "read=/proc/sys/net/ipv4/ip_unprivileged_port_start",
            ])
        },
        sees: &[("/read/~1proc~1sys~1net~1ipv4~1ip_unprivileged_port_start", r#""0""#)],
    },
    Case {
        name: "an OOM score",
        set: |b| mapped(b).set("/process/oomScoreAdj", json!(321)).args(&["/probe", "report", "oom"]),
        sees: &[("/oom", r#""321""#)],
    },
    Case {
        name: "capabilities that the host's root may lack",
        set: |b| {
            let caps = json!(["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"]);
            mapped(b)
                .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
                .args(&["/probe", "report", "caps"])
        },
        sees: &[("/caps/effective", "18874368"), ("/caps/bounding", "18874368")],
    },
];

#[test]
fn devices_can_be_used_in_a_user_namespace() {
    let runtime = Runtime::new("userns-devices");
    let device =
        json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 5, "gid": 6}]);
    let words = ["report", "dev", "+", "open", "rw", "/dev/null", "/dev/full", "/dev/zero"];
    // The device is on a tmpfs at /dev, or in the image's own directory.
    let tmpfs = mapped(Bundle::probe(&words)).set("/linux/devices", device.clone());
    let image = ["/dev/mqueue", "/dev/shm", "/dev/pts", "/dev"].iter().fold(tmpfs, |b, at| b.unmount(at));
    let tmpfs = mapped(Bundle::probe(&words)).set("/linux/devices", device);
    for (bundle, own) in [(tmpfs, true), (image.set("/root/readonly", json!(false)), false)] {
        let out = runtime.run("c1", &bundle).ok();
        let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        for (path, rdev) in [("/dev/null", [1, 3]), ("/dev/full", [1, 7]), ("/dev/urandom", [1, 9])] {
            assert_eq!(lines[0]["dev"][path]["rdev"], json!(rdev), "{path}");
            assert_eq!(lines[0]["dev"][path]["type"], "c", "{path}");
        }
        assert_eq!(lines[1]["open"]["/dev/null"], 0);
        assert_eq!(lines[1]["open"]["/dev/zero"], 0);
        if own && !skipped_on_runc("owners of devices", "it binds the host's nodes, which are nobody's there") {
            let full = &lines[0]["dev"]["/dev/full"];
            assert_eq!((&full["uid"], &full["gid"], &full["mode"]), (&json!(5), &json!(6), &json!(0o600)), "{full}");
            assert_eq!(lines[0]["dev"]["/dev/null"]["uid"], 0);
        }
        runtime.assert_clean("devices");
    }
}

fn of(pid: u32, link: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap().to_str().unwrap().to_owned()
}

/// The container joins the sandbox's user namespace and others, with and without mappings in config.json.
#[test]
fn user_namespace_of_a_pod_is_joined_by_path() {
    let runtime = Runtime::new("userns-pod");
    runtime.start("sandbox", &mapped(Bundle::probe(&["sleep", "100"])));
    let pid = runtime.pid("sandbox");
    let volume = runtime.work().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "the host's root's").unwrap();
    let volume = volume.to_str().unwrap();
    for with_mappings in [true, false] {
        for kinds in [&["user", "network", "ipc", "uts"][..], &["user", "network", "ipc", "uts", "pid"]] {
            let words = [
                "report",
                "namespaces",
                "ids",
                "process",
                "read=/proc/self/uid_map",
                "stat=/mnt/file",
                "stat=/sys/class",
            ];
            let bundle =
                Bundle::probe(&[]).owned().unset("/hostname").mount("/mnt", "bind", volume, &["bind", "idmap"]);
            let bundle = kinds.iter().fold(bundle, |b, kind| {
                let link = if *kind == "network" { "net" } else { kind };
                b.namespace(kind, &format!("/proc/{pid}/ns/{link}"))
            });
            let bundle = if with_mappings {
                bundle.set("/linux/uidMappings", map(0, MAPPED, 65536)).set("/linux/gidMappings", map(0, MAPPED, 65536))
            } else {
                bundle
            };
            let report = runtime.run("c1", &bundle.args(&[&["/probe"], &words[..]].concat())).ok().json();
            for kind in ["user", "net", "ipc", "uts", "pid"] {
                let shared = kind != "pid" || kinds.contains(&"pid");
                assert_eq!(report["namespaces"][kind] == of(pid, kind), shared, "{kind} of {kinds:?}");
            }
            let numbers: Vec<_> = report["read"]["/proc/self/uid_map"].as_str().unwrap().split_whitespace().collect();
            assert_eq!(numbers, ["0", "100000", "65536"]);
            assert_eq!(report["ids"]["uid"], json!([0, 0, 0]));
            assert_eq!(report["stat"]["/mnt/file"]["uid"], 0);
            assert_eq!(report["stat"]["/sys/class"]["type"], "d");
            assert_eq!(report["process"]["pid"] == 1, !kinds.contains(&"pid"), "{report}");
        }
    }
    let other = Bundle::probe(&["report"]).owned().namespace("user", &format!("/proc/{pid}/ns/user"));
    let other = other.set("/linux/uidMappings", map(0, MAPPED, 9)).set("/linux/gidMappings", map(0, MAPPED, 65536));
    runtime.run("c1", &other).fails(1, &["both namespace path and non-matching mapping specified"]);
    assert_eq!(runtime.state("sandbox")["status"], "running");
}

/// The container has a new user namespace and joins a network namespace of the host's, which it must enter first.
#[test]
fn new_user_namespace_works_with_a_joined_network_namespace() {
    let runtime = Runtime::new("userns-mixed");
    runtime.start("holder", &Bundle::probe(&["sleep", "100"]));
    let pid = runtime.pid("holder");
    // The owner of the network namespace owns sysfs.
    let bundle = mapped(Bundle::probe(&["report", "namespaces", "ids"])).unmount("/sys").unmount("/sys/fs/cgroup");
    let bundle = bundle.namespace("network", &format!("/proc/{pid}/ns/net"));
    let report = runtime.run("c1", &bundle).ok().json();
    assert_eq!(report["namespaces"]["net"], of(pid, "net"));
    assert_ne!(report["namespaces"]["user"], of(pid, "user"));
    assert_eq!(report["ids"]["uid"], json!([0, 0, 0]));
}

#[test]
fn exec_joins_the_user_namespace() {
    let runtime = Runtime::new("userns-exec");
    runtime.start("c1", &mapped(Bundle::probe(&["sleep", "100"])));
    let words = ["/probe", "report", "namespaces", "ids", "caps", "read=/proc/self/gid_map"];
    let report = runtime.exec("c1", &words).ok().json();
    assert_eq!(report["namespaces"]["user"], of(runtime.pid("c1"), "user"));
    assert_eq!(report["ids"]["gid"], json!([0, 0, 0]));
    assert_eq!(report["caps"]["effective"], 536871968);
    let report =
        runtime.cmd(&[&["exec", "--user", "7:8", "--additional-gids", "9", "c1"], &words[..]].concat()).ok().json();
    assert_eq!(report["ids"]["uid"], json!([7, 7, 7]));
    assert!(report["ids"]["groups"].as_array().unwrap().iter().all(|group| *group == 9), "{report}");
    let out = runtime.cmd(&[&["exec", "--user", "70000", "c1"], &words[..]].concat());
    assert_ne!(out.code, 0, "{out:#?}");
}

/// CVE-2023-25809.
#[test]
fn cgroup_mounts_are_read_only_without_a_cgroup_namespace() {
    if skipped_on_runc("cgroups in a user namespace", "it leaves them as the mount's options say") {
        return;
    }
    let writable = |runtime: &Runtime| {
        let bundle = with_writable_cgroups(mapped(Bundle::probe(&["report", "mountinfo"]))).host_namespace("cgroup");
        let table = mounts::reported(&runtime.run("c1", &bundle).ok().json());
        let cgroups: Vec<_> = table.iter().filter(|m| m.point.starts_with("/sys/fs/cgroup")).collect();
        assert!(!cgroups.is_empty());
        cgroups.into_iter().filter(|mount| !mount.has("ro")).map(|mount| format!("{mount:?}")).collect::<Vec<_>>()
    };
    assert_eq!(writable(&Runtime::new("userns-cgroup")), Vec::<String>::new());
    // The kernel refuses a user namespace a mount of cgroup v2 that is not a bind mount.
    if !cgroup::is_v2() {
        succeeds_without("userns-cgroup", &[Defence::CgroupReadonly], writable);
    }
}

/// Makes the cgroup mount writable.
fn with_writable_cgroups(bundle: Bundle) -> Bundle {
    bundle.edit(|c| {
        for mount in c["mounts"].as_array_mut().unwrap() {
            if mount["type"] == "cgroup" {
                mount["options"].as_array_mut().unwrap().retain(|o| o != "ro");
            }
        }
    })
}

/// The payload's user may use a writable mount that shows the container's own cgroup alone. Every other cgroup mount
/// stays the host's.
#[test]
fn cgroup_is_delegated_only_with_a_cgroup_namespace() {
    if !cgroup::is_v2() {
        eprintln!("delegation: skipped: this machine has v1 hierarchies, of which nothing is delegated");
        return;
    }
    if skipped_on_runc("delegation", "it does it with the systemd driver alone") {
        return;
    }
    let runtime = Runtime::new("userns-delegate");
    let files = ["", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads", "/pids.max"];
    let paths = files.map(|file| format!("stat=/sys/fs/cgroup{file}"));
    let mut words = vec!["report"];
    words.extend(paths.iter().map(String::as_str));
    words.extend(["+", "write", "/sys/fs/cgroup/cgroup.procs", "0"]);
    let inside = |bundle: Bundle| {
        let out = runtime.run("c1", &bundle).ok();
        let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let owners = files.map(|file| lines[0]["stat"][format!("/sys/fs/cgroup{file}")]["uid"].as_u64());
        (owners, lines[1]["write"]["/sys/fs/cgroup/cgroup.procs"].as_i64())
    };
    let probe = || mapped(Bundle::probe(&words));
    let nobody = Some(65534);
    let expected = ([Some(0), Some(0), Some(0), Some(0), nobody], Some(0));
    assert_eq!(inside(with_writable_cgroups(probe())), expected);
    let user = with_writable_cgroups(probe()).set("/process/user", json!({"uid": 7, "gid": 8}));
    assert_eq!(inside(user).0, [Some(7), Some(7), Some(7), Some(7), nobody]);
    for bundle in [probe(), with_writable_cgroups(probe()).host_namespace("cgroup")] {
        let (owners, errno) = inside(bundle);
        assert!(owners.iter().all(|owner| *owner == nobody), "{owners:?}");
        assert_ne!(errno, Some(0));
    }
    runtime.assert_clean("delegation");
}

#[test]
fn bad_user_namespace_mappings_are_refused() {
    refused("userns-refused", REFUSED);
    if !skipped_on_runc("userns", "it lets the kernel refuse what it is given, or does without it, and names no field")
    {
        refused("userns-named", NAMED);
    }
}

/// Sets the maps of a new user namespace.
fn maps(bundle: Bundle, uids: Value, gids: Value) -> Bundle {
    mapped(bundle).set("/linux/uidMappings", uids).set("/linux/gidMappings", gids)
}

/// Maps id 5 of the container to two host ids.
fn overlapping(bundle: Bundle) -> Bundle {
    let two = json!([{"containerID": 0, "hostID": MAPPED, "size": 9}, {"containerID": 5, "hostID": 7, "size": 1}]);
    maps(bundle, two, map(0, MAPPED, 9))
}

fn lines(count: u32, host: u32) -> Value {
    (0..count).map(|n| json!({"containerID": n, "hostID": host + n, "size": 1})).collect()
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "no mappings",
        set: |b| mapped(b).unset("/linux/uidMappings").unset("/linux/gidMappings"),
        says: &["user namespaces enabled, but no"],
    },
    Refusal {
        name: "no gid mappings",
        set: |b| mapped(b).unset("/linux/gidMappings"),
        says: &["user namespaces enabled, but no gid mappings found"],
    },
    Refusal { name: "root is not mapped", set: |b| maps(b, map(1, MAPPED, 9), map(0, MAPPED, 9)), says: &[] },
    Refusal { name: "a length of zero", set: |b| maps(b, map(0, MAPPED, 0), map(0, MAPPED, 9)), says: &[] },
    Refusal { name: "ids inside that overlap", set: overlapping, says: &[] },
    Refusal { name: "341 lines", set: |b| maps(b, lines(341, MAPPED), map(0, MAPPED, 9)), says: &[] },
    Refusal { name: "a user that is not mapped", set: |b| mapped(b).set("/process/user/uid", json!(70000)), says: &[] },
];

const NAMED: &[Refusal] = &[
    Refusal {
        name: "mappings without a user namespace",
        set: |b| mapped(b).host_namespace("user"),
        says: &["user namespace mappings specified, but user namespace"],
    },
    Refusal {
        name: "a path, and mappings that are not the namespace's",
        set: |b| mapped(b).namespace("user", "/proc/self/ns/user"),
        says: &["both namespace path and non-matching mapping specified"],
    },
    Refusal {
        name: "root is not mapped",
        set: |b| maps(b, map(1, MAPPED, 9), map(0, MAPPED, 9)),
        says: &["linux.uidMappings", "root"],
    },
    Refusal {
        name: "a length of zero",
        set: |b| maps(b, map(0, MAPPED, 9), map(0, MAPPED, 0)),
        says: &["linux.gidMappings[0]: size"],
    },
    Refusal { name: "ids inside that overlap", set: overlapping, says: &["linux.uidMappings[1]: overlaps"] },
    Refusal {
        name: "ids of the host that overlap",
        set: |b| {
            let two = json!([{"containerID": 0, "hostID": MAPPED, "size": 9}, {"containerID": 9, "hostID": MAPPED, "size": 1}]);
            maps(b, map(0, MAPPED, 9), two)
        },
        says: &["linux.gidMappings[1]: overlaps"],
    },
    Refusal {
        name: "341 lines",
        set: |b| maps(b, lines(341, MAPPED), map(0, MAPPED, 9)),
        says: &["linux.uidMappings: more than 340"],
    },
    Refusal {
        name: "a hundred thousand lines",
        set: |b| maps(b, map(0, MAPPED, 9), lines(100_000, MAPPED)),
        says: &["linux.gidMappings: more than 340"],
    },
    Refusal {
        name: "more text than a page",
        set: |b| maps(b, lines(339, 4_000_000), map(0, MAPPED, 9)),
        says: &["linux.uidMappings", "bytes as a map"],
    },
    Refusal {
        name: "a range that overflows",
        set: |b| maps(b, map(0, u32::MAX, 2), map(0, MAPPED, 9)),
        says: &["linux.uidMappings[0]: range"],
    },
    Refusal {
        name: "a device that the host has not",
        set: |b| {
            let device = json!([{"path": "/srv/dev", "type": "c", "major": 1, "minor": 3}]);
            mapped(b.dir("srv", 0o755)).set("/linux/devices", device)
        },
        says: &["/srv/dev"],
    },
];
