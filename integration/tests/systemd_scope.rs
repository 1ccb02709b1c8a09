//! The systemd driver on a host that systemd runs: properties, cgroup files, devices, the end of the unit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    runtime::{Call, Runtime, is_runc},
    systemd::{self, Slice, show, systemctl},
    tools,
};
use serde_json::json;
use std::{
    fs,
    sync::{PoisonError, RwLock},
};

/// Returns the unit of the container `id`.
fn unit(slice: &Slice, id: &str) -> String {
    format!("{}-{id}.scope", prefix(slice))
}

/// Returns a prefix of the test's own, since unit names are global.
fn prefix(slice: &Slice) -> String {
    slice.name().trim_end_matches(".slice").to_owned()
}

fn bundle(slice: &Slice, id: &str) -> Bundle {
    // The test uses a device that exists and is not allowed, beside the usual ones.
    Bundle::busybox(&["/bin/sleep", "1000"], &["sh", "sleep"])
        .set("/linux/cgroupsPath", json!(format!("{}:{}:{id}", slice.name(), prefix(slice))))
        .set("/linux/resources", json!({ "devices": [{ "allow": false, "access": "rwm" }] }))
        .set(
            "/linux/devices",
            json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }]),
        )
}

/// Adds limits of all kinds.
fn limited(slice: &Slice, id: &str) -> Bundle {
    bundle(slice, id)
        .edit(|c| {
            c["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "reservation": 32 << 20 });
            if cgroup::is_v2() {
                c["linux"]["resources"]["memory"]["swap"] = json!(96 << 20);
            }
            c["linux"]["resources"]["cpu"] = json!({ "shares": 512, "quota": 25_555, "period": 50_000, "cpus": "0" });
            c["linux"]["resources"]["pids"] = json!({ "limit": 50 });
        })
        .set("/annotations", json!({ "org.systemd.property.TimeoutStopSec": "uint64 7" }))
}

fn start<'a>(runtime: &'a Runtime, id: &str, bundle: &Bundle) -> Call<'a> {
    runtime.on("run", id, bundle).with(&["--detach"]).global(&["--systemd-cgroup"])
}

/// systemd answers no call while it restarts itself. One test restarts it, and must run alone.
static SYSTEMD: RwLock<()> = RwLock::new(());

/// crun's annotations put init below the scope.
#[test]
fn crun_annotations_make_cgroups_below_the_scope() {
    let name = "crun_annotations_make_cgroups_below_the_scope";
    if !systemd::here(name) || skipped_on_runc(name, "they are crun's") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("below"), Runtime::new("below"));
    let annotations = json!({ "run.oci.systemd.subgroup": "payload", "run.oci.delegate-cgroup": "app" });
    let bundle = limited(&slice, "c1").set("/annotations", annotations).namespace("cgroup", "");
    if !cgroup::is_v2() {
        start(&runtime, "c1", &bundle).wait().fails(1, &["run.oci.systemd.subgroup", "cgroup v1"]);
        runtime.assert_clean(name);
        return;
    }
    start(&runtime, "c1", &bundle).wait().ok();
    let scope = unit(&slice, "c1");
    let at = fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid("c1"))).unwrap();
    assert_eq!(at.trim(), format!("0::{}/payload/app", slice.path(&scope)));
    let seen = runtime.exec("c1", &["/bin/sh", "-c", "read line < /proc/self/cgroup; echo $line"]).ok().stdout;
    assert_eq!(seen.trim(), "0::/app");
    assert_eq!(slice.value(&scope, "", "pids.max"), "50");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.assert_clean(name);
}

#[test]
fn scope_properties_and_cgroup_files_have_the_limits() {
    if !systemd::here("scope_properties_and_cgroup_files_have_the_limits") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("limits"), Runtime::new("limits"));
    let scope = unit(&slice, "c1");
    start(&runtime, "c1", &limited(&slice, "c1")).wait().ok();
    let description = "Description=libcontainer container c1".to_owned();
    let same = [
        "CPUQuotaPerSecUSec=520ms",
        "CPUQuotaPeriodUSec=50ms",
        "DefaultDependencies=no",
        "Delegate=yes",
        &description,
        "DevicePolicy=strict",
        &format!("Slice={}", slice.name()),
        "TasksMax=50",
        "TimeoutStopUSec=7s",
    ];
    let of_hierarchy: &[&str] = if cgroup::is_v2() {
        &["AllowedCPUs=0", "IOAccounting=yes", "MemoryLow=33554432", "MemoryMax=67108864", "MemorySwapMax=33554432"]
    } else {
        &["BlockIOAccounting=yes", "CPUShares=512", "MemoryLimit=67108864"]
    };
    let mut want: Vec<&str> = same.iter().chain(of_hierarchy).copied().collect();
    want.sort_unstable();
    let names: Vec<&str> = want.iter().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(show(&scope, &names), want);
    for (v1, v2, values) in [
        ("memory/memory.limit_in_bytes", "memory.max", ["67108864", "67108864"]),
        ("memory/memory.soft_limit_in_bytes", "memory.low", ["33554432", "33554432"]),
        ("cpu/cpu.cfs_quota_us", "cpu.max", ["26000", "26000 50000"]),
        ("cpuset/cpuset.cpus", "cpuset.cpus", ["0", "0"]),
        ("pids/pids.max", "pids.max", ["50", "50"]),
    ] {
        assert_eq!(slice.value(&scope, v1, v2), values[usize::from(cgroup::is_v2())], "{v2}");
    }
    let own = format!(":{}", slice.path(&scope));
    let shown = fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid("c1"))).unwrap();
    assert!(shown.lines().filter(|l| !l.contains(":misc:")).all(|line| line.ends_with(&own)), "{shown}");
    // An exec is in the same cgroup.
    assert_eq!(runtime.exec("c1", &["/bin/sh", "-c", "exit 3"]).code, 3);

    runtime.cmd(&["update", "--memory", "80m", "--pids-limit", "77", "c1"]).ok();
    let memory = if cgroup::is_v2() { "MemoryMax" } else { "MemoryLimit" };
    let now = show(&scope, &[memory, "TasksMax", "CPUQuotaPerSecUSec"]);
    assert_eq!(now, ["CPUQuotaPerSecUSec=520ms", &format!("{memory}=83886080"), "TasksMax=77"]);
    assert_eq!(slice.value(&scope, "memory/memory.limit_in_bytes", "memory.max"), "83886080");
    assert_eq!(slice.value(&scope, "pids/pids.max", "pids.max"), "77");
    let quota = slice.value(&scope, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(["26000", "26000 50000"].contains(&quota.as_str()), "{quota}");

    runtime.cmd(&["pause", "c1"]).ok();
    runtime.until("c1", "paused");
    runtime.cmd(&["resume", "c1"]).ok();
    runtime.until("c1", "running");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(!systemd::is_known(&scope) && !slice.has(&scope));
}

#[test]
fn systemctl_shows_the_same_unit_as_for_runc() {
    let name = "systemctl_shows_the_same_unit_as_for_runc";
    if !systemd::here(name) || skipped_on_runc(name, "it is what berth is compared with") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("alike"), Runtime::new("alike"));
    let scope = unit(&slice, "c1");
    let shown = || -> Vec<String> {
        let all = systemctl(&["show", &scope]);
        all.lines().filter(|line| is_of_the_unit(line)).map(str::to_owned).collect()
    };
    start(&runtime, "c1", &limited(&slice, "c1")).wait().ok();
    let own = shown();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    let bundle = limited(&slice, "c1");
    bundle.save("");
    let runc = |words: &[&str]| {
        let root = runtime.work().join("runc");
        let mut command = std::process::Command::new(tools::tool("RUNC"));
        command.arg("--root").arg(root).arg("--systemd-cgroup").args(words).stdin(std::process::Stdio::null());
        // The container must not hold this test's pipes open.
        let said = runtime.work().join("runc-said");
        command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&said).unwrap());
        let status = command.status().unwrap();
        assert!(status.success(), "runc {words:?}: {}", std::fs::read_to_string(&said).unwrap());
    };
    runc(&["run", "--detach", "--bundle", &bundle.path().to_string_lossy(), "c1"]);
    let theirs = shown();
    runc(&["delete", "--force", "c1"]);
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
    assert!(own.len() > 80, "{own:?}");
    assert_eq!((only(&own, &theirs), only(&theirs, &own)), (vec![], vec![]), "berth's, runc's");
}

/// Leaves out what differs between two units of the same runtime: names, times, usage.
fn is_of_the_unit(line: &str) -> bool {
    let (name, _) = line.split_once('=').unwrap();
    let differs = [
        "InvocationID",
        "ControlGroupId",
        "TasksCurrent",
        "CPUUsageNSec",
        // A failed unit leaves a property that runc asks for afterwards.
        "CollectMode",
        // runc sets some properties a second time, which systemd records in a file.
        "DropInPaths",
        "NeedDaemonReload",
    ];
    let of_a_kind = ["Timestamp", "TimestampMonotonic", "Current", "Peak", "Bytes", "Operations", "Available"];
    !differs.contains(&name) && !of_a_kind.iter().any(|end| name.ends_with(end))
}

#[test]
fn device_rules_survive_a_daemon_reload() {
    if !systemd::here("device_rules_survive_a_daemon_reload") {
        return;
    }
    let _turn = SYSTEMD.write().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("devices"), Runtime::new("devices"));
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    let open = || {
        let script = "for d in null zero kmsg; do (: < /dev/$d) 2> /dev/null && echo $d; done; true";
        runtime.exec("c1", &["/bin/sh", "-c", script]).ok().stdout
    };
    assert_eq!(open(), "null\nzero\n");
    for again in ["daemon-reload", "daemon-reexec"] {
        systemctl(&[again]);
        assert_eq!(open(), "null\nzero\n", "{again}");
    }
    runtime.cmd(&["update", "--pids-limit", "30", "c1"]).ok();
    assert_eq!(open(), "null\nzero\n");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}

#[test]
fn killed_container_leaves_no_unit_behind() {
    if !systemd::here("killed_container_leaves_no_unit_behind") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("killed"), Runtime::new("killed"));
    let scope = unit(&slice, "c1");
    // The name is the same each time, so a leftover unit would be in the way.
    for _ in 0..3 {
        start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
        runtime.cmd(&["kill", "c1", "KILL"]).ok();
        runtime.until("c1", "stopped");
        runtime.cmd(&["delete", "c1"]).ok();
        assert!(!systemd::is_known(&scope) && !slice.has(&scope));
    }
}

#[test]
fn leftover_scope_is_refused_and_leftover_directory_taken_over() {
    if !systemd::here("leftover_scope_is_refused_and_leftover_directory_taken_over") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, runtime) = (Slice::new("crash"), Runtime::new("crash"));
    let scope = unit(&slice, "c1");
    // Only the unit of the container is left.
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    fs::remove_dir_all(runtime.root().join("c1")).unwrap();
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().fails(1, &[if is_runc() { "cgroup" } else { &scope }]);
    assert_eq!(show(&scope, &["ActiveState"]), ["ActiveState=active"]);
    systemctl(&["kill", "--signal=KILL", &scope]);
    berth_integration::wait::until_true("the unit to end", berth_integration::wait::LONG, || {
        show(&scope, &["ActiveState"]) != ["ActiveState=active"]
    });
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(!systemd::is_known(&scope) && !slice.has(&scope));
    // Only a directory without a unit is left.
    for hierarchy in cgroup::hierarchies() {
        fs::create_dir_all(hierarchy.join(slice.path(&scope).trim_start_matches('/'))).ok();
    }
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(!systemd::is_known(&scope) && !slice.has(&scope));
}

#[test]
fn property_that_systemd_refuses_is_named_and_leaves_nothing() {
    let name = "property_that_systemd_refuses_is_named_and_leaves_nothing";
    if !systemd::here(name) || skipped_on_runc(name, "it starts the container without what was refused") {
        return;
    }
    let _turn = SYSTEMD.read().unwrap_or_else(PoisonError::into_inner);
    let (slice, other, runtime) = (Slice::new("refused"), Slice::new("other"), Runtime::new("refused"));
    let scope = unit(&slice, "c1");
    for (name, value, says) in [
        ("NoSuchThing", "true", "NoSuchThing"),
        ("CollectMode", "true", "CollectMode"),
        ("CollectMode", "inactive", "annotation org.systemd.property.CollectMode=inactive"),
    ] {
        let key = format!("org.systemd.property.{name}");
        let bundle = bundle(&slice, "c1").set("/annotations", json!({ key: value }));
        start(&runtime, "c1", &bundle).wait().fails(1, &[says]);
        assert!(!systemd::is_known(&scope) && !slice.has(&scope));
        assert_eq!(runtime.ids(), [""; 0]);
    }
    // Unit names are global, whatever the slice.
    start(&runtime, "c1", &bundle(&slice, "c1")).wait().ok();
    let taken = format!("{}:{}:c1", other.name(), prefix(&slice));
    let taken = bundle(&slice, "c1").set("/linux/cgroupsPath", json!(taken));
    start(&runtime, "c2", &taken).wait().fails(1, &[&scope]);
    start(&runtime, "c3", &bundle(&slice, "c1")).wait().fails(1, &["cgroup is not empty"]);
    assert_eq!(show(&scope, &["ActiveState"]), ["ActiveState=active"]);
    assert_eq!(runtime.ids(), ["c1"]);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
}
