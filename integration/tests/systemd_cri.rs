//! Pods whose cgroups systemd manages (`SystemdCgroup`), on a host that systemd runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Form, Runtime, Version},
    pod::{Container, Pod, container_config, parse, pod_config},
    procs,
    systemd::{self, Slice, show},
    wait::{LONG, until, until_true},
};
use rustix::process::Signal;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Runs `test` with a containerd whose handlers have `SystemdCgroup`, and a slice for its pods.
fn under(version: Version, form: Form, name: &str, test: fn(&Node)) {
    if !systemd::here(name) || form == Form::ByName && Runtime::under_test(form) == Runtime::Runc {
        return;
    }
    let node = Node { containerd: Containerd::start_under_systemd(version, form), slice: Slice::new(name) };
    node.containerd.remember();
    test(&node);
    node.containerd.assert_clean();
    let left = cgroup::directories(&format!("/{}", node.slice.name()));
    assert!(!left.iter().any(|dir| dir.to_string_lossy().ends_with(".scope")), "{left:#?}");
}

macro_rules! on_every_containerd {
    ($($test:ident),+ $(,)?) => {
        mod containerd_2_by_path { $(#[test] fn $test() {
            super::under(super::Version::V2_3, super::Form::ByPath, stringify!($test), super::$test);
        })+ }
        mod containerd_2_by_name { $(#[test] fn $test() {
            super::under(super::Version::V2_3, super::Form::ByName, stringify!($test), super::$test);
        })+ }
        mod containerd_1_by_path { $(#[test] fn $test() {
            super::under(super::Version::V1_6, super::Form::ByPath, stringify!($test), super::$test);
        })+ }
    };
}

on_every_containerd!(
    pod_has_a_scope_with_its_limits_from_start_to_removal,
    oom_kill_in_a_scope_reaches_the_cri_status,
    scopes_survive_a_killed_containerd,
    scopes_end_with_a_killed_shim
);

struct Node {
    containerd: Containerd,
    slice: Slice,
}

impl Node {
    /// Runs a pod in a slice of its own below the node's, as the kubelet does.
    fn pod(&self, name: &str) -> Pod<'_> {
        let mut config = pod_config(&self.containerd, name);
        config["linux"]["cgroup_parent"] = json!(format!("/{}/{}", self.slice.name(), self.pod_slice(name)));
        Pod::run_config(&self.containerd, config)
    }

    fn pod_slice(&self, name: &str) -> String {
        format!("{}-{name}.slice", self.slice.name().trim_end_matches(".slice"))
    }

    /// Returns the path in a hierarchy of the cgroup of a container of the pod `name`.
    fn path(&self, name: &str, container: &Container<'_>) -> String {
        format!("/{}/{}/{}", self.slice.name(), self.pod_slice(name), scope(&container.id))
    }
}

fn scope(id: &str) -> String {
    format!("cri-containerd-{id}.scope")
}

fn pod_has_a_scope_with_its_limits_from_start_to_removal(node: &Node) {
    let containerd = &node.containerd;
    let pod = node.pod("life");
    let mut config = container_config("main", &["sh", "-c", "echo up; while :; do sleep 1; done"]);
    config["linux"]["resources"] = json!({
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 * MIB,
        "cpuset_cpus": "0",
    });
    let main = pod.start_config(&config);
    main.expect_log(" stdout F up\n");
    let (unit, path) = (scope(&main.id), node.path("life", &main));
    assert_eq!(
        show(&unit, &["ActiveState", "Slice"]),
        ["ActiveState=active".to_owned(), format!("Slice={}", node.pod_slice("life"))]
    );
    let pids = cgroup::processes(&path);
    assert!(pids.contains(&main.pid()), "{pids:?}");
    let memory = if cgroup::is_v2() { "MemoryMax" } else { "MemoryLimit" };
    let limits = |bytes: u64, quota: &str, per_second: &str| {
        assert_eq!(
            show(&unit, &[memory, "CPUQuotaPerSecUSec"]),
            [format!("CPUQuotaPerSecUSec={per_second}"), format!("{memory}={bytes}")]
        );
        assert_eq!(cgroup::value(&path, "memory/memory.limit_in_bytes", "memory.max"), bytes.to_string());
        let found = cgroup::value(&path, "cpu/cpu.cfs_quota_us", "cpu.max");
        assert_eq!(found.split(' ').next().unwrap(), quota);
    };
    limits(64 * MIB, "50000", "500ms");
    let bytes = (96 * MIB).to_string();
    containerd.crictl(["update", "--memory", &bytes, "--cpu-quota", "70000", "--cpu-period", "100000", &main.id]).ok();
    limits(96 * MIB, "70000", "700ms");

    assert_eq!(main.exec(&["echo", "inside"]).stdout.trim(), "inside");
    until("measures", LONG, || {
        let stats = parse(&containerd.crictl(["stats", "--output", "json", &main.id]).ok());
        let used = stats["stats"][0]["memory"]["workingSetBytes"]["value"].as_str()?.parse::<u64>().ok()?;
        (used > 0).then_some(())
    });
    let tasks = |words: &[&str]| containerd.ctr_in("k8s.io", [&["tasks"], words].concat());
    tasks(&["pause", &main.id]).ok();
    assert!(tasks(&["ls"]).ok().lines().any(|line| line.contains(&main.id) && line.ends_with("PAUSED")));
    tasks(&["resume", &main.id]).ok();
    assert_eq!(main.exec(&["echo", "again"]).stdout.trim(), "again");

    main.stop(0);
    assert_eq!(main.exited()["exitCode"], 137);
    main.remove();
    assert!(!systemd::is_known(&unit), "{:?}", show(&unit, &["LoadState", "ActiveState"]));
    pod.stop();
    pod.remove();
    assert!(!systemd::is_known(&scope(&pod.id)));
}

/// systemd removes the cgroup of a scope with its last process, and with it the count of OOM kills.
fn oom_kill_in_a_scope_reaches_the_cri_status(node: &Node) {
    let pod = node.pod("oom");
    for n in 0..5 {
        let mut config = container_config(&format!("main{n}"), &["sh", "-c", "exec tail /dev/zero"]);
        config["linux"]["resources"] =
            json!({"memory_limit_in_bytes": 16 * MIB, "memory_swap_limit_in_bytes": 16 * MIB});
        let main = pod.start_config(&config);
        let status = main.exited();
        assert_eq!((&status["exitCode"], &status["reason"]), (&137.into(), &"OOMKilled".into()), "{n}: {status}");
        main.remove();
        assert!(!systemd::is_known(&scope(&main.id)));
    }
    pod.stop();
    pod.remove();
}

fn scopes_survive_a_killed_containerd(node: &Node) {
    let pod = node.pod("restart");
    let main = pod.start("main", &["sleep", "1000"]);
    node.containerd.kill();
    assert_eq!(show(&scope(&main.id), &["ActiveState"]), ["ActiveState=active"]);
    node.containerd.launch();
    assert_eq!(main.status()["state"], "CONTAINER_RUNNING");
    assert_eq!(main.exec(&["echo", "still"]).stdout.trim(), "still");
    pod.stop();
    pod.remove();
    assert!(!systemd::is_known(&scope(&main.id)) && !systemd::is_known(&scope(&pod.id)));
}

fn scopes_end_with_a_killed_shim(node: &Node) {
    node.containerd.excuse_runc("its socket outlives a killed shim");
    let pod = node.pod("orphan");
    let main = pod.start("main", &["sleep", "1000"]);
    let (pid, shims) = (main.pid(), node.containerd.shims());
    assert_eq!(shims.len(), 1, "{shims:#?}");
    procs::kill(shims[0].pid, Signal::KILL);
    until_true("the process to go", LONG, || !procs::alive(pid));
    until_true("the units to go", LONG, || !systemd::is_known(&scope(&main.id)) && !systemd::is_known(&scope(&pod.id)));
    pod.clear();
}
