//! Control groups: where a container is, and its limits as the kernel has them (v1 hierarchies; v2 has rows of its own).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, beyond_runc, refused},
    cgroup,
    runtime::Runtime,
};
use serde_json::{Value, json};

/// One limit: what linux.resources has, and what the file of the controller must then say.
struct Row {
    resources: &'static str,
    /// controller, file, content.
    files: &'static [(&'static str, &'static str, &'static str)],
}

const ROWS: &[Row] = &[
    Row { resources: r#"{"memory":{"limit":33554432}}"#, files: &[("memory", "memory.limit_in_bytes", "33554432")] },
    Row {
        resources: r#"{"memory":{"limit":33554432,"reservation":16777216}}"#,
        files: &[("memory", "memory.limit_in_bytes", "33554432"), ("memory", "memory.soft_limit_in_bytes", "16777216")],
    },
    Row {
        resources: r#"{"memory":{"limit":-1}}"#,
        files: &[("memory", "memory.limit_in_bytes", "9223372036854771712")],
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"disableOOMKiller":true}}"#,
        files: &[("memory", "memory.limit_in_bytes", "33554432")],
    },
    Row { resources: r#"{"cpu":{"shares":512}}"#, files: &[("cpu", "cpu.shares", "512")] },
    Row {
        resources: r#"{"cpu":{"quota":50000,"period":100000}}"#,
        files: &[("cpu", "cpu.cfs_quota_us", "50000"), ("cpu", "cpu.cfs_period_us", "100000")],
    },
    Row {
        resources: r#"{"cpu":{"period":50000}}"#,
        files: &[("cpu", "cpu.cfs_period_us", "50000"), ("cpu", "cpu.cfs_quota_us", "-1")],
    },
    Row { resources: r#"{"cpu":{"quota":-1}}"#, files: &[("cpu", "cpu.cfs_quota_us", "-1")] },
    Row {
        resources: r#"{"cpu":{"quota":50000,"period":100000,"burst":10000}}"#,
        files: &[("cpu", "cpu.cfs_burst_us", "10000"), ("cpu", "cpu.cfs_quota_us", "50000")],
    },
    Row { resources: r#"{"cpu":{"idle":1}}"#, files: &[("cpu", "cpu.idle", "1")] },
    Row {
        resources: r#"{"cpu":{"cpus":"0","mems":"0"}}"#,
        files: &[("cpuset", "cpuset.cpus", "0"), ("cpuset", "cpuset.mems", "0")],
    },
    Row { resources: r#"{"pids":{"limit":20}}"#, files: &[("pids", "pids.max", "20")] },
    Row { resources: r#"{"pids":{"limit":-1}}"#, files: &[("pids", "pids.max", "max")] },
    Row {
        resources: r#"{"blockIO":{"throttleReadBpsDevice":[{"major":7,"minor":0,"rate":1048576}]}}"#,
        files: &[("blkio", "blkio.throttle.read_bps_device", "7:0 1048576")],
    },
    Row {
        resources: r#"{"blockIO":{"throttleWriteIOPSDevice":[{"major":7,"minor":0,"rate":100}]}}"#,
        files: &[("blkio", "blkio.throttle.write_iops_device", "7:0 100")],
    },
];

fn with_resources(text: &str, words: &[&str]) -> Bundle {
    let resources: Value = serde_json::from_str(text).unwrap();
    Bundle::probe(words).edit(|c| {
        for (name, value) in resources.as_object().unwrap() {
            c["linux"]["resources"][name] = value.clone();
        }
    })
}

#[test]
fn limits_are_written() {
    let runtime = Runtime::new("limits");
    let mut failed = vec![];
    for row in ROWS.iter().filter(|row| row.files.iter().all(|(controller, file, _)| there(controller, file))) {
        let out = runtime.create("c1", &with_resources(row.resources, &["sleep", "100"]));
        if out.code != 0 {
            failed.push(format!("{}: {}", row.resources, out.stderr));
            continue;
        }
        for (controller, file, expected) in row.files {
            let content = runtime.cgroup_file("c1", controller, file);
            if content != *expected {
                failed.push(format!("{}: {file} is {content}, not {expected}", row.resources));
            }
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        failed.extend(runtime.residue().iter().map(|r| format!("{}: left behind {r}", row.resources)));
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), ROWS.len(), failed.join("\n"));
}

/// Whether the kernel has this controller on v1 and the file in it.
fn there(controller: &str, file: &str) -> bool {
    // The root of a hierarchy lacks some files; any child has them.
    let root = format!("/sys/fs/cgroup/{controller}");
    let child =
        std::fs::read_dir(&root).into_iter().flatten().flatten().find(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let dir = child.map_or_else(|| root.clone().into(), |e| e.path());
    dir.join(file).exists()
        || std::path::Path::new(&root).join(file).exists()
        || std::path::Path::new(&root).exists() && !dir.join("tasks").exists()
}

#[test]
fn every_process_is_in_the_configured_group() {
    let runtime = Runtime::new("membership");
    runtime.start("c1", &Bundle::probe(&["children", "2", "100", "+", "sleep", "100"]));
    runtime.cmd(&["exec", "--detach", "c1", "/probe", "sleep", "100"]).ok();
    let path = runtime.cgroup("c1");
    let pids: Vec<u32> = serde_json::from_str(&runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout).unwrap();
    assert_eq!(pids.len(), 4, "{pids:?}");
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, at) = (parts.next().unwrap(), parts.next().unwrap());
            let expected = if controllers.is_empty() { at.ends_with(&path) || at == "/" } else { at == path };
            assert!(expected, "{pid} is in {line}, not {path}");
        }
    }
    assert!(!cgroup::directories(&path).is_empty());
}

/// Without a cgroupsPath a container has one of its own all the same, named by its id.
#[test]
fn a_default_path() {
    let runtime = Runtime::new("default-cgroup");
    let id = format!("berth-test-default-{}", std::process::id());
    let bundle = Bundle::probe(&["report", "cgroup"]).set("/linux/cgroupsPath", json!(""));
    let report = runtime.run(&id, &bundle).ok().json();
    let lines = report["cgroup"].as_array().unwrap();
    let own = lines.iter().filter(|l| l.as_str().unwrap().ends_with(&format!("/{id}"))).count();
    assert!(own >= 8, "{report}");
    for hierarchy in cgroup::hierarchies() {
        assert!(!hierarchy.join(&id).exists(), "left behind: {}", hierarchy.join(&id).display());
    }
}

#[test]
fn the_memory_limit_holds() {
    let runtime = Runtime::new("oom");
    let bundle = with_resources(r#"{"memory":{"limit":33554432}}"#, &["eat", "100000000"]);
    let out = runtime.run("c1", &bundle);
    assert_eq!(out.code, 137, "{out:#?}");
}

#[test]
fn the_pids_limit_holds() {
    let runtime = Runtime::new("pids");
    let bundle = with_resources(
        r#"{"pids":{"limit":10}}"#,
        &["children", "30", "2", "+", "report", "read=/sys/fs/cgroup/pids/pids.current"],
    );
    let out = runtime.run("c1", &bundle).ok();
    let current: u32 = out.json()["read"]["/sys/fs/cgroup/pids/pids.current"].as_str().unwrap().parse().unwrap();
    assert!((2..=10).contains(&current), "{current}");
}

#[test]
fn bad_resources() {
    refused("cgroup-refused", REFUSED);
    if !beyond_runc("cgroup", "it takes .. in a cgroup path away, and stays below the root of the hierarchy") {
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
        says: &["cpu.cfs_quota_us"],
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
