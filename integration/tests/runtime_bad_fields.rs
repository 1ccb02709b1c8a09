//! Every field of config.json with an impossible value: the runtime refuses it by its name before it makes anything.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, runtime::Runtime};
use serde_json::Value;

/// A JSON pointer into config.json, the bad value as JSON, and the name in the error.
type Row = (&'static str, &'static str, &'static str);

const TOP: &[Row] = &[
    ("/ociVersion", "7", "ociVersion"),
    ("/ociVersion", "\"\"", "ociVersion"),
    ("/root", "[]", "root"),
    ("/root/path", "7", "root.path"),
    ("/root/path", "\"\"", "root.path"),
    ("/root/path", "\"a\\u0000\"", "root.path"),
    ("/root/readonly", "\"yes\"", "root.readonly"),
    ("/hostname", "7", "hostname"),
    ("/hostname", LONG, "hostname"),
    ("/domainname", "[]", "domainname"),
    ("/domainname", LONG, "domainname"),
    ("/annotations", "[]", "annotations"),
    ("/annotations", r#"{"a": 7}"#, "annotations.a"),
    ("/hooks", "[]", "hooks"),
    ("/hooks", r#"{"prestart": {}}"#, "hooks.prestart"),
    ("/hooks", r#"{"prestart": [7]}"#, "hooks.prestart[0]"),
    ("/hooks", r#"{"createRuntime": [{"path": "bin/true"}]}"#, "hooks.createRuntime[0].path"),
    ("/hooks", r#"{"createContainer": [{"path": ""}]}"#, "hooks.createContainer[0].path"),
    ("/hooks", r#"{"createContainer": [{"path": "/a\u0000"}]}"#, "hooks.createContainer[0].path"),
    ("/hooks", r#"{"startContainer": [{"path": "/a", "args": [7]}]}"#, "hooks.startContainer[0].args[0]"),
    ("/hooks", r#"{"startContainer": [{"path": "/a", "args": ["\u0000"]}]}"#, "hooks.startContainer[0].args[0]"),
    ("/hooks", r#"{"poststart": [{"path": "/a", "env": {}}]}"#, "hooks.poststart[0].env"),
    ("/hooks", r#"{"poststart": [{"path": "/a", "env": ["A=\u0000"]}]}"#, "hooks.poststart[0].env[0]"),
    ("/hooks", r#"{"poststop": [{"path": "/a", "timeout": 0}]}"#, "hooks.poststop[0].timeout"),
    ("/hooks", r#"{"poststop": [{"path": "/a"}, {"path": "/a", "timeout": -1}]}"#, "hooks.poststop[1].timeout"),
    ("/hooks", r#"{"poststop": [{"path": "/a", "timeout": "1s"}]}"#, "hooks.poststop[0].timeout"),
];

const LONG: &str = r#""sixty-five-letters-sixty-five-letters-sixty-five-letters-sixty-fiv""#;

const PROCESS: &[Row] = &[
    ("/process", "[]", "process"),
    ("/process/terminal", "\"yes\"", "process.terminal"),
    ("/process/consoleSize", r#"{"height": -1, "width": 1}"#, "process.consoleSize.height"),
    ("/process/consoleSize", r#"{"height": 1, "width": 65536}"#, "process.consoleSize.width"),
    ("/process/consoleSize", "7", "process.consoleSize"),
    ("/process/user", "\"root\"", "process.user"),
    ("/process/user/uid", "-1", "process.user.uid"),
    ("/process/user/uid", "4294967295", "process.user.uid"),
    ("/process/user/uid", "4294967296", "process.user.uid"),
    ("/process/user/gid", "\"0\"", "process.user.gid"),
    ("/process/user/gid", "4294967295", "process.user.gid"),
    ("/process/user/umask", "-1", "process.user.umask"),
    ("/process/user/umask", "4096", "process.user.umask"),
    ("/process/user/additionalGids", "7", "process.user.additionalGids"),
    ("/process/user/additionalGids", "[0, -1]", "process.user.additionalGids[1]"),
    ("/process/user/additionalGids", "[0, 4294967295]", "process.user.additionalGids[1]"),
    ("/process/args", "\"sh\"", "process.args"),
    ("/process/args", "[]", "process.args"),
    ("/process/args", "[\"sh\", 7]", "process.args[1]"),
    ("/process/args", "[\"sh\", \"\\u0000\"]", "process.args[1]"),
    ("/process/env", "\"A=1\"", "process.env"),
    ("/process/env", "[\"A=1\", \"A\"]", "process.env[1]"),
    ("/process/env", "[\"=1\"]", "process.env[0]"),
    ("/process/env", "[\"A=\\u0000\"]", "process.env[0]"),
    ("/process/cwd", "7", "process.cwd"),
    ("/process/cwd", "\"\"", "process.cwd"),
    ("/process/cwd", "\"home\"", "process.cwd"),
    ("/process/cwd", "\"/\\u0000\"", "process.cwd"),
    ("/process/capabilities", "[]", "process.capabilities"),
    ("/process/capabilities", r#"{"bounding": "CAP_KILL"}"#, "process.capabilities.bounding"),
    ("/process/capabilities", r#"{"ambient": [7]}"#, "process.capabilities.ambient[0]"),
    ("/process/rlimits", "{}", "process.rlimits"),
    ("/process/rlimits", r#"[{"type": "RLIMIT_NONE", "hard": 1, "soft": 1}]"#, "process.rlimits[0].type"),
    ("/process/rlimits", r#"[{"type": "RLIMIT_CPU", "hard": -1, "soft": 1}]"#, "process.rlimits[0].hard"),
    ("/process/rlimits", r#"[{"type": "RLIMIT_CPU", "hard": 1, "soft": 2}]"#, "process.rlimits[0].soft"),
    (
        "/process/rlimits",
        r#"[{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 2, "soft": 1}]"#,
        "process.rlimits[1].type",
    ),
    ("/process/noNewPrivileges", "1", "process.noNewPrivileges"),
    ("/process/apparmorProfile", "7", "process.apparmorProfile"),
    ("/process/selinuxLabel", "7", "process.selinuxLabel"),
    ("/process/oomScoreAdj", "\"low\"", "process.oomScoreAdj"),
    ("/process/oomScoreAdj", "1001", "process.oomScoreAdj"),
    ("/process/oomScoreAdj", "-1001", "process.oomScoreAdj"),
    ("/process/scheduler", "{}", "process.scheduler"),
    ("/process/scheduler", r#"{"policy": "SCHED_NONE"}"#, "process.scheduler.policy"),
    ("/process/scheduler", r#"{"policy": "SCHED_OTHER", "nice": 20}"#, "process.scheduler.nice"),
    ("/process/scheduler", r#"{"policy": "SCHED_OTHER", "priority": 1}"#, "process.scheduler.priority"),
    ("/process/ioPriority", r#"{"class": "IOPRIO_CLASS_BE", "priority": 8}"#, "process.ioPriority.priority"),
    ("/process/ioPriority", r#"{"class": "IOPRIO_CLASS_NONE", "priority": 1}"#, "process.ioPriority.class"),
    ("/process/execCPUAffinity", r#"{"initial": "x"}"#, "process.execCPUAffinity.initial"),
    ("/process/execCPUAffinity", r#"{"final": "3-1"}"#, "process.execCPUAffinity.final"),
];

const MOUNTS: &[Row] = &[
    ("/mounts", "{}", "mounts"),
    ("/mounts/0", "7", "mounts[0]"),
    ("/mounts/0", r#"{"destination": 7}"#, "mounts[0].destination"),
    ("/mounts/0", r#"{"destination": ""}"#, "mounts[0].destination"),
    ("/mounts/0", r#"{"destination": "/a\u0000", "type": "tmpfs"}"#, "mounts[0].destination"),
    ("/mounts/0", r#"{"destination": "/a", "type": 7}"#, "mounts[0].type"),
    ("/mounts/0", r#"{"destination": "/a", "type": "bind", "source": 7}"#, "mounts[0].source"),
    ("/mounts/0", r#"{"destination": "/a", "type": "tmpfs", "options": "ro"}"#, "mounts[0].options"),
    ("/mounts/0", r#"{"destination": "/a", "type": "tmpfs", "options": [7]}"#, "mounts[0].options[0]"),
    ("/mounts/0", r#"{"destination": "/a", "type": "tmpfs", "options": ["\u0000"]}"#, "mounts[0].options"),
    ("/mounts/0", r#"{"destination": "/a", "type": "tmpfs", "uidMappings": []}"#, "mounts[0].uidMappings"),
    (
        "/mounts/0",
        r#"{"destination": "/a", "source": "/", "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": -1}]}"#,
        "mounts[0].uidMappings[0].size",
    ),
    (
        "/mounts/0",
        r#"{"destination": "/a", "source": "/", "options": ["bind"],
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}"#,
        "mounts[0].uidMappings",
    ),
    ("/linux/maskedPaths", "\"/proc/kcore\"", "linux.maskedPaths"),
    ("/linux/maskedPaths", "[7]", "linux.maskedPaths[0]"),
    ("/linux/maskedPaths", "[\"/a\\u0000\"]", "linux.maskedPaths[0]"),
    ("/linux/readonlyPaths", "{}", "linux.readonlyPaths"),
    ("/linux/readonlyPaths", "[\"/a\", \"/a\\u0000\"]", "linux.readonlyPaths[1]"),
    ("/linux/rootfsPropagation", "7", "linux.rootfsPropagation"),
    ("/linux/rootfsPropagation", "\"sideways\"", "linux.rootfsPropagation"),
    ("/linux/mountLabel", "7", "linux.mountLabel"),
];

const LINUX: &[Row] = &[
    ("/linux", "7", "linux"),
    ("/linux/namespaces", "{}", "linux.namespaces"),
    ("/linux/namespaces/0", "{}", "linux.namespaces[0]"),
    ("/linux/namespaces/0", r#"{"type": 7}"#, "linux.namespaces[0].type"),
    ("/linux/namespaces/0", r#"{"type": "warp"}"#, "linux.namespaces[0].type"),
    ("/linux/namespaces/0", r#"{"type": "mount"}"#, "linux.namespaces[4]"),
    ("/linux/namespaces/0", r#"{"type": "pid", "path": "proc/self"}"#, "linux.namespaces[0].path"),
    ("/linux/uidMappings", ONE, "linux.uidMappings"),
    ("/linux/gidMappings", ONE, "linux.gidMappings"),
    ("/linux/uidMappings", r#"[{"containerID": 0, "hostID": 0}]"#, "linux.uidMappings"),
    ("/linux/uidMappings", r#"[{"containerID": -1, "hostID": 0, "size": 1}]"#, "linux.uidMappings[0].containerID"),
    ("/linux/uidMappings", r#"[{"containerID": 0, "hostID": 4294967296, "size": 1}]"#, "linux.uidMappings[0].hostID"),
    ("/linux/timeOffsets", r#"{"boottime": {"secs": 1}}"#, "linux.timeOffsets.boottime"),
    ("/linux/timeOffsets", r#"{"boottime": {"secs": "1"}}"#, "linux.timeOffsets.boottime.secs"),
    ("/linux/devices", "{}", "linux.devices"),
    ("/linux/devices", r#"[{"type": "c", "path": 7, "major": 1, "minor": 3}]"#, "linux.devices[0].path"),
    ("/linux/devices", r#"[{"type": "c", "path": "", "major": 1, "minor": 3}]"#, "linux.devices[0].path"),
    ("/linux/devices", r#"[{"type": "c", "path": "/dev/\u0000", "major": 1, "minor": 3}]"#, "linux.devices[0].path"),
    ("/linux/devices", r#"[{"type": "x", "path": "/dev/x", "major": 1, "minor": 3}]"#, "linux.devices[0].type"),
    ("/linux/devices", r#"[{"type": "a", "path": "/dev/x", "major": 1, "minor": 3}]"#, "linux.devices[0].type"),
    ("/linux/devices", r#"[{"type": "c", "path": "/dev/x", "major": -1, "minor": 3}]"#, "linux.devices[0].major"),
    ("/linux/devices", r#"[{"type": "c", "path": "/dev/x", "major": 4096, "minor": 3}]"#, "linux.devices[0].major"),
    ("/linux/devices", r#"[{"type": "b", "path": "/dev/x", "major": 1, "minor": -1}]"#, "linux.devices[0].minor"),
    ("/linux/devices", r#"[{"type": "b", "path": "/dev/x", "major": 1, "minor": 1048576}]"#, "linux.devices[0].minor"),
    (
        "/linux/devices",
        r#"[{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": -1}]"#,
        "linux.devices[0].fileMode",
    ),
    (
        "/linux/devices",
        r#"[{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "uid": -1}]"#,
        "linux.devices[0].uid",
    ),
    ("/linux/sysctl", "[]", "linux.sysctl"),
    ("/linux/sysctl", r#"{"net.a": 7}"#, "linux.sysctl"),
    ("/linux/sysctl", r#"{"": "1"}"#, "linux.sysctl"),
    ("/linux/sysctl", r#"{"vm.swappiness": "1"}"#, "vm.swappiness"),
    ("/linux/sysctl", r#"{"net.ipv4.x": "\u0000"}"#, "net.ipv4.x"),
    ("/linux/personality", "{}", "linux.personality"),
    ("/linux/personality", r#"{"domain": "PLAN9"}"#, "linux.personality.domain"),
    ("/linux/memoryPolicy", r#"{"mode": "MPOL_MAYBE", "nodes": ""}"#, "linux.memoryPolicy.mode"),
    ("/linux/memoryPolicy", r#"{"mode": "MPOL_BIND", "nodes": "x"}"#, "linux.memoryPolicy.nodes"),
    ("/linux/netDevices", "[]", "linux.netDevices"),
    ("/linux/netDevices", r#"{"eth0": {"name": 7}}"#, "linux.netDevices.eth0.name"),
    ("/linux/netDevices", r#"{"a/b": {}}"#, "linux.netDevices"),
    ("/linux/intelRdt", "7", "linux.intelRdt"),
    ("/linux/intelRdt", r#"{"closID": 7}"#, "linux.intelRdt.closID"),
    ("/linux/intelRdt", r#"{"schemata": "L3:0=f"}"#, "linux.intelRdt.schemata"),
    ("/linux/intelRdt", r#"{"enableMonitoring": 1}"#, "linux.intelRdt.enableMonitoring"),
    ("/linux/intelRdt", r#"{"closID": ".."}"#, "linux.intelRdt"),
];

const ONE: &str = r#"[{"containerID": 0, "hostID": 0, "size": 1}]"#;

const RESOURCES: &[Row] = &[
    ("/linux/cgroupsPath", "7", "linux.cgroupsPath"),
    ("/linux/cgroupsPath", "\"/a/../b\"", "linux.cgroupsPath"),
    ("/linux/cgroupsPath", "\"/a\\u0000\"", "linux.cgroupsPath"),
    ("/linux/resources", "[]", "linux.resources"),
    ("/linux/resources", r#"{"devices": [{"allow": "yes"}]}"#, "linux.resources.devices[0].allow"),
    ("/linux/resources", r#"{"devices": [{"allow": true, "type": "x"}]}"#, "linux.resources.devices[0].type"),
    ("/linux/resources", r#"{"devices": [{"allow": true, "access": ""}]}"#, "linux.resources.devices"),
    (
        "/linux/resources",
        r#"{"devices": [{"allow": true, "type": "c", "major": -2, "access": "r"}]}"#,
        "invalid major -2",
    ),
    ("/linux/resources", r#"{"memory": {"limit": "1G"}}"#, "linux.resources.memory.limit"),
    ("/linux/resources", r#"{"memory": {"limit": -2}}"#, "linux.resources.memory.limit"),
    ("/linux/resources", r#"{"memory": {"reservation": 1.5}}"#, "linux.resources.memory.reservation"),
    ("/linux/resources", r#"{"memory": {"swap": -2}}"#, "linux.resources.memory.swap"),
    ("/linux/resources", r#"{"memory": {"limit": 2000000, "swap": 1000000}}"#, "linux.resources.memory.swap"),
    ("/linux/resources", r#"{"memory": {"swappiness": 201}}"#, "linux.resources.memory.swappiness"),
    ("/linux/resources", r#"{"memory": {"disableOOMKiller": "yes"}}"#, "linux.resources.memory.disableOOMKiller"),
    ("/linux/resources", r#"{"memory": {"checkBeforeUpdate": 1}}"#, "linux.resources.memory.checkBeforeUpdate"),
    ("/linux/resources", r#"{"cpu": {"shares": -1}}"#, "linux.resources.cpu.shares"),
    ("/linux/resources", r#"{"cpu": {"quota": "max"}}"#, "linux.resources.cpu.quota"),
    ("/linux/resources", r#"{"cpu": {"period": -1}}"#, "linux.resources.cpu.period"),
    ("/linux/resources", r#"{"cpu": {"cpus": 7}}"#, "linux.resources.cpu.cpus"),
    ("/linux/resources", r#"{"cpu": {"idle": 2}}"#, "linux.resources.cpu.idle"),
    ("/linux/resources", r#"{"pids": {"limit": "max"}}"#, "linux.resources.pids.limit"),
    ("/linux/resources", r#"{"pids": 7}"#, "linux.resources.pids"),
    ("/linux/resources", r#"{"blockIO": {"weight": 9}}"#, "linux.resources.blockIO.weight"),
    ("/linux/resources", r#"{"blockIO": {"weight": 1001}}"#, "linux.resources.blockIO.weight"),
    ("/linux/resources", r#"{"blockIO": {"weight": 65536}}"#, "linux.resources.blockIO.weight"),
    (
        "/linux/resources",
        r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
        "linux.resources.blockIO.throttleReadBpsDevice[0].major",
    ),
    ("/linux/resources", r#"{"hugepageLimits": [{"pageSize": 7, "limit": 1}]}"#, "linux.resources.hugepageLimits[0]"),
    (
        "/linux/resources",
        r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}"#,
        "linux.resources.hugepageLimits[0]: pageSize",
    ),
    ("/linux/resources", r#"{"network": {"classID": -1}}"#, "linux.resources.network.classID"),
    ("/linux/resources", r#"{"network": {"priorities": [{"name": 7}]}}"#, "linux.resources.network.priorities[0]"),
    (
        "/linux/resources",
        r#"{"network": {"priorities": [{"name": "lo", "priority": 1}, {"name": "a b", "priority": 1}]}}"#,
        "linux.resources.network.priorities[1].name",
    ),
    ("/linux/resources", r#"{"rdma": []}"#, "linux.resources.rdma"),
    ("/linux/resources", r#"{"rdma": {"mlx 5": {"hcaHandles": 1}}}"#, "linux.resources.rdma: \\\"mlx 5\\\""),
    ("/linux/resources", r#"{"unified": []}"#, "linux.resources.unified"),
    ("/linux/resources", r#"{"unified": {"memory.high": 7}}"#, "linux.resources.unified"),
];

const SECCOMP: &[Row] = &[
    ("/linux/seccomp", "7", "linux.seccomp"),
    ("/linux/seccomp", "{}", "linux.seccomp"),
    ("/linux/seccomp", r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, "linux.seccomp.defaultAction"),
    ("/linux/seccomp", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "linux.seccomp"),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"]}"#,
        "linux.seccomp.architectures[0]",
    ),
    ("/linux/seccomp", r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["NONE"]}"#, "linux.seccomp.flags[0]"),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "agent.sock"}"#,
        "linux.seccomp.listenerPath",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}"#,
        "linux.seccomp.syscalls[0]",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_MAYBE"}]}"#,
        "linux.seccomp.syscalls[0].action",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}]}"#,
        "linux.seccomp.syscalls[0].errnoRet",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
        "linux.seccomp.syscalls[0].args[0].index",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}]}"#,
        "linux.seccomp.syscalls[0].args[0].value",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_LIKE"}]}]}"#,
        "linux.seccomp.syscalls[0].args[0].op",
    ),
];

/// A state directory that cannot be made. A runtime that accepts the field fails with this path instead of the field's
/// name.
const NOWHERE: &str = "/proc/no-state-can-be-here";

#[track_caller]
fn refused(name: &str, rows: &[Row]) {
    if berth_integration::case::skipped_on_runc(name, "it does not name fields, and takes many values as they come") {
        return;
    }
    let runtime = Runtime::new(name);
    let mut failed = vec![];
    for (pointer, value, field) in rows {
        let parsed: Value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{value}: {e}"));
        let bundle = Bundle::probe(&["say", "begun"]).set(pointer, parsed);
        let out = runtime.on("create", "c1", &bundle).global(&["--root", NOWHERE]).wait();
        let named = out.stderr.contains(field) && !out.stderr.contains(NOWHERE);
        if out.code != 1 || !named || out.stderr.lines().count() != 1 {
            failed.push(format!("{pointer} = {value}: no {field} but {} {}", out.code, out.stderr));
        }
    }
    runtime.assert_clean(name);
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

#[test]
fn bad_top_level_fields_are_refused_by_name() {
    refused("bad-top", TOP);
}

#[test]
fn bad_process_fields_are_refused_by_name() {
    refused("bad-process", PROCESS);
}

#[test]
fn bad_mount_fields_are_refused_by_name() {
    refused("bad-mounts", MOUNTS);
}

#[test]
fn bad_linux_fields_are_refused_by_name() {
    refused("bad-linux", LINUX);
}

#[test]
fn bad_resource_fields_are_refused_by_name() {
    refused("bad-resources", RESOURCES);
}

#[test]
fn bad_seccomp_fields_are_refused_by_name() {
    refused("bad-seccomp", SECCOMP);
}

/// A missing feature of the machine is not a fault of the field, and the error says so in runc's words.
#[test]
fn intel_rdt_is_refused_on_a_machine_without_resctrl() {
    if std::path::Path::new("/sys/fs/resctrl").exists() {
        eprintln!("a_machine_without_resctrl: skipped, this one has it");
        return;
    }
    let runtime = Runtime::new("no-rdt");
    for rdt in ["{}", r#"{"closID": "gold", "enableMonitoring": true}"#, r#"{"l3CacheSchema": "L3:0=f"}"#] {
        let bundle = Bundle::probe(&["report"]).set("/linux/intelRdt", serde_json::from_str(rdt).unwrap());
        runtime.run("c1", &bundle).fails(1, &["intelRdt is specified in config, but Intel RDT is not enabled"]);
        runtime.assert_clean(rdt);
    }
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    for (flag, says) in [
        ("--l3-cache-schema=L3:0=f", "Intel RDT/CAT: l3 cache schema is not enabled"),
        ("--mem-bw-schema=MB:0=20", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    ] {
        runtime.cmd(&["update", flag, "c1"]).fails(1, &[says]);
    }
}
