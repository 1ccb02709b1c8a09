//! Control groups: the cgroup of a container, limits that take effect, and refusals. `runtime_resources` has a row for
//! each limit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::held_by,
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    cgroup, procs,
    runtime::Runtime,
    wait::{LONG, until},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt};

fn with_resources(text: &str, words: &[&str]) -> Bundle {
    let resources: Value = serde_json::from_str(text).unwrap();
    Bundle::probe(words).edit(|c| {
        for (name, value) in resources.as_object().unwrap() {
            c["linux"]["resources"][name] = value.clone();
        }
    })
}

#[test]
fn every_process_is_in_the_configured_cgroup() {
    let runtime = Runtime::new("membership");
    runtime.start("c1", &Bundle::probe(&["children", "2", "100", "+", "sleep", "100"]));
    runtime.cmd(&["exec", "--detach", "c1", "/probe", "sleep", "100"]).ok();
    let path = runtime.cgroup("c1");
    // The children start after the start call.
    let pids = until("init, two children and an exec", LONG, || {
        let out = runtime.cmd(&["ps", "--format", "json", "c1"]).ok();
        let pids: Vec<u32> = serde_json::from_str(&out.stdout).unwrap();
        assert!(pids.len() <= 4, "{pids:?}");
        (pids.len() == 4).then_some(pids)
    });
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, at) = (parts.next().unwrap(), parts.next().unwrap());
            let expected = if controllers.is_empty() { at.ends_with(&path) || at == "/" } else { at == path };
            assert!(expected, "{pid} is in {line}, not {path}");
        }
    }
    assert!(!cgroup::directories(&path).is_empty());
}

/// GHSA-5g49-rx9x-qfc6.
#[test]
fn unified_key_reaches_no_other_cgroup() {
    if !cgroup::is_v2() {
        eprintln!("unified: skipped: this machine has v1 hierarchies, which have no such keys");
        return;
    }
    held_by("unified-key", &[Defence::UnifiedNames], |runtime| {
        runtime.start("other", &Bundle::probe(&["sleep", "100"]));
        let limit = || cgroup::value(&runtime.cgroup("other"), "pids/pids.max", "pids.max");
        let before = limit();
        let resources = r#"{"unified": {"../other/pids.max": "7777"}}"#;
        let out = runtime.run("c1", &with_resources(resources, &["exit", "0"]));
        (limit() != before)
            .then(|| format!("pids.max of the other cgroup is {}: {out:?}", limit()))
            .into_iter()
            .collect()
    });
}

/// The flag is crun's; podman passes it on for `--cgroups=disabled`.
#[test]
fn disabled_cgroup_manager_leaves_container_in_the_callers_cgroup() {
    if skipped_on_runc("disabled_cgroup_manager_leaves_container_in_the_callers_cgroup", "the flag is crun's") {
        return;
    }
    let runtime = Runtime::new("no-cgroup");
    let manager = |by: &'static str| ["--cgroup-manager", by];
    let create = |id: &str, bundle: &Bundle, globals: &[&str]| runtime.on("create", id, bundle).global(globals).wait();
    create("c1", &Bundle::probe(&["signal"]), &manager("disabled")).ok();
    runtime.cmd(&["start", "c1"]).ok();
    let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(of(&runtime.pid("c1").to_string()), of("self"), "it stays where its maker is");
    let exec = runtime.exec("c1", &["/probe", "report", "namespaces"]).ok().json();
    assert!(exec["namespaces"].is_object());
    runtime.cmd(&["pause", "c1"]).fails(1, &["cgroups not configured for container"]);
    runtime.cmd(&["update", "--pids-limit", "5", "c1"]).fails(1, &[]);
    assert_eq!(runtime.state("c1")["status"], "running");
    runtime.cmd(&["delete", "--force", "c1"]).ok();

    let limited = Bundle::probe(&["exit", "0"]).set("/linux/resources", json!({"pids": {"limit": 20}}));
    create("c2", &limited, &manager("disabled")).fails(1, &["limit: container could not join or create cgroup"]);
    let plain = Bundle::probe(&["exit", "0"]);
    create("c2", &plain, &manager("cgroupfs")).ok();
    assert_ne!(of(&runtime.pid("c2").to_string()), of("self"));
    runtime.cmd(&["delete", "--force", "c2"]).ok();
    create("c3", &plain, &manager("nobody")).fails(1, &["--cgroup-manager", "nobody"]);
    let both = [&manager("disabled")[..], &["--systemd-cgroup"]].concat();
    create("c3", &plain, &both).fails(1, &["--cgroup-manager disabled", "--systemd-cgroup"]);
    assert!(runtime.ids().is_empty());
    runtime.assert_clean("a container without a cgroup");
}

/// A container without cgroupsPath has its own cgroup, named by its id.
#[test]
fn default_cgroup_is_named_by_the_container_id() {
    let runtime = Runtime::new("default-cgroup");
    let id = format!("berth-test-default-{}", procs::name());
    // In its own cgroup namespace the container would see its cgroup as the root.
    let bundle = Bundle::probe(&["report", "cgroup"]).host_namespace("cgroup").set("/linux/cgroupsPath", json!(""));
    let report = runtime.run(&id, &bundle).ok().json();
    let lines = report["cgroup"].as_array().unwrap();
    let own = lines.iter().filter(|l| l.as_str().unwrap().ends_with(&format!("/{id}"))).count();
    assert!(own >= if cgroup::is_v2() { 1 } else { 8 }, "{report}");
    for line in lines {
        let path = line.as_str().unwrap().splitn(3, ':').nth(2).unwrap();
        let left: Vec<_> = if path.ends_with(&id) { cgroup::directories(path) } else { vec![] };
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

#[test]
fn memory_limit_kills_a_process_that_exceeds_it() {
    let runtime = Runtime::new("oom");
    let bundle = with_resources(r#"{"memory":{"limit":33554432}}"#, &["eat", "100000000"]);
    let out = runtime.run("c1", &bundle);
    assert_eq!(out.code, 137, "{out:#?}");
}

#[test]
fn pids_limit_bounds_the_number_of_processes() {
    let runtime = Runtime::new("pids");
    let file = if cgroup::is_v2() { "/sys/fs/cgroup/pids.current" } else { "/sys/fs/cgroup/pids/pids.current" };
    let words = ["children", "30", "1000", "+", "report", &format!("read={file}")];
    let out = runtime.run("c1", &with_resources(r#"{"pids":{"limit":10}}"#, &words)).ok();
    let current: u32 = out.json()["read"][file].as_str().unwrap().parse().unwrap();
    assert!((2..=10).contains(&current), "{current}");
}

/// The annotation is crun's: it makes a cgroup for the container's own use below the one with the limits.
#[test]
fn delegate_annotation_makes_a_cgroup_below_the_limited_one() {
    if skipped_on_runc("delegate_annotation_makes_a_cgroup_below_the_limited_one", "it is crun's") {
        return;
    }
    let runtime = Runtime::new("delegated");
    let annotated = |name: &str| {
        let bundle = with_resources(r#"{"pids":{"limit":20}}"#, &["signal"]).namespace("cgroup", "");
        bundle.set("/annotations", json!({"run.oci.delegate-cgroup": name}))
    };
    if !cgroup::is_v2() {
        runtime.run("c1", &annotated("app")).fails(1, &["run.oci.delegate-cgroup", "cgroup v1"]);
        runtime.assert_clean("nothing to delegate");
        return;
    }
    for name in ["../app", "/app", "a/../../b"] {
        runtime.run("c1", &annotated(name)).fails(1, &["run.oci.delegate-cgroup", name]);
    }
    // The cgroup is delegated even if the container could write to its own cgroup without the annotation.
    let writable = annotated("app").mapped().mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    for bundle in [annotated("app"), writable] {
        runtime.start("c1", &bundle);
        let at = fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid("c1"))).unwrap();
        let path = runtime.cgroup("c1");
        assert_eq!(at.trim(), format!("0::{path}/app"));
        let own = &cgroup::directories(&path)[0];
        let owner = |dir: &std::path::Path| fs::metadata(dir.join("cgroup.procs")).unwrap().uid();
        let root = fs::metadata(format!("/proc/{}", runtime.pid("c1"))).unwrap().uid();
        assert_eq!((owner(own), owner(&own.join("app"))), (0, root));
        assert_eq!(cgroup::value(&path, "", "pids.max"), "20");
        let exec = runtime.exec("c1", &["/probe", "report", "cgroup"]).ok().json();
        assert_eq!(exec["cgroup"], json!(["0::/app"]), "{exec}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        runtime.assert_clean("a delegated cgroup");
    }
}

#[test]
fn bad_limits_and_cgroup_paths_are_refused() {
    refused("cgroup-refused", REFUSED);
    if !skipped_on_runc("cgroup", "it takes .. in a cgroup path away, and stays below the root of the hierarchy") {
        refused("cgroup-path", PATHS);
    }
}

fn resources(bundle: Bundle, pointer: &str, value: Value) -> Bundle {
    bundle.set(&format!("/linux/resources/{pointer}"), value)
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "a limit the kernel refuses",
        set: |b| resources(b, "cpu", json!({"shares": 1024, "cpus": "0-4096"})),
        says: &["cpuset.cpus"],
    },
    Refusal {
        name: "a quota beyond bounds",
        set: |b| resources(b, "cpu", json!({"quota": 1, "period": 100000})),
        says: &["cpu."],
    },
    Refusal {
        name: "a limit that is no number",
        set: |b| resources(b, "memory", json!({"limit": "1m"})),
        says: &["linux.resources.memory.limit"],
    },
    Refusal {
        name: "too small a memory limit to start in",
        set: |b| resources(b, "memory", json!({"limit": 4096})),
        says: &["memory"],
    },
    Refusal {
        name: "a device rule of an unknown type",
        set: |b| resources(b, "devices", json!([{"allow": true, "type": "x", "access": "rwm"}])),
        says: &["device"],
    },
    Refusal {
        name: "a huge page size that does not exist",
        set: |b| resources(b, "hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}])),
        says: &["huge"],
    },
];

const PATHS: &[Refusal] = &[
    Refusal {
        name: "a cgroup path with ..",
        set: |b| b.set("/linux/cgroupsPath", json!("/berth-test/../../x")),
        says: &["cgroupsPath", ".."],
    },
    Refusal {
        name: "a relative one with ..",
        set: |b| b.set("/linux/cgroupsPath", json!("../x")),
        says: &["cgroupsPath", ".."],
    },
    Refusal {
        name: "the systemd form without a name",
        set: |b| b.set("/linux/cgroupsPath", json!("user.slice:berth:")),
        says: &["cgroupsPath", "names no unit"],
    },
];
