//! A runtime that an unprivileged user calls, and one that root of a user namespace calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::{Bundle, map},
    cgroup,
    console::ConsoleSocket,
    delegation::Delegation,
    procs::{ids, words_of},
    runtime::{Call, Runtime, is_runc, until_executed, wait_until},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    process::Command,
};

/// The uid of the caller, without an entry in passwd.
const USER: u32 = 65_533;
/// A supplementary group of the caller.
const GROUP: u32 = 65_530;

fn runtime(name: &str) -> Runtime {
    Runtime::of_user(name, USER, &GROUP.to_string())
}

fn probe(words: &[&str]) -> Bundle {
    Bundle::probe(words).rootless(USER)
}

/// Makes a call from inside of the delegated cgroup.
fn from<'c>(call: Call<'c>, delegation: &Delegation) -> Call<'c> {
    call.as_root_through(&delegation.inside().iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn rootless_maps_one_id_without_newuidmap() {
    let runtime = runtime("one-id");
    let bundle = probe(&["report", "ids", "caps", "nnp", "dev", "stat=/", "stat=/dev/pts", "+", "signal"]);
    runtime.start("c1", &bundle);
    until_executed(&runtime, "c1");
    let report = || runtime.all_stdout().lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    wait_until(|| report().is_some(), || "no report".to_owned());
    let report = report().unwrap();
    let pid = runtime.pid("c1");
    assert_eq!(ids(pid), [vec![USER; 3], vec![USER; 3]]);
    assert_eq!(words_of(pid, "uid_map"), format!("0 {USER} 1"));
    assert_eq!(words_of(pid, "gid_map"), format!("0 {USER} 1"));
    assert_eq!(words_of(pid, "setgroups"), "deny");
    assert_eq!(fs::metadata(runtime.root().join("c1")).unwrap().uid(), USER);
    runtime.cmd(&["kill", "c1", "TERM"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
    runtime.assert_clean("a container of one id");

    assert_eq!(report["ids"]["uid"], json!([0, 0, 0]), "{report:#}");
    assert_eq!(
        report["ids"]["groups"],
        json!([65534]),
        "the user's own group stays, and has no name inside: {report:#}"
    );
    assert_eq!((&report["nnp"], &report["stat"]["/"]["uid"]), (&json!(1), &json!(0)));
    assert_eq!(report["caps"]["effective"], json!(1 << 29 | 1 << 5 | 1 << 10), "{report:#}");
    for (device, rdev) in [("null", [1, 3]), ("tty", [5, 0]), ("urandom", [1, 9])] {
        let device = &report["dev"][format!("/dev/{device}")];
        assert_eq!((&device["type"], &device["rdev"], &device["uid"]), (&json!("c"), &json!(rdev), &json!(65534)));
    }
}

#[test]
fn rootless_user_can_call_every_verb() {
    let runtime = runtime("verbs");
    let bundle = probe(&["signal"]);
    runtime.create("c1", &bundle).ok();
    assert_eq!(runtime.state("c1")["status"], "created");
    // The namespaces exist before the start.
    let early = runtime.exec("c1", &["/probe", "report", "ids", "namespaces", "fds"]).ok().json();
    assert_eq!(runtime.state("c1")["status"], "created");
    runtime.cmd(&["start", "c1"]).ok();
    until_executed(&runtime, "c1");
    assert_eq!(runtime.state("c1")["status"], "running");
    runtime.cmd(&["start", "c1"]).fails(1, &["cannot start an already running container"]);
    let list = runtime.cmd(&["list"]).ok().stdout;
    assert!(list.contains(&format!("#{USER}")) && list.contains("running"), "{list}");

    let exec = runtime.exec("c1", &["/probe", "report", "ids", "namespaces", "process"]).ok().json();
    assert_eq!(exec["ids"]["uid"], json!([0, 0, 0]));
    assert_eq!(exec["ids"]["groups"], json!([65534]));
    let init = runtime.pid("c1");
    for name in ["user", "mnt", "pid", "ipc", "uts"] {
        let link = fs::read_link(format!("/proc/{init}/ns/{name}")).unwrap();
        assert_eq!(exec["namespaces"][name], link.to_str().unwrap(), "{name}");
        assert_eq!(early["namespaces"][name], link.to_str().unwrap(), "{name}, before the start");
    }
    assert_eq!((&early["ids"], early["fds"].as_object().unwrap().len()), (&exec["ids"], 3), "{early:#}");
    runtime.exec("c1", &["/probe", "exit", "7"]).fails(7, &[]);
    runtime.exec("c1", &["/nothing"]).fails(255, &["no such file or directory"]);

    // Without a cgroup of its own there is nothing to freeze or to limit.
    runtime
        .cmd(&["pause", "c1"])
        .fails(1, &[if cgroup::is_v2() { "" } else { "cgroups not configured for container" }]);
    runtime.cmd(&["update", "--pids-limit", "10", "c1"]).fails(1, &[]);
    let events = runtime.cmd(&["events", "--stats", "c1"]).ok().json();
    assert_eq!((&events["type"], &events["id"]), (&json!("stats"), &json!("c1")));

    runtime.cmd(&["delete", "c1"]).fails(1, &["is not stopped"]);
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
    runtime.cmd(&["kill", "c1", "0"]).fails(1, &["container does not exist"]);
    runtime.assert_clean("delete");

    runtime.create("c2", &bundle).ok();
    runtime.cmd(&["delete", "c2"]).ok();
    runtime.on("run", "c3", &bundle).with(&["--detach"]).wait().ok();
    runtime.cmd(&["delete", "--force", "c3"]).ok();
    runtime.run("c4", &probe(&["exit", "23"])).fails(23, &[]);
    runtime.assert_clean("all of them");
}

#[test]
fn rootless_container_has_a_terminal_and_streams() {
    let runtime = runtime("terminal");
    let console = ConsoleSocket::new(runtime.work());
    chown(console.path(), Some(USER), Some(USER)).unwrap();
    // A user namespace cannot make the node, and the host's node would hide the container's own.
    let bundle = probe(&["report", "tty", "+", "signal"])
        .set("/process/terminal", json!(true))
        .set("/linux/devices", json!([{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]));
    runtime.on("create", "c1", &bundle).with(&["--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    runtime.cmd(&["start", "c1"]).ok();
    until_executed(&runtime, "c1");
    let said = master.read_until("ctty");
    assert!(said.contains(r#""tty":true"#), "{said}");
    runtime.on("exec", "c1", &bundle).wait().fails(1, &[]);
    let out = runtime.exec("c1", &["/probe", "say", "to", "stdout", "+", "complain", "to", "stderr"]).ok();
    assert_eq!((out.stdout.trim(), out.stderr.trim()), ("to stdout", "to stderr"));
}

#[test]
fn rootless_hooks_run_as_the_user() {
    let runtime = runtime("hooks");
    let said = runtime.work().join("said");
    fs::write(&said, "").unwrap();
    chown(&said, Some(USER), None).unwrap();
    let line = format!("cat > /dev/null; echo $0 $(id -u) $(cat /proc/self/uid_map) >> {}", said.display());
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": [name, "-c", line, name]}]);
    let hooks = json!({"createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
        "poststop": hook("poststop")});
    runtime.run("c1", &probe(&["exit", "0"]).set("/hooks", hooks)).ok();
    let own = fs::read_to_string("/proc/self/uid_map").unwrap();
    let own = own.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = ["createRuntime", "poststart", "poststop"].map(|hook| format!("{hook} {USER} {own}"));
    assert_eq!(fs::read_to_string(&said).unwrap().lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn rootless_sets_oom_score_and_time_offsets() {
    let runtime = runtime("legacy");
    let bundle = probe(&["signal"])
        .set("/process/oomScoreAdj", json!(900))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}}))
        .namespace("time", "");
    runtime.start("c1", &bundle);
    until_executed(&runtime, "c1");
    let pid = runtime.pid("c1");
    assert_eq!(words_of(pid, "oom_score_adj"), "900");
    assert_eq!(words_of(pid, "timens_offsets"), "monotonic 0 0 boottime 1000000 0");
    assert_eq!(runtime.exec("c1", &["/probe", "report", "oom"]).ok().json()["oom"], "900");
    let lower = probe(&["exit", "0"]).set("/process/oomScoreAdj", json!(-900));
    runtime.run("c2", &lower).fails(1, &[if is_runc() { "" } else { "process.oomScoreAdj" }]);
}

#[test]
fn rootless_container_joins_namespaces_of_another() {
    let runtime = runtime("pod");
    runtime.start("pod", &probe(&["signal"]));
    until_executed(&runtime, "pod");
    let pid = runtime.pid("pod");
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    let bundle = probe(&["signal"])
        .namespace("user", &path("user"))
        .namespace("ipc", &path("ipc"))
        .namespace("uts", &path("uts"))
        .unset("/hostname");
    runtime.start("c1", &bundle);
    until_executed(&runtime, "c1");
    let member = runtime.pid("c1");
    for (name, same) in [("user", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
        let [pod, own] = [pid, member].map(|pid| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
        assert_eq!(pod == own, same, "{name}");
    }
    assert_eq!(runtime.exec("c1", &["/probe", "report", "ids"]).ok().json()["ids"]["uid"], json!([0, 0, 0]));
}

#[test]
fn rootless_without_cgroup_access_stays_in_the_callers_cgroup() {
    let runtime = runtime("no-cgroup");
    let here = fs::read_to_string("/proc/self/cgroup").unwrap();
    runtime.start("c1", &probe(&["signal"]));
    until_executed(&runtime, "c1");
    let pid = runtime.pid("c1");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(), here, "it stays where its maker is");

    let limited = || probe(&["exit", "0"]).set("/linux/resources", json!({"pids": {"limit": 20}}));
    let says = match cgroup::is_v2() {
        true => "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
        false => "cannot set pids limit: container could not join or create cgroup",
    };
    runtime.create("c2", &limited()).fails(1, &[says]);
    let named = probe(&["exit", "0"]).set("/linux/cgroupsPath", json!(runtime.cgroup("c3")));
    runtime.create("c3", &named).fails(1, &["unable to apply cgroup configuration", "permission denied"]);
    runtime.on("create", "c4", &probe(&[])).global(&["--rootless", "false"]).wait().fails(1, &["permission denied"]);
    runtime.on("run", "c5", &probe(&["exit", "5"])).global(&["--rootless", "true"]).wait().fails(5, &[]);
    assert_eq!(runtime.ids(), ["c1"]);
}

#[test]
fn rootless_uses_a_delegated_cgroup_by_path() {
    let runtime = runtime("delegated");
    let delegation = Delegation::new(&runtime.cgroup("user"), USER);
    let path = format!("{}/c1", delegation.path());
    let bundle = probe(&["signal"])
        .set("/linux/cgroupsPath", json!(path))
        .set("/linux/resources", json!({"pids": {"limit": 20}, "memory": {"limit": 50 << 20}}));
    from(runtime.on("create", "c1", &bundle), &delegation).wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    until_executed(&runtime, "c1");
    let limits = || {
        [("pids/pids.max", "pids.max"), ("memory/memory.limit_in_bytes", "memory.max")]
            .map(|(v1, v2)| cgroup::value(&path, v1, v2))
    };
    assert_eq!(limits(), ["20".to_owned(), (50 << 20).to_string()]);
    let pid = runtime.pid("c1").cast_signed();
    assert_eq!(cgroup::processes(&path), [pid]);
    let ps: Value = serde_json::from_str(&runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout).unwrap();
    assert_eq!(ps, json!([pid]));

    from(runtime.call(&["exec", "--detach", "c1", "/probe", "signal"]), &delegation).wait().ok();
    // runc goes on if it could not put init into the cgroup.
    if !is_runc() {
        assert_eq!(cgroup::processes(&path).len(), 2, "the exec is in it");
    }
    runtime.cmd(&["update", "--pids-limit", "30", "--memory", "60M", "c1"]).ok();
    assert_eq!(limits(), ["30".to_owned(), (60 << 20).to_string()]);
    runtime.cmd(&["pause", "c1"]).ok();
    assert!(cgroup::frozen(&path));
    assert_eq!(runtime.state("c1")["status"], "paused");
    runtime.cmd(&["resume", "c1"]).ok();
    assert!(!cgroup::frozen(&path));
    let events = runtime.cmd(&["events", "--stats", "c1"]).ok().json();
    assert_eq!(events["data"]["pids"]["limit"], 30, "{events}");

    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(cgroup::directories(&path).is_empty(), "{:?}", cgroup::directories(&path));
    drop(delegation);
    without_own_cgroup(&runtime);
}

#[test]
fn rootless_uses_a_delegated_cgroup_without_a_path() {
    let runtime = runtime("beside");
    let delegation = Delegation::new(&runtime.cgroup("user"), USER);
    let bundle = probe(&["signal"]).set("/linux/resources", json!({"pids": {"limit": 20}}));
    from(runtime.on("create", "c1", &bundle), &delegation).wait().ok();
    let below = if cgroup::is_v2() { "c1" } else { "caller/c1" };
    let path = format!("{}/{below}", delegation.path());
    assert_eq!(cgroup::value(&path, "pids/pids.max", "pids.max"), "20");
    assert_eq!(cgroup::processes(&path), [runtime.pid("c1").cast_signed()]);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(cgroup::directories(&path).is_empty());
    drop(delegation);
    without_own_cgroup(&runtime);
}

/// Removes the test's own cgroups and checks that nothing is left.
fn without_own_cgroup(runtime: &Runtime) {
    let path = runtime.cgroup("");
    for dir in cgroup::directories(path.trim_end_matches('/')).iter().rev() {
        let _ = fs::remove_dir(dir);
    }
    runtime.assert_clean("the delegated cgroup");
}

#[test]
fn rootless_refusals_have_the_words_of_runc() {
    let runtime = runtime("refused");
    let tmpfs = |option: &str| probe(&[]).mount("/mnt", "tmpfs", "tmpfs", &[option]);
    let source = runtime.work().to_str().unwrap().to_owned();
    let mut idmapped = json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind"]});
    idmapped["uidMappings"] = map(0, USER, 1);
    idmapped["gidMappings"] = map(0, USER, 1);
    let rows: [(Bundle, &str); 8] = [
        (
            probe(&[]).host_namespace("user").unset("/linux/uidMappings").unset("/linux/gidMappings"),
            "rootless container requires user namespaces",
        ),
        (probe(&[]).unset("/linux/uidMappings"), "no uid mappings found"),
        (probe(&[]).unset("/linux/gidMappings"), "no gid mappings found"),
        (tmpfs("uid=7"), "cannot specify uid=7 mount option for rootless container"),
        (tmpfs("gid=5"), "cannot specify gid=5 mount option for rootless container"),
        (probe(&[]).set("/mounts/-", idmapped), "id-mapped mounts are not supported for rootless containers"),
        (
            probe(&[]).set("/process/user/additionalGids", json!([5])),
            "cannot set any additional groups in a rootless container",
        ),
        (
            probe(&[]).namespace("network", "").set("/linux/netDevices", json!({"berth-none": {}})),
            "network devices are not supported for rootless containers",
        ),
    ];
    for (bundle, says) in rows {
        runtime.create("c1", &bundle).fails(1, &[says]);
        runtime.assert_clean(says);
    }
}

#[test]
fn rootless_names_a_mount_that_a_user_namespace_cannot_make() {
    let runtime = runtime("mounts");
    let rows = [
        (
            probe(&[]).unmount("/sys").mount("/sys", "sysfs", "sysfs", &["ro"]),
            r#"error mounting \"sysfs\" to rootfs at \"/sys\""#,
        ),
        (probe(&[]).mount("/mnt", "ext4", "/dev/null", &[]), r#"error mounting \"/dev/null\" to rootfs at \"/mnt\""#),
        (probe(&[]).host_namespace("pid"), r#"error mounting \"proc\" to rootfs at \"/proc\""#),
    ];
    for (bundle, says) in rows {
        runtime.create("c1", &bundle).fails(1, &[says]);
        runtime.assert_clean(says);
    }
}

/// An engine calls the runtime so after it made a user namespace for itself.
#[test]
fn root_of_a_user_namespace_runs_containers() {
    let runtime = runtime("nested");
    let words = ["unshare", "--user", "--map-root-user", "--mount"];
    let bundle = probe(&["report", "ids", "dev", "+", "exit", "3"])
        .host_namespace("user")
        .unset("/linux/uidMappings")
        .unset("/linux/gidMappings");
    let out = runtime.on("run", "c1", &bundle).through(&words).wait().fails(3, &[]);
    let report = out.json();
    assert_eq!(report["ids"]["uid"], json!([0, 0, 0]));
    assert_eq!(report["dev"]["/dev/null"]["rdev"], json!([1, 3]), "bound, for nobody may make it: {report:#}");
    runtime.assert_clean("a container in a user namespace");
}

#[test]
fn rootless_systemd_driver_without_a_bus_is_refused() {
    let runtime = runtime("no-systemd");
    let create = |cgroups_path: &str| {
        let bundle = probe(&["signal"]).set("/linux/cgroupsPath", json!(cgroups_path));
        let call = runtime.on("create", "c1", &bundle).global(&["--systemd-cgroup"]);
        call.env("DBUS_SESSION_BUS_ADDRESS", "").env("XDG_RUNTIME_DIR", "").wait()
    };
    let says = match cgroup::is_v2() {
        true => "DBUS_SESSION_BUS_ADDRESS",
        false => "cannot use rootless systemd cgroups manager on cgroup v1",
    };
    // runc looks for /run/systemd/system first.
    let says = if is_runc() && !Path::new("/run/systemd/system").exists() { "systemd" } else { says };
    create("").fails(1, &[says]);
    create("user.slice:berth:c1").fails(1, &[says]);
    runtime.assert_clean("a refused create");
}

#[test]
fn rootless_state_is_in_xdg_runtime_dir() {
    let runtime = runtime("xdg");
    let dir = runtime.work().join("xdg");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(USER), Some(USER)).unwrap();
    let (first, rest) = runtime.as_user().split_first().unwrap();
    let list = |variable: &str| {
        let mut command = Command::new(first);
        command.args(rest).arg(runtime.program()).arg("list").env_remove("USER").env("XDG_RUNTIME_DIR", variable);
        command.output().unwrap()
    };
    let out = list(dir.to_str().unwrap());
    assert!(out.status.success(), "{out:?}");
    let name = if is_runc() { "runc" } else { "berth" };
    let made = fs::metadata(dir.join(name)).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (USER, 0o1700));
    let out = list("/proc");
    assert!(!out.status.success(), "{out:?}");
}
