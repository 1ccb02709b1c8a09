//! `linux.resources`, a row for each field: the value in config.json, and the file and value that the kernel then has,
//! on v1 and on v2. Rows whose file this kernel lacks are skipped by name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup, procs,
    runtime::{Runtime, is_runc, wait_until},
};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

/// One limit.
struct Row {
    /// `linux.resources` without the device rules.
    resources: &'static str,
    /// `controller/file` and one line of its content. It is empty if v1 has no such limit.
    v1: &'static [(&'static str, &'static str)],
    /// The file of v2 and one line of its content.
    v2: &'static [(&'static str, &'static str)],
    /// Whether `update` takes it as well.
    update: bool,
    /// The row applies only without this file: another I/O scheduler has another weight.
    without: Option<&'static str>,
}

const ROW: Row = Row { resources: "{}", v1: &[], v2: &[], update: true, without: None };

const ROWS: &[Row] = &[
    Row {
        resources: r#"{"memory":{"limit":33554432}}"#,
        v1: &[("memory/memory.limit_in_bytes", "33554432")],
        v2: &[("memory.max", "33554432"), ("memory.swap.max", "max")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"reservation":16777216}}"#,
        v1: &[("memory/memory.limit_in_bytes", "33554432"), ("memory/memory.soft_limit_in_bytes", "16777216")],
        v2: &[("memory.max", "33554432"), ("memory.low", "16777216")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"swap":50331648}}"#,
        v1: &[("memory/memory.memsw.limit_in_bytes", "50331648")],
        v2: &[("memory.max", "33554432"), ("memory.swap.max", "16777216")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"swap":33554432}}"#,
        v1: &[("memory/memory.memsw.limit_in_bytes", "33554432")],
        v2: &[("memory.max", "33554432"), ("memory.swap.max", "0")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"swap":-1}}"#,
        v1: &[("memory/memory.limit_in_bytes", "33554432")],
        v2: &[("memory.max", "33554432"), ("memory.swap.max", "max")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":-1}}"#,
        v1: &[("memory/memory.limit_in_bytes", "9223372036854771712")],
        v2: &[("memory.max", "max"), ("memory.swap.max", "max")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432,"disableOOMKiller":true}}"#,
        v1: &[("memory/memory.limit_in_bytes", "33554432"), ("memory/memory.oom_control", "oom_kill_disable 1")],
        v2: &[("memory.max", "33554432")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"swappiness":10}}"#,
        v1: &[("memory/memory.swappiness", "10")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"unified":{"memory.high":"50331648","memory.min":"4096","memory.low":"8192"}}"#,
        v2: &[("memory.high", "50331648"), ("memory.min", "4096"), ("memory.low", "8192")],
        ..ROW
    },
    Row {
        resources: r#"{"memory":{"limit":33554432},"unified":{"memory.max":"67108864","memory.oom.group":"1"}}"#,
        v2: &[("memory.max", "67108864"), ("memory.oom.group", "1")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"shares":512}}"#,
        v1: &[("cpu/cpu.shares", "512")],
        v2: &[("cpu.weight", "59")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"shares":1024}}"#,
        v1: &[("cpu/cpu.shares", "1024")],
        v2: &[("cpu.weight", "100")],
        ..ROW
    },
    Row { resources: r#"{"cpu":{"shares":2}}"#, v1: &[("cpu/cpu.shares", "2")], v2: &[("cpu.weight", "1")], ..ROW },
    Row {
        resources: r#"{"cpu":{"shares":262144}}"#,
        v1: &[("cpu/cpu.shares", "262144")],
        v2: &[("cpu.weight", "10000")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"quota":50000,"period":100000}}"#,
        v1: &[("cpu/cpu.cfs_quota_us", "50000"), ("cpu/cpu.cfs_period_us", "100000")],
        v2: &[("cpu.max", "50000 100000")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"period":50000}}"#,
        v1: &[("cpu/cpu.cfs_period_us", "50000"), ("cpu/cpu.cfs_quota_us", "-1")],
        v2: &[("cpu.max", "max 50000")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"quota":-1}}"#,
        v1: &[("cpu/cpu.cfs_quota_us", "-1")],
        v2: &[("cpu.max", "max 100000")],
        ..ROW
    },
    Row {
        resources: r#"{"cpu":{"quota":50000,"period":100000,"burst":10000}}"#,
        v1: &[("cpu/cpu.cfs_burst_us", "10000"), ("cpu/cpu.cfs_quota_us", "50000")],
        v2: &[("cpu.max.burst", "10000"), ("cpu.max", "50000 100000")],
        ..ROW
    },
    Row { resources: r#"{"cpu":{"idle":1}}"#, v1: &[("cpu/cpu.idle", "1")], v2: &[("cpu.idle", "1")], ..ROW },
    Row {
        resources: r#"{"cpu":{"cpus":"0","mems":"0"}}"#,
        v1: &[("cpuset/cpuset.cpus", "0"), ("cpuset/cpuset.mems", "0")],
        v2: &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
        ..ROW
    },
    Row {
        resources: r#"{"unified":{"cpu.weight":"77","cpu.max":"30000 60000","cpuset.cpus":"0"}}"#,
        v2: &[("cpu.weight", "77"), ("cpu.max", "30000 60000"), ("cpuset.cpus", "0")],
        ..ROW
    },
    Row { resources: r#"{"pids":{"limit":20}}"#, v1: &[("pids/pids.max", "20")], v2: &[("pids.max", "20")], ..ROW },
    Row { resources: r#"{"pids":{"limit":-1}}"#, v1: &[("pids/pids.max", "max")], v2: &[("pids.max", "max")], ..ROW },
    Row {
        resources: r#"{"blockIO":{"weight":500}}"#,
        v1: &[("blkio/blkio.bfq.weight", "500")],
        v2: &[("io.bfq.weight", "default 500")],
        ..ROW
    },
    Row {
        resources: r#"{"blockIO":{"weight":500}}"#,
        v2: &[("io.weight", "default 4950")],
        without: Some("io.bfq.weight"),
        ..ROW
    },
    Row {
        resources: r#"{"blockIO":{"throttleReadBpsDevice":[{"major":7,"minor":0,"rate":1048576}],
            "throttleWriteBpsDevice":[{"major":7,"minor":0,"rate":2097152}]}}"#,
        v1: &[
            ("blkio/blkio.throttle.read_bps_device", "7:0 1048576"),
            ("blkio/blkio.throttle.write_bps_device", "7:0 2097152"),
        ],
        v2: &[("io.max", "7:0 rbps=1048576 wbps=2097152 riops=max wiops=max")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"blockIO":{"throttleReadIOPSDevice":[{"major":7,"minor":0,"rate":200}],
            "throttleWriteIOPSDevice":[{"major":7,"minor":0,"rate":100}]}}"#,
        v1: &[
            ("blkio/blkio.throttle.read_iops_device", "7:0 200"),
            ("blkio/blkio.throttle.write_iops_device", "7:0 100"),
        ],
        v2: &[("io.max", "7:0 rbps=max wbps=max riops=200 wiops=100")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"unified":{"io.latency":"7:0 target=5000"}}"#,
        v2: &[("io.latency", "7:0 target=5000")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        v1: &[
            ("hugetlb/hugetlb.2MB.limit_in_bytes", "4194304"),
            ("hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
        ],
        v2: &[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"network":{"classID":1048577}}"#,
        v1: &[("net_cls/net_cls.classid", "1048577")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"network":{"priorities":[{"name":"lo","priority":5}]}}"#,
        v1: &[("net_prio/net_prio.ifpriomap", "lo 5")],
        update: false,
        ..ROW
    },
    Row {
        resources: r#"{"unified":{"cgroup.max.depth":"3","cgroup.max.descendants":"40","pids.max":"33"}}"#,
        v2: &[("cgroup.max.depth", "3"), ("cgroup.max.descendants", "40"), ("pids.max", "33")],
        update: false,
        ..ROW
    },
];

/// The kernel's files have other names than these fields.
#[test]
fn errors_of_limits_name_the_field_of_config_json() {
    if skipped_on_runc("errors_of_limits_name_the_field_of_config_json", "it names the file alone") {
        return;
    }
    let runtime = Runtime::new("resources-named");
    let mut rows = vec![(json!({"rdma": {"no-such-hca": {"hcaHandles": 1}}}), "linux.resources.rdma: ")];
    if !cgroup::is_v2() {
        let priorities = json!({"network": {"priorities": [{"name": "no-such-dev", "priority": 1}]}});
        rows.push((priorities, "linux.resources.network.priorities: "));
    }
    for (resources, says) in rows {
        runtime.run("c1", &sleeper().set("/linux/resources", resources)).fails(1, &[says]);
        runtime.assert_clean(says);
    }
}

impl Row {
    fn files(&self) -> &'static [(&'static str, &'static str)] {
        if cgroup::is_v2() { self.v2 } else { self.v1 }
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.resources).unwrap()
    }

    fn bundle(&self) -> Bundle {
        sleeper().edit(|c| {
            for (name, value) in self.json().as_object().unwrap() {
                c["linux"]["resources"][name] = value.clone();
            }
        })
    }

    /// Returns the differences of the container's files from the row.
    fn differences(&self, runtime: &Runtime) -> Vec<String> {
        let wrong = |(file, expected): &(&str, &str)| {
            let content = fs::read_to_string(path(runtime, file)).unwrap_or_else(|e| e.to_string());
            let content = content.trim_end();
            let fits = content == *expected || content.lines().any(|line| line.trim_end() == *expected);
            (!fits).then(|| format!("{}: {file} is {content:?}, not {expected:?}", self.resources))
        };
        self.files().iter().filter_map(wrong).collect()
    }
}

fn sleeper() -> Bundle {
    Bundle::probe(&["sleep", "100"])
}

/// Returns the path of a file in the container's cgroup.
fn path(runtime: &Runtime, file: &str) -> PathBuf {
    let own = runtime.cgroup("c1");
    match file.split_once('/') {
        Some((controller, file)) => format!("/sys/fs/cgroup/{controller}{own}/{file}").into(),
        None => format!("/sys/fs/cgroup{own}/{file}").into(),
    }
}

/// Returns the rows whose files exist for a container without limits, and prints the others.
fn rows(runtime: &Runtime) -> Vec<&'static Row> {
    runtime.create("c1", &sleeper()).ok();
    let there = |file: &str| path(runtime, file).exists();
    let block = fs::exists("/sys/dev/block/7:0").unwrap();
    let mut rows = vec![];
    for row in ROWS {
        let files = row.files();
        let all = files.iter().all(|(file, _)| there(file)) && (block || !row.resources.contains("\"major\":7"));
        if !files.is_empty() && all && !row.without.is_some_and(there) {
            rows.push(row);
        } else {
            eprintln!("left out here: {}", row.resources);
        }
    }
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(rows.len() > 12, "{} rows", rows.len());
    rows
}

#[test]
fn every_limit_is_written_at_create() {
    let runtime = Runtime::new("limits");
    let mut failed = vec![];
    for row in rows(&runtime) {
        let out = runtime.create("c1", &row.bundle());
        if out.code != 0 {
            failed.push(format!("{}: {}", row.resources, out.stderr));
            continue;
        }
        failed.extend(row.differences(&runtime));
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        failed.extend(runtime.residue().iter().map(|r| format!("{}: left behind {r}", row.resources)));
    }
    assert!(failed.is_empty(), "{} faults:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_limit_can_be_updated() {
    let runtime = Runtime::new("updates");
    let mut failed = vec![];
    for row in rows(&runtime).into_iter().filter(|row| row.update) {
        runtime.create("c1", &sleeper()).ok();
        let file = runtime.work().join("resources.json");
        fs::write(&file, row.resources).unwrap();
        let out = runtime.cmd(&["update", "--resources", &file.to_string_lossy(), "c1"]);
        if out.code == 0 {
            failed.extend(row.differences(&runtime));
        } else {
            failed.push(format!("{}: {}", row.resources, out.stderr));
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    assert!(failed.is_empty(), "{} faults:\n{}", failed.len(), failed.join("\n"));
}

/// `checkBeforeUpdate`: a limit below the usage is refused. Without it v2's kernel takes the limit and kills.
#[test]
fn check_before_update_refuses_a_limit_below_usage() {
    let runtime = Runtime::new("below");
    let limit = r#"{"memory":{"limit":4096,"swap":4096,"checkBeforeUpdate":true}}"#;
    runtime.start("c1", &sleeper());
    let file = runtime.work().join("resources.json");
    fs::write(&file, limit).unwrap();
    let usage = if cgroup::is_v2() { "memory.current" } else { "memory/memory.usage_in_bytes" };
    wait_until(
        || fs::read_to_string(path(&runtime, usage)).unwrap().trim().parse::<u64>().unwrap() > 4096,
        || "it uses no memory".into(),
    );
    let out = runtime.cmd(&["update", "--resources", &file.to_string_lossy(), "c1"]);
    out.fails(1, &["limit"]);
    assert_eq!(runtime.state("c1")["status"], "running");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}

/// Returns whether the machine has v2 alone, and prints that `test` is skipped if not.
fn on_v2(test: &str) -> bool {
    if !cgroup::is_v2() {
        eprintln!("{test}: skipped, this host has cgroup v1");
    }
    cgroup::is_v2()
}

/// A container that manages cgroups moves its init below its own cgroup, which then takes no more processes.
#[test]
fn exec_joins_the_sub_cgroup_that_init_moved_to() {
    if !on_v2("exec_joins_the_sub_cgroup_that_init_moved_to") {
        return;
    }
    let script = "cd /sys/fs/cgroup && mkdir init && echo 0 > init/cgroup.procs && echo +pids > cgroup.subtree_control \
                  && exec sleep 1000";
    let bundle = Bundle::busybox(&["/bin/sh", "-c", script], &["sh", "sleep", "mkdir"])
        .unmount("/sys/fs/cgroup")
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rw"]);
    let runtime = Runtime::new("below-init");
    runtime.start("c1", &bundle);
    let on = path(&runtime, "cgroup.subtree_control");
    wait_until(|| fs::read_to_string(&on).unwrap().contains("pids"), || runtime.all_stdout());
    let out = runtime.exec("c1", &["/bin/sh", "-c", "while read line; do echo $line; done < /proc/self/cgroup"]).ok();
    assert_eq!(out.stdout.trim(), "0::/init");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}

/// Makes a cgroup, and removes it on drop.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(format!("/sys/fs/cgroup/berth-test-{}-{name}", procs::name()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    /// Returns the path of a cgroup below it, for config.json.
    fn below(&self, name: &str) -> Value {
        json!(format!("{}/{name}", self.0.strip_prefix("/sys/fs/cgroup").map(|p| format!("/{}", p.display())).unwrap()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

fn limited_in(path: Value) -> Bundle {
    let limited = Row { resources: r#"{"memory":{"limit":33554432}}"#, ..ROW };
    limited.bundle().set("/linux/cgroupsPath", path)
}

fn refused(name: &str, path: Value, says: &[&str]) {
    let runtime = Runtime::new(name);
    runtime.create("c1", &limited_in(path)).fails(1, if is_runc() { &[] } else { says });
    runtime.assert_clean(name);
}

#[test]
fn parent_cgroup_with_processes_is_refused() {
    let name = "parent_cgroup_with_processes_is_refused";
    if !on_v2(name) || skipped_on_runc(name, "it says that a file is not there") {
        return;
    }
    let runtime = Runtime::new("busy");
    runtime.create("c0", &sleeper()).ok();
    let below = json!(format!("{}/c1", runtime.cgroup("c0")));
    runtime.create("c1", &limited_in(below)).fails(1, &["cannot enter cgroupv2", "holds processes itself"]);
    assert_eq!(runtime.ids(), ["c0"]);
    runtime.cmd(&["delete", "--force", "c0"]).ok();
    runtime.assert_clean(name);
}

#[test]
fn threaded_parent_cgroup_is_refused() {
    let name = "threaded_parent_cgroup_is_refused";
    if !on_v2(name) {
        return;
    }
    let top = Group::new("threads");
    let parent = Group(top.0.join("parent"));
    fs::create_dir(&parent.0).unwrap();
    fs::write(parent.0.join("cgroup.type"), "threaded").unwrap();
    refused(name, parent.below("c1"), &["cannot enter cgroupv2", "thread"]);
    drop(parent);
}

#[test]
fn create_in_a_frozen_cgroup_is_refused() {
    let name = "create_in_a_frozen_cgroup_is_refused";
    if !on_v2(name) {
        return;
    }
    let own = Group::new("frozen");
    fs::write(own.0.join("cgroup.freeze"), "1").unwrap();
    let path = json!(format!("/{}", own.0.file_name().unwrap().to_string_lossy()));
    refused(name, path, &["unexpectedly frozen"]);
    fs::write(own.0.join("cgroup.freeze"), "0").unwrap();
}
