//! Time namespaces: new ones with clock offsets, joined ones, and those of execs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    runtime::{Runtime, is_runc},
};
use serde_json::{Value, json};

const REPORT: [&str; 5] = ["/probe", "report", "namespaces", "read=/proc/uptime", "read=/proc/self/timens_offsets"];

/// Returns the seconds since boot in /proc/uptime, as its reader sees them.
fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn host_uptime() -> f64 {
    uptime(&std::fs::read_to_string("/proc/uptime").unwrap())
}

fn own() -> Value {
    json!(std::fs::read_link("/proc/self/ns/time").unwrap())
}

/// Returns `clock seconds nanoseconds`, one line each, separated by single spaces.
fn offsets(report: &Value) -> Vec<String> {
    let text = report["read"]["/proc/self/timens_offsets"].as_str().unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Returns the faults in a report of a container whose boot is `shift` seconds earlier than the host's.
fn wrong(report: &Value, before: f64, shift: f64, monotonic: &str, boottime: &str) -> Vec<String> {
    let mut wrong = vec![];
    let inside = uptime(report["read"]["/proc/uptime"].as_str().unwrap());
    let (least, most) = (before + shift - 0.02, host_uptime() + shift + 0.02);
    if inside < least || inside > most {
        wrong.push(format!("up for {inside} s, not between {least} and {most}"));
    }
    if offsets(report) != [format!("monotonic {monotonic}"), format!("boottime {boottime}")] {
        wrong.push(format!("offsets {:?}", offsets(report)));
    }
    if report["namespaces"]["time"] == own() {
        wrong.push("the host's time namespace".into());
    }
    wrong
}

#[test]
fn new_time_namespace_has_its_offsets() {
    let mut failed = vec![];
    for (name, wanted, shift, monotonic, boottime) in [
        (
            "both",
            json!({"monotonic": {"secs": 7881, "nanosecs": 2_718_281}, "boottime": {"secs": 1337, "nanosecs": 3_141_519}}),
            1337.003,
            "7881 2718281",
            "1337 3141519",
        ),
        ("the past", json!({"boottime": {"secs": -10}}), -10.0, "0 0", "-10 0"),
        ("a day", json!({"boottime": {"secs": 86400}}), 86400.0, "0 0", "86400 0"),
        ("none", Value::Null, 0.0, "0 0", "0 0"),
    ] {
        let runtime = Runtime::new("time");
        let with = |bundle: Bundle| {
            let bundle = bundle.namespace("time", "");
            if wanted.is_null() { bundle } else { bundle.set("/linux/timeOffsets", wanted.clone()) }
        };
        let before = host_uptime();
        let report = runtime.run("c1", &with(Bundle::probe(&[]).args(&REPORT))).ok().json();
        failed.extend(wrong(&report, before, shift, monotonic, boottime).iter().map(|w| format!("{name}, init: {w}")));
        runtime.start("c2", &with(Bundle::probe(&["sleep", "100"])));
        let before = host_uptime();
        let report = runtime.exec("c2", &REPORT).ok().json();
        failed.extend(wrong(&report, before, shift, monotonic, boottime).iter().map(|w| format!("{name}, exec: {w}")));
        // init is in the namespace from its clone, and not only from its execve.
        runtime.create("c3", &with(Bundle::probe(&["sleep", "100"]))).ok();
        let ns = std::fs::read_link(format!("/proc/{}/ns/time", runtime.pid("c3"))).unwrap();
        if json!(ns) == own() {
            failed.push(format!("{name}: created in the host's time namespace"));
        }
        for id in ["c2", "c3"] {
            runtime.cmd(&["delete", "--force", id]).ok();
        }
        runtime.assert_clean(name);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The namespace is joined together with every other kind, new, the host's and joined.
#[test]
fn time_namespace_is_joined_by_path() {
    let runtime = Runtime::new("time-join");
    let holder = Bundle::probe(&["sleep", "100"])
        .namespace("time", "")
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 5000}}));
    runtime.start("holder", &holder);
    let pid = runtime.pid("holder");
    let path = |link: &str| format!("/proc/{pid}/ns/{link}");
    for (name, bundle) in [
        ("alone", Bundle::probe(&[]).namespace("time", &path("time"))),
        ("with its pids", Bundle::probe(&[]).namespace("time", &path("time")).namespace("pid", &path("pid"))),
        (
            "a new one with its pids",
            Bundle::probe(&[])
                .namespace("time", "")
                .namespace("pid", &path("pid"))
                .set("/linux/timeOffsets", json!({"boottime": {"secs": 5000}})),
        ),
    ] {
        let before = host_uptime();
        let report = runtime.run("c1", &bundle.args(&REPORT)).ok().json();
        let wrong = wrong(&report, before, 5000.0, "0 0", "5000 0");
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        let holders = json!(std::fs::read_link(path("time")).unwrap());
        assert_eq!(report["namespaces"]["time"] == holders, !name.starts_with("a new"), "{name}");
    }
}

#[test]
fn impossible_time_offsets_are_refused() {
    refused(
        "time-bad",
        &[
            Refusal {
                name: "offsets without a namespace",
                set: |b| b.set("/linux/timeOffsets", json!({"boottime": {"secs": 1}})),
                says: &["time namespace", "offsets"],
            },
            Refusal {
                name: "before the boot",
                set: |b| b.namespace("time", "").set("/linux/timeOffsets", json!({"boottime": {"secs": -100_000_000}})),
                says: &["timens_offsets", "numerical result out of range"],
            },
            Refusal {
                name: "seconds in words",
                set: |b| b.namespace("time", "").set("/linux/timeOffsets", json!({"boottime": {"secs": "one"}})),
                says: &["timeOffsets"],
            },
            Refusal { name: "a path that is none", set: |b| b.namespace("time", "/proc/self/ns/uts"), says: &["time"] },
        ],
    );
    if skipped_on_runc("more of them", "it says what the kernel says") {
        return;
    }
    assert!(!is_runc());
    refused(
        "time-worse",
        &[
            Refusal {
                name: "a clock that has no offset",
                set: |b| b.namespace("time", "").set("/linux/timeOffsets", json!({"realtime": {"secs": 1}})),
                says: &["linux.timeOffsets.realtime", "monotonic and boottime"],
            },
            Refusal {
                name: "a second of nanoseconds",
                set: |b| {
                    b.namespace("time", "").set("/linux/timeOffsets", json!({"boottime": {"nanosecs": 1_000_000_000}}))
                },
                says: &["linux.timeOffsets.boottime", "nanosecs"],
            },
            Refusal {
                name: "offsets of a joined one",
                set: |b| {
                    b.namespace("time", "/proc/1/ns/time").set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}))
                },
                says: &["linux.timeOffsets.boottime", "joined by path"],
            },
        ],
    );
}
