//! Updates of a running container's limits: unnamed limits stay, and a refused update changes nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    runtime::{Output, Runtime},
    shim::Shim,
};
use serde_json::{Value, json};
use std::fs;

/// The files with the limits in force, as v1 and v2 have them.
const FILES: [(&str, &str); 8] = [
    ("cpu/cpu.shares", "cpu.weight"),
    ("cpu/cpu.cfs_quota_us", "cpu.max"),
    ("cpu/cpu.cfs_period_us", "cpu.max"),
    ("cpuset/cpuset.cpus", "cpuset.cpus"),
    ("memory/memory.limit_in_bytes", "memory.max"),
    ("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
    ("memory/memory.soft_limit_in_bytes", "memory.low"),
    ("pids/pids.max", "pids.max"),
];

fn in_force(cgroup: &str) -> Vec<String> {
    FILES.iter().map(|(v1, v2)| format!("{v2}: {}", cgroup::value(cgroup, v1, v2))).collect()
}

/// Returns the limits of a container, and those of an update.
fn limits() -> [Value; 2] {
    [
        json!({"cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0"},
            "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432}, "pids": {"limit": 50}}),
        json!({"cpu": {"shares": 2048, "quota": 20000, "period": 50000, "cpus": "0"},
            "memory": {"limit": 268_435_456, "swap": 536_870_912, "reservation": 16_777_216}, "pids": {"limit": 77}}),
    ]
}

/// Adds a limit that is written last and that no kernel has.
fn refused(limits: &Value) -> Value {
    let mut limits = limits.clone();
    limits["hugepageLimits"] = json!([{"pageSize": "3MB", "limit": 0}]);
    limits
}

fn update(runtime: &Runtime, id: &str, limits: &Value) -> Output {
    let file = runtime.work().join("limits.json");
    fs::write(&file, limits.to_string()).unwrap();
    runtime.cmd(&["update", "--resources", file.to_str().unwrap(), id])
}

fn limited(limits: &Value) -> Bundle {
    limits.as_object().unwrap().iter().fold(Bundle::probe(&["sleep", "100"]), |bundle, (name, value)| {
        bundle.set(&format!("/linux/resources/{name}"), value.clone())
    })
}

#[test]
fn refused_update_changes_no_limit() {
    if skipped_on_runc("half of an update", "it stays in force (runc#2426)") {
        return;
    }
    let runtime = Runtime::new("half-update");
    let [before, after] = limits();
    for (id, first, second) in [("c1", &before, &after), ("c2", &after, &before), ("c3", &json!({}), &after)] {
        runtime.start(id, &limited(first));
        let path = runtime.cgroup(id);
        let was = in_force(&path);
        update(&runtime, id, &refused(second)).fails(1, &["hugetlb"]);
        assert_eq!(in_force(&path), was, "{id}: after one that was refused");
        // The control: without the last limit the update is taken, and every value changes.
        update(&runtime, id, second).ok();
        let is = in_force(&path);
        assert!(is.iter().zip(&was).filter(|(is, was)| is != was).count() >= 5, "{is:?} {was:?}");
        update(&runtime, id, &refused(&json!({"cpu": {"idle": 1}, "memory": {"limit": -1, "swap": -1}}))).fails(1, &[]);
        assert_eq!(in_force(&path), is, "{id}: after one that would have lifted limits");
    }
}

/// kubernetes#129152: the new CPU limit stayed although the memory limit was refused.
#[test]
fn refused_memory_limit_changes_no_other_limit() {
    let shim = Shim::start("half-update");
    let [before, _] = limits();
    let bundle = limited(&before);
    shim.run("c1", &bundle);
    let path = shim.cgroup("c1");
    let was = in_force(&path);
    let limits = json!({"cpu": {"shares": 256, "quota": 10000, "period": 20000}, "pids": {"limit": 9},
        "memory": {"limit": 4096, "checkBeforeUpdate": true}, "hugepageLimits": [{"pageSize": "3MB", "limit": 0}]});
    assert!(shim.update("c1", &limits.to_string()).is_err());
    assert_eq!(in_force(&path), was);
    shim.update("c1", &json!({"pids": {}}).to_string()).unwrap();
    assert_eq!(in_force(&path), was, "no limit of processes is named");
    shim.end("c1");
}

/// `pids.limit` may be absent since version 1.3 of the specification.
#[test]
fn absent_pids_limit_means_no_limit() {
    let runtime = Runtime::new("no-pids-limit");
    let pids = |id: &str| cgroup::value(&runtime.cgroup(id), "pids/pids.max", "pids.max");
    for (n, (limits, made)) in
        [(json!({}), "max"), (json!({"limit": null}), "max"), (json!({"limit": 7}), "7"), (json!({"limit": -1}), "max")]
            .into_iter()
            .enumerate()
    {
        let id = format!("c{n}");
        runtime.start(&id, &limited(&json!({"pids": limits})));
        assert_eq!(pids(&id), made, "create with {limits}");
        update(&runtime, &id, &json!({"pids": {"limit": 33}})).ok();
        for none in [json!({}), json!({"limit": null})] {
            update(&runtime, &id, &json!({"pids": none})).ok();
            assert_eq!(pids(&id), "33", "update with {none}");
        }
    }
    // A limit of 0 is a limit.
    update(&runtime, "c0", &json!({"pids": {"limit": 0}})).ok();
    assert_eq!(pids("c0"), "1");
}
