//! The processes of a container and their end: an init outside of its container's cgroup, a process whose first thread
//! has ended, and a delete that cannot end or remove everything.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]
#![allow(clippy::disallowed_methods, reason = "strangers to the containers are ordinary processes")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup::{self, OtherCgroup},
    procs,
    runtime::{Runtime, is_runc, wait_until},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command},
};

/// Opens a pidfd of a process that is to end, since its pid may be reused.
fn hold(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
}

fn ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).unwrap() > 0
}

/// Returns the container's own cgroup directories, without those below.
fn own_directories(runtime: &Runtime, id: &str) -> Vec<PathBuf> {
    let path = runtime.cgroup(id);
    cgroup::directories(&path).into_iter().filter(|dir| dir.ends_with(path.trim_start_matches('/'))).collect()
}

/// A process of the test that is not in the container.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A container with its own pid namespace, and one in the host's, where only a kill of its processes ends it.
fn pid_namespaces(words: &[&str]) -> [(&'static str, Bundle); 2] {
    [("own pids", Bundle::probe(words)), ("the host's pids", Bundle::probe(words).host_namespace("pid"))]
}

/// runc#5089, #5117, #4812: the container was forgotten while its process lived.
#[test]
fn force_delete_ends_an_init_outside_its_cgroup() {
    for (version, runtime) in Runtime::in_each_cgroup_version("moved") {
        for (pids, bundle) in pid_namespaces(&["sleep", "1000"]) {
            if is_runc() && pids == "the host's pids" {
                eprintln!("skipped on runc: it gives up after ten seconds");
                continue;
            }
            for removed in [false, true] {
                let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
                runtime.start("c1", &bundle);
                let init = hold(runtime.pid("c1"));
                elsewhere.move_here(runtime.pid("c1"));
                if removed {
                    own_directories(&runtime, "c1").iter().for_each(|dir| fs::remove_dir(dir).unwrap());
                }
                runtime.cmd(&["delete", "--force", "c1"]).ok();
                assert!(ended(&init), "{version}, {pids}, cgroup removed: {removed}");
                assert!(runtime.ids().is_empty());
                drop(elsewhere);
                runtime.assert_clean(&format!("{version}, {pids}, cgroup removed: {removed}"));
            }
        }
    }
}

/// A process that was moved in some v1 hierarchies still belongs to the container by the others.
#[test]
fn force_delete_ends_a_process_left_in_one_v1_hierarchy() {
    if cgroup::is_v2() || skipped_on_runc("one hierarchy", "it looks in one only") {
        return;
    }
    let runtime = Runtime::new("one-hierarchy");
    let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
    runtime.start("c1", &Bundle::probe(&["orphans", "1", "1000", "+", "sleep", "1000"]).host_namespace("pid"));
    let path = runtime.cgroup("c1");
    wait_until(|| cgroup::processes(&path).len() == 2, || format!("{:?}", cgroup::processes(&path)));
    let init = runtime.pid("c1");
    let orphan = cgroup::processes(&path).into_iter().find(|pid| *pid != init.cast_signed()).unwrap().cast_unsigned();
    let held = hold(orphan);
    elsewhere.move_here(orphan);
    let memory = PathBuf::from("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')).join("cgroup.procs");
    fs::write(memory, orphan.to_string()).unwrap();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(ended(&held));
}

#[test]
fn signals_reach_an_init_outside_its_cgroup() {
    let rows: [(&[&str], &str); 3] = [
        (&["kill", "c1", "KILL"], ""),
        (&["kill", "c1", "TERM"], "{\"signal\":15}\n"),
        (&["kill", "--all", "c1", "TERM"], "{\"signal\":15}\n"),
    ];
    for (version, runtime) in Runtime::in_each_cgroup_version("moved-kill") {
        for (words, says) in rows {
            for (pids, bundle) in pid_namespaces(&["say", "ready", "+", "signal"]) {
                if is_runc() && (words[1] == "--all" || pids == "the host's pids") {
                    eprintln!("skipped on runc: it asks the cgroup alone");
                    continue;
                }
                let what = format!("{version}, {pids}, {words:?}");
                let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
                let number = start_ready(&runtime, &bundle);
                let init = hold(runtime.pid("c1"));
                elsewhere.move_here(runtime.pid("c1"));
                runtime.cmd(words).ok();
                wait_until(|| ended(&init), || format!("{what}: lives"));
                assert_eq!(runtime.stdout_of(number), format!("ready\n{says}"), "{what}");
                runtime.cmd(&["delete", "c1"]).ok();
            }
        }
    }
}

/// A real-time signal, which is queued, must not be sent twice to an init in the cgroup.
#[test]
fn kill_all_signals_init_once() {
    for (version, runtime) in Runtime::in_each_cgroup_version("once") {
        for (pids, bundle) in pid_namespaces(&["say", "ready", "+", "await", "+", "await"]) {
            let number = start_ready(&runtime, &bundle);
            runtime.cmd(&["kill", "--all", "c1", "40"]).ok();
            runtime.cmd(&["kill", "c1", "41"]).ok();
            runtime.until("c1", "stopped");
            assert_eq!(runtime.stdout_of(number), "ready\n{\"signal\":40}\n{\"signal\":41}\n", "{version}, {pids}");
            runtime.cmd(&["delete", "c1"]).ok();
        }
    }
}

/// A caller may open fewer descriptors than the container has processes.
#[test]
fn kill_all_reaches_more_processes_than_it_may_open() {
    if skipped_on_runc("kill_all_reaches_more_processes_than_it_may_open", "its --all has no effect on TERM") {
        return;
    }
    let runtime = Runtime::new("few-descriptors");
    let words = ["children", "40", "1000", "+", "say", "ready", "+", "sleep", "1000"];
    for (pids, bundle) in pid_namespaces(&words) {
        start_ready(&runtime, &bundle);
        let init = runtime.pid("c1").cast_signed();
        let all = cgroup::processes(&runtime.cgroup("c1"));
        let children: Vec<OwnedFd> =
            all.iter().filter(|pid| **pid != init).map(|pid| hold(pid.cast_unsigned())).collect();
        assert_eq!(children.len(), 40, "{pids}");
        let few = ["/bin/sh", "-c", "ulimit -n 30; exec \"$0\" \"$@\""];
        runtime.call(&["kill", "--all", "c1", "TERM"]).through(&few).wait().ok();
        wait_until(|| children.iter().all(ended), || format!("{pids}: a child has not got the signal"));
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
}

/// Creates and starts a container whose probe prints `ready` once it loses no signal. Returns the number of the call.
fn start_ready(runtime: &Runtime, bundle: &Bundle) -> u32 {
    let call = runtime.on("create", "c1", bundle).spawn();
    let number = call.number;
    call.wait().ok();
    runtime.cmd(&["start", "c1"]).ok();
    wait_until(|| runtime.stdout_of(number).starts_with("ready\n"), || "the probe is never ready".into());
    number
}

/// v1's freezer delays even SIGKILL, so a container in a frozen cgroup cannot be ended yet.
#[test]
fn force_delete_waits_for_the_end_of_init() {
    let runtime = Runtime::new("undying");
    let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
    runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
    let pid = runtime.pid("c1");
    let init = hold(pid);
    elsewhere.move_here(pid);
    if !elsewhere.freeze(true) {
        eprintln!("skipped: no v1 freezer");
        return;
    }
    let delete = runtime.call(&["delete", "--force", "c1"]).spawn();
    let killed = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).map(str::trim);
        pending.is_some_and(|mask| u64::from_str_radix(mask, 16).unwrap() & 1 << 8 != 0)
    };
    wait_until(killed, || "SIGKILL is never sent".into());
    assert_eq!(runtime.ids(), ["c1"], "it is on record while it lives");
    elsewhere.freeze(false);
    delete.wait().ok();
    assert!(ended(&init));
    assert!(runtime.ids().is_empty());
}

#[test]
fn pause_is_refused_where_the_freezer_does_not_reach_init() {
    if skipped_on_runc("pause", "it says that the container is paused") {
        return;
    }
    for (version, runtime) in Runtime::in_each_cgroup_version("moved-pause") {
        let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
        runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
        elsewhere.move_here(runtime.pid("c1"));
        runtime.cmd(&["pause", "c1"]).fails(1, &["cannot pause container c1", "is not in its cgroup"]);
        assert_eq!(runtime.state("c1")["status"], "running", "{version}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
}

#[test]
fn ps_shows_an_init_outside_its_cgroup() {
    if skipped_on_runc("ps", "it shows the cgroup") {
        return;
    }
    for (version, runtime) in Runtime::in_each_cgroup_version("moved-ps") {
        let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
        runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
        let pid = runtime.pid("c1");
        let pids = |runtime: &Runtime| runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout;
        let before = pids(&runtime);
        elsewhere.move_here(pid);
        assert_eq!((pids(&runtime), before), (format!("[{pid}]\n"), format!("[{pid}]\n")), "{version}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
}

/// runc#5101.
#[test]
fn exec_joins_the_cgroup_of_init_if_the_containers_is_gone() {
    for (version, runtime) in Runtime::in_each_cgroup_version("moved-exec") {
        if is_runc() && version == "cgroup v1" {
            eprintln!("skipped on runc: it fails on v1");
            continue;
        }
        let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
        runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
        let pid = runtime.pid("c1");
        elsewhere.move_here(pid);
        own_directories(&runtime, "c1").iter().for_each(|dir| fs::remove_dir(dir).unwrap());
        let report = runtime.exec("c1", &["/probe", "report", "cgroup"]).ok().json();
        let seen = report["cgroup"].as_array().unwrap();
        let there = seen.iter().filter(|line| line.as_str().unwrap().ends_with("/elsewhere")).count();
        assert!(there >= if version == "cgroup v1" { 8 } else { 1 }, "{version}: {report}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
}

/// gvisor#14645, runc#5431: /proc/PID/stat shows the state of the first thread.
#[test]
fn container_runs_on_after_its_first_thread_has_ended() {
    if skipped_on_runc("headless", "it takes the container for stopped") {
        return;
    }
    for (version, runtime) in Runtime::in_each_cgroup_version("headless") {
        for (pids, bundle) in pid_namespaces(&["headless", "+", "signal"]) {
            let what = format!("{version}, {pids}");
            runtime.start("c1", &bundle);
            let pid = runtime.pid("c1");
            wait_until(|| !procs::alive(pid.cast_signed()), || format!("{what}: the first thread lives"));
            assert_eq!(runtime.state("c1")["status"], "running", "{what}");
            let list: Value = serde_json::from_str(&runtime.cmd(&["list", "--format", "json"]).ok().stdout).unwrap();
            assert_eq!((&list[0]["status"], &list[0]["pid"]), (&json!("running"), &json!(pid)), "{what}");
            assert_eq!(runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout, format!("[{pid}]\n"), "{what}");
            runtime.cmd(&["delete", "c1"]).fails(1, &["that is not stopped: running"]);
            runtime.cmd(&["pause", "c1"]).ok();
            assert_eq!(runtime.state("c1")["status"], "paused", "{what}");
            runtime.cmd(&["resume", "c1"]).ok();
            if version == "cgroup v1" {
                runtime.cmd(&["update", "--pids-limit", "50", "c1"]).ok();
            }
            let report = runtime.exec("c1", &["/probe", "report", "namespaces"]).ok().json();
            assert_eq!(report["namespaces"]["mnt"], namespace(pid, "mnt"), "{what}");
            assert_eq!(report["namespaces"]["net"], namespace(pid, "net"), "{what}");
            assert_eq!(report["namespaces"]["pid"], namespace(pid, "pid"), "{what}");
            runtime.cmd(&["kill", "c1", "TERM"]).ok();
            runtime.until("c1", "stopped");
            runtime.cmd(&["delete", "c1"]).ok();
            // A force delete ends all its threads.
            runtime.start("c1", &bundle);
            let (pid, init) = (runtime.pid("c1"), hold(runtime.pid("c1")));
            wait_until(|| !procs::alive(pid.cast_signed()), || format!("{what}: the first thread lives"));
            runtime.cmd(&["delete", "--force", "c1"]).ok();
            assert!(ended(&init), "{what}");
            runtime.assert_clean(&what);
        }
    }
}

/// Returns a namespace of a live thread, in the form of the probe's report.
fn namespace(pid: u32, kind: &str) -> Value {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let link = tasks.filter_map(|task| fs::read_link(task.path().join("ns").join(kind)).ok()).next().unwrap();
    json!(link.to_str().unwrap())
}

/// The record stays as long as a cgroup stays, the error names everything, and the next delete goes on.
#[test]
fn delete_that_leaves_a_cgroup_can_be_repeated() {
    for (version, runtime) in Runtime::in_each_cgroup_version("busy") {
        let elsewhere = OtherCgroup::new(&runtime.cgroup("elsewhere"));
        runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
        let directories = own_directories(&runtime, "c1");
        runtime.cmd(&["kill", "c1", "KILL"]).ok();
        runtime.until("c1", "stopped");
        let stranger = Stranger::new();
        let busy: Vec<_> = match directories.iter().filter(|dir| dir.exists()).collect::<Vec<_>>()[..] {
            [first, .., last] if version == "cgroup v1" => vec![first, last],
            [first, ..] => vec![first],
            [] => panic!("{version}: no cgroup"),
        };
        busy.iter().for_each(|dir| fs::write(dir.join("cgroup.procs"), stranger.pid().to_string()).unwrap());
        let failed = runtime.cmd(&["delete", "c1"]).fails(1, &["cgroup"]);
        // The runtime may see the v2 hierarchy at another path.
        let name = |dir: &PathBuf| dir.to_str().unwrap().replace("/unified/", "/");
        for dir in busy.iter().map(|dir| name(dir)).filter(|_| !is_runc()) {
            assert!(failed.stderr.replace("/unified/", "/").contains(&dir), "{version}: no {dir} in {failed:#?}");
        }
        assert_eq!(runtime.state("c1")["status"], "stopped", "{version}");
        assert!(procs::alive(stranger.pid().cast_signed()), "{version}");
        elsewhere.move_here(stranger.pid());
        runtime.cmd(&["delete", "c1"]).ok();
        assert!(own_directories(&runtime, "c1").is_empty(), "{version}");
        drop(elsewhere);
        runtime.assert_clean(version);
    }
}

/// After a reboot the pid, and the cgroup by its path, may belong to another process.
#[test]
fn container_of_another_boot_is_stopped_and_its_cgroup_left_alone() {
    if skipped_on_runc("boot", "it has no boot on record") {
        return;
    }
    for (version, runtime) in Runtime::in_each_cgroup_version("boot") {
        runtime.start("c1", &Bundle::probe(&["sleep", "1000"]).host_namespace("pid"));
        let pid = runtime.pid("c1");
        let file = runtime.root().join("c1/state.json");
        let record = fs::read_to_string(&file).unwrap();
        let of_boot = |boot: &str| {
            let mut state: Value = serde_json::from_str(&record).unwrap();
            assert!(state["boot"].is_string());
            state["boot"] = json!(boot);
            fs::write(&file, state.to_string()).unwrap();
        };
        of_boot("");
        assert_eq!(runtime.state("c1")["status"], "running", "{version}: a record that knows no boot");
        of_boot("00000000-0000-0000-0000-000000000000");
        assert_eq!(runtime.state("c1")["status"], "stopped", "{version}");
        runtime.cmd(&["kill", "c1", "KILL"]).fails(1, &["container not running"]);
        runtime.cmd(&["kill", "--all", "c1", "KILL"]).ok();
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        assert!(runtime.ids().is_empty());
        assert!(procs::alive(pid.cast_signed()), "{version}");
        assert!(!own_directories(&runtime, "c1").is_empty(), "{version}");
        procs::kill(pid.cast_signed(), Signal::KILL);
        cgroup::kill_and_remove(&runtime.cgroup("c1"));
    }
}

/// A record of a later version: berth does not delete it while the process in it lives.
#[test]
fn force_delete_keeps_an_unknown_record_while_its_process_lives() {
    if skipped_on_runc("records", "its records are its own") {
        return;
    }
    let runtime = Runtime::new("foreign");
    runtime.start("c1", &Bundle::probe(&["sleep", "1000"]));
    let init = hold(runtime.pid("c1"));
    let file = runtime.root().join("c1/state.json");
    let record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let unknown = json!({"version": 99, "pid": record["pid"], "start_time": record["start_time"]});
    fs::write(&file, unknown.to_string()).unwrap();
    runtime.cmd(&["delete", "c1"]).fails(1, &["version 99"]);
    runtime.cmd(&["delete", "--force", "c1"]).fails(1, &["is not understood", "runs"]);
    assert!(!ended(&init));
    let mut grown = record;
    grown["version"] = json!(99);
    grown["more"] = json!({});
    fs::write(&file, grown.to_string()).unwrap();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(ended(&init));
    runtime.assert_clean("a foreign record");
}
