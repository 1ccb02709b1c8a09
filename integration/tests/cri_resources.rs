//! Limits, their update, statistics, and the OOM kill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Version},
    matrix,
    pod::{Pod, container_config, parse},
    wait::{LONG, until},
};
use serde_json::json;

matrix!(cri_limits_are_applied_and_updated, cri_stats_report_cpu_and_memory, cri_status_says_oom_killed);

const MIB: u64 = 1 << 20;

fn cri_limits_are_applied_and_updated(containerd: &Containerd) {
    let pod = Pod::run(containerd, "limits");
    let mut config = container_config("main", &["sleep", "1000"]);
    config["linux"]["resources"] = json!({
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 * MIB,
        "oom_score_adj": 500, "cpuset_cpus": "0",
    });
    let main = pod.start_config(&config);
    let path = main.cgroup();
    let memory = || cgroup::value(&path, "memory/memory.limit_in_bytes", "memory.max");
    let quota = || cgroup::value(&path, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert_eq!(memory(), (64 * MIB).to_string());
    assert!(["50000", "50000 100000"].contains(&quota().as_str()), "{}", quota());
    assert_eq!(cgroup::value(&path, "cpuset/cpuset.cpus", "cpuset.cpus"), "0");
    if !cgroup::is_v2() {
        assert_eq!(cgroup::value(&path, "cpu/cpu.shares", ""), "512");
    }
    assert_eq!(main.exec(&["cat", "/proc/1/oom_score_adj"]).code(), 0);
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", main.pid())).unwrap();
    assert_eq!(score.trim(), "500");
    // containerd 2.x updates a running container without the limits that are not named.
    containerd
        .crictl([
            "update",
            "--memory",
            &(96 * MIB).to_string(),
            "--cpu-quota",
            "70000",
            "--cpu-period",
            "100000",
            &main.id,
        ])
        .ok();
    assert_eq!(memory(), (96 * MIB).to_string());
    assert!(["70000", "70000 100000"].contains(&quota().as_str()), "{}", quota());
    assert_eq!(main.exec(&["true"]).code(), 0);
    pod.stop();
    pod.remove();
}

fn cri_stats_report_cpu_and_memory(containerd: &Containerd) {
    let pod = Pod::run(containerd, "stats");
    let script = "dd if=/dev/zero of=/tmp/file bs=1M count=8 2> /dev/null; while :; do :; done";
    let main = pod.start("main", &["sh", "-c", script]);
    let found = until("measures", LONG, || {
        let stats = parse(&containerd.crictl(["stats", "--output", "json", &main.id]).ok());
        let stats = stats["stats"][0].clone();
        let number = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let cpu = number(&stats["cpu"]["usageCoreNanoSeconds"]["value"]);
        let memory = number(&stats["memory"]["workingSetBytes"]["value"]);
        (cpu > 10_000_000 && memory > 0).then_some(stats)
    });
    assert_eq!(found["attributes"]["id"], main.id, "{found}");
    if containerd.version == Version::V2_3 {
        let pods = parse(&containerd.crictl(["statsp", "--output", "json", &pod.id]).ok());
        assert_eq!(pods["stats"][0]["attributes"]["id"], pod.id, "{pods}");
    }
    pod.stop();
    pod.remove();
}

fn cri_status_says_oom_killed(containerd: &Containerd) {
    let pod = Pod::run(containerd, "oom");
    let mut config = container_config("main", &["sh", "-c", "exec tail /dev/zero"]);
    config["linux"]["resources"] = json!({"memory_limit_in_bytes": 16 * MIB, "memory_swap_limit_in_bytes": 16 * MIB});
    let status = pod.start_config(&config).exited();
    assert_eq!((&status["exitCode"], &status["reason"]), (&137.into(), &"OOMKilled".into()), "{status}");
    // A kill without an OOM, under a limit, must have another reason.
    config["command"] = json!(["sleep", "1000"]);
    config["metadata"]["name"] = json!("other");
    let other = pod.start_config(&config);
    other.stop(0);
    let status = other.exited();
    assert_eq!((&status["exitCode"], &status["reason"]), (&137.into(), &"Error".into()), "{status}");
    pod.stop();
    pod.remove();
}
