//! The systemd driver on a host that systemd runs with cgroup v2: what `systemctl` shows, the files, devices, the end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]
#![allow(clippy::disallowed_methods, reason = "systemctl is asked as an administrator would")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use berth_integration::{
    bundle::Bundle,
    cgroup,
    runtime::{Call, Runtime, is_runc},
};
use serde_json::json;

/// False on a host without systemd, or with cgroup v1; says so.
fn here(test: &str) -> bool {
    let here = Path::new("/run/systemd/system").is_dir() && cgroup::unified();
    if !here {
        eprintln!("{test}: skipped, this host is not run by systemd with cgroup v2");
    }
    here
}

/// A slice of this test program's own, removed with what is in it.
struct Slice(String);

impl Slice {
    fn new(name: &str) -> Self {
        Self(format!("berth_test_{}_{name}.slice", std::process::id()))
    }

    fn path_for(&self, id: &str) -> String {
        format!("{}:berth:{id}", self.0)
    }

    fn dir(&self, id: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.0).join(unit(id))
    }

    fn file(&self, id: &str, name: &str) -> String {
        fs::read_to_string(self.dir(id).join(name)).unwrap().trim().to_owned()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        systemctl(&["stop", &self.0]);
    }
}

fn unit(id: &str) -> String {
    format!("berth-{id}.scope")
}

fn systemctl(words: &[&str]) -> String {
    let out = Command::new("systemctl").args(words).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// The properties of a container's unit, as `NAME=VALUE`.
fn shown(id: &str, names: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> =
        systemctl(&["show", &unit(id), "--property", &names.join(",")]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn bundle(slice: &Slice, id: &str) -> Bundle {
    // A device that is there and not allowed, beside the usual ones.
    Bundle::busybox(&["/bin/sleep", "1000"], &["sh", "sleep"])
        .set("/linux/cgroupsPath", json!(slice.path_for(id)))
        .set("/linux/resources", json!({ "devices": [{ "allow": false, "access": "rwm" }] }))
        .set(
            "/linux/devices",
            json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }]),
        )
}

fn start<'a>(runtime: &'a Runtime, id: &str, bundle: &Bundle) -> Call<'a> {
    runtime.on("run", id, bundle).with(&["--detach"]).global(&["--systemd-cgroup"])
}

#[test]
fn a_scope_has_what_was_asked_on_both_sides() {
    if !here("a_scope_has_what_was_asked_on_both_sides") {
        return;
    }
    let slice = Slice::new("limits");
    let runtime = Runtime::new("limits");
    let bundle = bundle(&slice, "c1")
        .edit(|c| {
            c["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 });
            c["linux"]["resources"]["cpu"] = json!({ "shares": 512, "quota": 25_555, "period": 50_000, "cpus": "0" });
            c["linux"]["resources"]["pids"] = json!({ "limit": 50 });
        })
        .set("/annotations", json!({ "org.systemd.property.TimeoutStopSec": "uint64 7" }));
    start(&runtime, "c1", &bundle).wait().ok();
    let want = [
        "AllowedCPUs=0",
        "CPUQuotaPerSecUSec=520ms",
        "CPUQuotaPeriodUSec=50ms",
        "DefaultDependencies=no",
        "Delegate=yes",
        "Description=libcontainer container c1",
        "DevicePolicy=strict",
        "IOAccounting=yes",
        "MemoryLow=33554432",
        "MemoryMax=67108864",
        "MemorySwapMax=33554432",
        &format!("Slice={}", slice.0),
        "TasksMax=50",
        "TimeoutStopUSec=7s",
    ];
    let names: Vec<&str> = want.iter().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(shown("c1", &names), want);
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("cpu.max", "26000 50000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "50"),
    ] {
        assert_eq!(slice.file("c1", file), value, "{file}");
    }
    let own = format!("0::/{}/{}", slice.0, unit("c1"));
    assert_eq!(fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid("c1"))).unwrap().trim(), own);

    runtime.cmd(&["update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "77", "c1"]).ok();
    let now = shown("c1", &["MemoryMax", "MemorySwapMax", "TasksMax", "CPUQuotaPerSecUSec"]);
    assert_eq!(now, ["CPUQuotaPerSecUSec=520ms", "MemoryMax=134217728", "MemorySwapMax=0", "TasksMax=77"]);
    assert_eq!((slice.file("c1", "memory.max"), slice.file("c1", "pids.max")), ("134217728".into(), "77".into()));
    assert_eq!(slice.file("c1", "cpu.max"), "26000 50000");

    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert_eq!(shown("c1", &["LoadState"]), ["LoadState=not-found"]);
    assert!(!slice.dir("c1").exists());
}

#[test]
fn devices_stay_what_they_were_when_systemd_reads_its_files_again() {
    if !here("devices_stay_what_they_were_when_systemd_reads_its_files_again") {
        return;
    }
    let slice = Slice::new("devices");
    let runtime = Runtime::new("devices");
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    let open = || {
        let script = "for d in null zero kmsg; do (: < /dev/$d) 2> /dev/null && echo $d; done; true";
        runtime.exec("c1", &["/bin/sh", "-c", script]).ok().stdout
    };
    assert_eq!(open(), "null\nzero\n");
    systemctl(&["daemon-reload"]);
    assert_eq!(open(), "null\nzero\n");
    runtime.cmd(&["update", "--pids-limit", "30", "c1"]).ok();
    assert_eq!(open(), "null\nzero\n");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}

#[test]
fn a_killed_container_leaves_no_unit_behind() {
    if !here("a_killed_container_leaves_no_unit_behind") {
        return;
    }
    let slice = Slice::new("killed");
    let runtime = Runtime::new("killed");
    // The same name each time: what the last one left would be in the way.
    for _ in 0..2 {
        start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
        runtime.cmd(&["kill", "c1", "KILL"]).ok();
        runtime.until("c1", "stopped");
        runtime.cmd(&["delete", "c1"]).ok();
        assert_eq!(shown("c1", &["LoadState"]), ["LoadState=not-found"]);
        assert!(!slice.dir("c1").exists());
    }
}

#[test]
fn what_systemd_refuses_is_named_and_leaves_nothing() {
    if !here("what_systemd_refuses_is_named_and_leaves_nothing") || is_runc() {
        return;
    }
    let (slice, other) = (Slice::new("refused"), Slice::new("other"));
    let runtime = Runtime::new("refused");
    for (name, value, says) in [
        ("NoSuchThing", "true", "NoSuchThing"),
        ("CollectMode", "true", "CollectMode"),
        ("CollectMode", "inactive", "annotation org.systemd.property.CollectMode=inactive"),
    ] {
        let key = format!("org.systemd.property.{name}");
        let bundle = bundle(&slice, "c1").set("/annotations", json!({ key: value }));
        start(&runtime, "c1", &bundle).wait().fails(1, &[says]);
        assert_eq!(shown("c1", &["LoadState"]), ["LoadState=not-found"]);
        assert!(!slice.dir("c1").exists());
        assert_eq!(runtime.ids(), [""; 0]);
    }
    // Names of units are one space, whatever the slice.
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    let taken = bundle(&slice, "c1").set("/linux/cgroupsPath", json!(other.path_for("c1")));
    start(&runtime, "c2", &taken).wait().fails(1, &["berth-c1.scope"]);
    let same = bundle(&slice, "c1");
    start(&runtime, "c3", &same).wait().fails(1, &["cgroup is not empty"]);
    assert_eq!(shown("c1", &["ActiveState"]), ["ActiveState=active"]);
    assert_eq!(runtime.ids(), ["c1"]);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}
