//! Namespaces: new ones, the host's, and joined ones. The containers of a pod share the sandbox's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    mounts::MountHolder,
    runtime::Runtime,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::{fs::File, os::fd::AsRawFd};

const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("user", "user"),
];

fn own(link: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{link}")).unwrap().to_str().unwrap().to_owned()
}

fn of(pid: u32, link: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap().to_str().unwrap().to_owned()
}

/// Returns a bundle without the settings that need a new namespace.
fn bare(words: &[&str]) -> Bundle {
    Bundle::probe(words)
        .unset("/hostname")
        .unmount("/sys")
        .unmount("/sys/fs/cgroup")
        .unmount("/dev/mqueue")
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
}

#[test]
fn namespaces_are_new_or_those_of_the_host() {
    let runtime = Runtime::new("namespaces");
    for (kind, link) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "mount" | "user")) {
        let with = runtime.run("c1", &bare(&["report", "namespaces"]).namespace(kind, "")).ok().json();
        assert_ne!(with["namespaces"][link], own(link), "{kind}: new");
        let without = runtime.run("c1", &bare(&["report", "namespaces"]).host_namespace(kind)).ok().json();
        assert_eq!(without["namespaces"][link], own(link), "{kind}: the host's");
        runtime.assert_clean(kind);
    }
}

/// A shell runs the test in a mount namespace of its own, so that all mounts go with it.
#[test]
fn failed_container_in_the_hosts_mount_namespace_leaves_no_mount() {
    let runtime = Runtime::new("host-mounts");
    let bundle = bare(&["report", "namespaces", "+", "open", "rw", "/dev/null"]).host_namespace("mount");
    let script = r#"readlink /proc/self/ns/mnt; "$@" 2>&1; grep -c " $ROOTFS[ /]" /proc/self/mountinfo"#;
    let run = |bundle: &Bundle| {
        let call = runtime.on("run", "c1", bundle).through(&["unshare", "--mount", "sh", "-c", script, "sh"]);
        let out = call.env("ROOTFS", bundle.rootfs().to_str().unwrap()).wait();
        runtime.cmd(&["delete", "--force", "c1"]);
        runtime.assert_clean("the host's mounts");
        out.stdout
    };
    let said = run(&bundle);
    let [namespace, report, opened, left] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    let [report, opened]: [Value; 2] = [report, opened].map(|line| serde_json::from_str(line).expect(line));
    assert_eq!((report["namespaces"]["mnt"].as_str(), &opened["open"]["/dev/null"]), (Some(namespace), &json!(0)));
    assert!(left.parse::<usize>().unwrap() > 1, "what is mounted for it is the host's: {said}");
    if !skipped_on_runc("the host's mounts", "what it mounted before it failed stays") {
        for bundle in
            [bundle.args(&["/no/such/program"]), bare(&[]).host_namespace("mount").mount("/proc", "moon", "", &[])]
        {
            let said = run(&bundle);
            assert_eq!(said.lines().last(), Some("0"), "{said}");
        }
    }
}

#[test]
fn failed_container_in_a_joined_mount_namespace_leaves_no_mount() {
    let runtime = Runtime::new("joined-mounts");
    let holder = MountHolder::unshare();
    let path = holder.namespace();
    let theirs = std::fs::read_link(&path).unwrap();
    assert_ne!(theirs.to_str().unwrap(), own("mnt"));
    let table = || holder.table();
    let bundle = |words: &[&str]| {
        let masked = Bundle::probe(words).file("secret", "x", 0o644).set("/linux/maskedPaths", json!(["/secret"]));
        masked.namespace("mount", &path)
    };
    let good = bundle(&["report", "namespaces", "read=/secret", "+", "open", "rw", "/dev/null"]);
    let out = runtime.run("c1", &good).ok();
    let lines: Vec<Value> = out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["namespaces"]["mnt"].as_str(), theirs.to_str());
    assert_eq!((&lines[0]["read"]["/secret"], &lines[1]["open"]["/dev/null"]), (&json!(""), &json!(0)));
    assert!(table().contains(good.rootfs().to_str().unwrap()), "what is mounted for it is theirs");
    if !skipped_on_runc("joined mounts", "what it mounted before it failed stays") {
        for bad in [bundle(&[]).args(&["/no/such/program"]), bundle(&[]).mount("/proc", "moon", "", &[])] {
            runtime.run("c1", &bad).fails(1, &[]);
            assert!(!table().contains(bad.rootfs().to_str().unwrap()), "{}", table());
        }
    }
    drop(holder);
    runtime.assert_clean("joined mounts");
}

#[test]
fn time_and_user_namespaces_are_the_hosts_by_default() {
    let runtime = Runtime::new("time");
    let report = runtime.run("c1", &Bundle::probe(&["report", "namespaces"])).ok().json();
    assert_eq!(report["namespaces"]["time"], own("time"));
    assert_eq!(report["namespaces"]["user"], own("user"));
    assert_eq!(report["namespaces"]["pid"], report["namespaces"]["pid_for_children"]);
}

/// The CRI plugin writes this for the second container of a pod.
#[test]
fn namespaces_of_a_pod_are_joined_by_path() {
    let runtime = Runtime::new("pod");
    runtime.start("sandbox", &Bundle::probe(&["sleep", "100"]).set("/hostname", json!("pod")));
    let sandbox = runtime.pid("sandbox");
    let join = |b: Bundle, kind: &str, link: &str| b.namespace(kind, &format!("/proc/{sandbox}/ns/{link}"));
    let shared = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let bundle =
        shared.iter().fold(Bundle::probe(&["report", "namespaces", "uts"]).unset("/hostname"), |b, (kind, link)| {
            join(b, kind, link)
        });
    let report = runtime.run("c1", &bundle).ok().json();
    for (_, link) in shared {
        assert_eq!(report["namespaces"][link], of(sandbox, link), "{link}");
    }
    for link in ["pid", "mnt"] {
        assert_ne!(report["namespaces"][link], of(sandbox, link), "{link}");
        assert_ne!(report["namespaces"][link], own(link), "{link}");
    }
    assert_eq!(report["uts"]["hostname"], "pod");
    // The container also joins the pid namespace: its process is not the init there, and its exit does not end the
    // sandbox.
    let bundle = join(bundle, "pid", "pid").args(&["/probe", "report", "namespaces", "process", "list=/proc"]);
    let report = runtime.run("c2", &bundle).ok().json();
    assert_eq!(report["namespaces"]["pid"], of(sandbox, "pid"));
    assert_eq!(report["namespaces"]["pid_for_children"], of(sandbox, "pid"));
    assert!(report["process"]["pid"].as_i64().unwrap() > 1, "{report}");
    assert!(report["list"]["/proc"].as_array().unwrap().contains(&json!("1")), "{report}");
    assert_eq!(runtime.state("sandbox")["status"], "running");
}

/// The processes of a container without its own pid namespace end with its init.
#[test]
fn container_in_a_shared_pid_namespace_leaves_no_process() {
    let runtime = Runtime::new("shared-pid");
    runtime.start("sandbox", &Bundle::probe(&["sleep", "100"]));
    let pid = runtime.pid("sandbox");
    let bundle =
        Bundle::probe(&["orphans", "3", "100", "+", "sleep", "100"]).namespace("pid", &format!("/proc/{pid}/ns/pid"));
    runtime.start("c1", &bundle);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert_eq!(runtime.state("sandbox")["status"], "running");
    runtime.cmd(&["delete", "--force", "sandbox"]).ok();
    runtime.assert_clean("both");
}

/// CNI bind-mounts a network namespace to a file.
#[test]
fn network_namespace_is_joined_by_a_bound_file() {
    let runtime = Runtime::new("netns");
    runtime.start("holder", &Bundle::probe(&["sleep", "100"]));
    let file = runtime.work().join("netns");
    std::fs::write(&file, "").unwrap();
    let source = format!("/proc/{}/ns/net", runtime.pid("holder"));
    rustix::mount::mount_bind(&source, &file).unwrap();
    let expected = of(runtime.pid("holder"), "net");
    runtime.cmd(&["delete", "--force", "holder"]).ok();
    let out = runtime.run("c1", &Bundle::probe(&["report", "namespaces"]).namespace("network", file.to_str().unwrap()));
    rustix::mount::unmount(&file, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(out.ok().json()["namespaces"]["net"], expected);
}

/// A new cgroup namespace has the container's own cgroup as its root.
#[test]
fn cgroup_namespace_begins_at_the_containers_cgroup() {
    let runtime = Runtime::new("cgroupns");
    let report = runtime.run("c1", &Bundle::probe(&["report", "cgroup"]).namespace("cgroup", "")).ok().json();
    for line in report["cgroup"].as_array().unwrap() {
        let path = line.as_str().unwrap().splitn(3, ':').nth(2).unwrap();
        assert_eq!(path, "/", "{report}");
    }
}

fn mapped(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    let rootfs = bundle.rootfs();
    for path in [rootfs.clone(), rootfs.join("probe")] {
        std::os::unix::fs::chown(path, Some(100000), Some(100000)).unwrap();
    }
    bundle.namespace("user", "").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
}

#[test]
fn new_user_namespace_has_its_maps_and_capabilities() {
    let runtime = Runtime::new("userns");
    let bundle = mapped(Bundle::probe(&[
        "report",
        "ids",
        "namespaces",
        "caps",
        "read=/proc/self/uid_map",
        "read=/proc/self/gid_map",
        "read=/proc/self/setgroups",
        "dev",
        "+",
        "open",
        "rw",
        "/dev/null",
    ]));
    let bundle = bundle.set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [5]}));
    let out = runtime.run("c1", &bundle).ok();
    let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let report = &lines[0];
    let words =
        |path: &str| report["read"][path].as_str().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words("/proc/self/uid_map"), ["0", "100000", "65536"]);
    assert_eq!(words("/proc/self/gid_map"), ["0", "100000", "65536"]);
    assert_eq!(report["ids"], json!({"uid": [0, 0, 0], "gid": [0, 0, 0], "groups": [5], "fsuid": 0, "fsgid": 0}));
    assert_ne!(report["namespaces"]["user"], own("user"));
    assert_eq!(report["caps"]["effective"], 536871968);
    assert_eq!(report["dev"]["/dev/null"]["rdev"], json!([1, 3]));
    assert_eq!(lines[1]["open"]["/dev/null"], 0);
    runtime.assert_clean("a user namespace");
}

/// The runtime sets the loopback device up in a new network namespace, and leaves it alone in a joined one.
#[test]
fn loopback_is_up_in_a_new_network_namespace_only() {
    const FLAGS: &str = "/sys/class/net/lo/flags";
    let runtime = Runtime::new("loopback");
    let bundle = || Bundle::probe(&["report", &format!("read={FLAGS}")]);
    let flags = |bundle: &Bundle| runtime.run("c1", bundle).ok().json()["read"][FLAGS].clone();
    assert_eq!(flags(&bundle()), "0x9", "IFF_UP and IFF_LOOPBACK");
    assert_eq!(flags(&mapped(bundle())), "0x9", "in a user namespace");

    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    let other = std::thread::spawn(alone).join().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_raw_fd());
    assert_eq!(flags(&bundle().namespace("network", &path)), "0x8");
    runtime.assert_clean("networks");
}

#[test]
fn bad_namespaces_are_refused() {
    refused("namespaces-refused", REFUSED);
    if !skipped_on_runc("namespaces", "it says neither the type nor the path of what it cannot join") {
        refused("namespaces-named", NAMED);
    }
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "an unknown type",
        set: |b| b.set("/linux/namespaces/-", json!({"type": "moon"})),
        says: &["moon"],
    },
    Refusal {
        name: "a type twice",
        set: |b| b.set("/linux/namespaces/-", json!({"type": "pid"})),
        says: &["pid", "duplicate"],
    },
    Refusal { name: "a path that is missing", set: |b| b.namespace("network", "/no/such/ns"), says: &["/no/such/ns"] },
    Refusal {
        name: "hidden paths without a mount namespace",
        set: |b| b.host_namespace("mount"),
        says: &["unable to restrict sys entries without a private MNT namespace"],
    },
    Refusal { name: "a host name without a uts namespace", set: |b| b.host_namespace("uts"), says: &["uts"] },
];

const NAMED: &[Refusal] = &[
    Refusal {
        name: "a path that is no namespace",
        set: |b| b.namespace("network", "/etc/hostname"),
        says: &["/etc/hostname"],
    },
    Refusal {
        name: "a path of another type",
        set: |b| b.namespace("network", "/proc/self/ns/ipc"),
        says: &["/proc/self/ns/ipc"],
    },
];
