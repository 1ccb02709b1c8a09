//! `events`: statistics and OOM kills of a container, as lines that callers of runc read.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    runtime::{Runtime, wait_until},
    wait::{LONG, until},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

const LIMIT: u64 = 64 << 20;

fn sleeper() -> Bundle {
    Bundle::probe(&["sleep", "1000"]).edit(|c| {
        c["linux"]["resources"]["memory"] = json!({ "limit": LIMIT });
        c["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    })
}

/// Parses one JSON object a line.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

#[test]
fn events_stats_prints_one_json_object() {
    let runtime = Runtime::new("events-stats");
    runtime.start("c1", &sleeper());
    // runc's start returns while threads of its init still run, and they are counted.
    let event = until("one task alone to be counted", LONG, || {
        let out = runtime.cmd(&["events", "--stats", "c1"]).ok();
        let events = lines(&out.stdout);
        assert_eq!(events.len(), 1, "{out:#?}");
        events.into_iter().next().filter(|event| event["data"]["pids"]["current"] == 1)
    });
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("c1")));
    let data = &event["data"];
    let sections = ["blkio", "cpu", "cpuset", "hugetlb", "intel_rdt", "memory", "network_interfaces", "pids"];
    assert_eq!(members(data), BTreeSet::from(sections));
    assert_eq!(data["pids"], json!({ "current": 1, "limit": 50 }));
    assert_eq!(data["memory"]["usage"]["limit"], json!(LIMIT));
    let used = data["memory"]["usage"]["usage"].as_u64().unwrap();
    assert!(used > 0 && used < LIMIT, "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert!(members(&data["cpu"]["usage"]).is_superset(&BTreeSet::from(["kernel", "total", "user"])));
    assert!(!data["memory"]["raw"].as_object().unwrap().is_empty());
    assert_eq!(data["cpuset"].as_object().unwrap()["cpu_exclusive"], json!(0));
}

/// Collects the names of all members that are objects or null. Numbers vary with the usage, since zeros are left out.
fn names(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        names(member, &at, into);
        if member.is_object() || member.is_null() {
            into.insert(at);
        }
    }
}

#[test]
fn events_stats_has_the_json_members_of_runc() {
    let limits = [json!({}), json!({"cpu": {"quota": 20_000, "period": 50_000}, "memory": {"limit": LIMIT}})];
    for resources in limits {
        let [ours, peers] = [Runtime::new("events-ours"), Runtime::peer("events-peer")].map(|runtime| {
            runtime.start("c1", &Bundle::probe(&["sleep", "1000"]).set("/linux/resources", resources.clone()));
            let pid = runtime.pid("c1");
            let asleep = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "probe";
            wait_until(asleep, || "no probe".to_owned());
            let mut all = BTreeSet::new();
            names(&runtime.cmd(&["events", "--stats", "c1"]).ok().json(), "", &mut all);
            // This member appears after one period of the quota.
            all.remove("/data/cpu/throttling");
            all
        });
        assert_eq!(ours, peers, "{resources}");
    }
}

#[test]
fn events_reports_oom_kills() {
    let runtime = Runtime::new("events-oom");
    runtime.start("c1", &sleeper());
    let running = runtime.call(&["events", "--interval", "100ms", "c1"]).spawn();
    let text = || runtime.stdout_of(running.number);
    wait_until(|| text().contains(r#"{"type":"stats","id":"c1","#), || format!("no statistics: {}", text()));
    assert!(!text().contains("oom\""), "{}", text());
    let eaten = runtime.exec("c1", &["/probe", "eat", "200000000"]);
    assert_eq!(eaten.code, 137, "{eaten:#?}");
    wait_until(|| text().contains(r#"{"type":"oom","id":"c1"}"#), || format!("no kill: {}", text()));
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    running.wait().ok();
    runtime.assert_clean("events");
}

#[test]
fn events_refuses_missing_containers_and_bad_intervals() {
    let runtime = Runtime::new("events-refused");
    runtime.cmd(&["events", "c1"]).fails(1, &["container does not exist"]);
    runtime.cmd(&["events"]).fails(1, &[r#""events\" requires exactly 1 argument(s)"#]);
    runtime.start("c1", &sleeper());
    for bad in ["0", "0s", "-1s"] {
        let out = runtime.cmd(&["events", &format!("--interval={bad}"), "c1"]);
        out.fails(1, &["duration interval must be greater than 0"]);
    }
    runtime.cmd(&["events", "--interval=5", "c1"]).fails(1, &["invalid value", "interval"]);
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["events", "c1"]).fails(1, &["container with id c1 is not running"]);
}
