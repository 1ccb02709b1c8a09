//! The processes of a container and their end, through the task service and the shim's `delete`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    cgroup::OtherCgroup,
    procs,
    shim::Shim,
    wait::{LONG, until_true},
};
use berth_proto::ttrpc::Code;
use rustix::process::Signal;
use std::time::Duration;

/// The time that containerd gives `delete` before it kills it.
const CONTAINERDS_PATIENCE: Duration = Duration::from_secs(5);

fn alive(pid: u32) -> bool {
    procs::alive(pid.cast_signed())
}

fn kill_shim(shim: &Shim) {
    procs::kill(shim.pid, Signal::KILL);
    until_true("the shim to die", LONG, || !procs::alive(shim.pid));
}

/// containerd#11984: Kill succeeded without a signal to any process.
#[test]
fn kill_ends_an_init_moved_to_another_cgroup() {
    let shim = Shim::start("moved");
    let elsewhere = OtherCgroup::new(&shim.cgroup("elsewhere"));
    for (n, all) in [false, true].into_iter().enumerate() {
        let id = format!("c{n}");
        let pid = shim.run(&id, &Bundle::probe(&["sleep", "1000"]).host_namespace("pid"));
        elsewhere.move_here(pid);
        assert_eq!(shim.pids(&id).unwrap(), [(pid, None)]);
        shim.kill(&id, "", 9, all).unwrap();
        assert_eq!(shim.status(&id, ""), 137);
        shim.delete(&id, "").unwrap();
    }
    drop(elsewhere);
    shim.assert_clean();
}

/// The exit event of init would never come if it waited for an exec that no process ends.
#[test]
fn exec_moved_to_another_cgroup_ends_with_init() {
    let shim = Shim::start("moved-exec");
    let elsewhere = OtherCgroup::new(&shim.cgroup("elsewhere"));
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]).host_namespace("pid"));
    let exec = shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    elsewhere.move_here(exec);
    shim.kill("c1", "", 9, false).unwrap();
    assert_eq!((shim.status("c1", "e1"), shim.status("c1", "")), (137, 137));
    shim.delete("c1", "").unwrap();
    drop(elsewhere);
    shim.assert_clean();
}

#[test]
fn delete_action_ends_an_init_moved_to_another_cgroup() {
    for (what, bundle) in [
        ("own pids", Bundle::probe(&["sleep", "1000"])),
        ("the host's pids", Bundle::probe(&["sleep", "1000"]).host_namespace("pid")),
    ] {
        let shim = Shim::start("moved-crash");
        let elsewhere = OtherCgroup::new(&shim.cgroup("elsewhere"));
        let pid = shim.run("c1", &bundle);
        elsewhere.move_here(pid);
        kill_shim(&shim);
        let answer = shim.delete_action("c1", bundle.path());
        assert_eq!((answer.pid, answer.exit_status), (pid, 137), "{what}");
        assert!(!alive(pid), "{what}");
        drop(elsewhere);
        shim.assert_clean();
    }
}

/// A delete that cannot end init fails. The record stays, and the next call ends init.
#[test]
fn delete_action_fails_in_time_while_init_lives() {
    let shim = Shim::start("undying");
    let elsewhere = OtherCgroup::new(&shim.cgroup("elsewhere"));
    let bundle = Bundle::probe(&["sleep", "1000"]);
    let pid = shim.run("c1", &bundle);
    kill_shim(&shim);
    elsewhere.move_here(pid);
    if !elsewhere.freeze(true) {
        eprintln!("skipped: no v1 freezer, which is what holds back SIGKILL");
        shim.delete_action("c1", bundle.path());
        return;
    }
    let failed = shim.try_delete_action("c1", bundle.path(), CONTAINERDS_PATIENCE).expect("an end in time");
    assert!(!failed.status.success(), "{failed}");
    assert!(failed.stderr.contains("still running"), "{failed}");
    assert!(alive(pid) && shim.state_dir("c1").exists());
    elsewhere.freeze(false);
    until_true("init to end", LONG, || !alive(pid));
    assert_eq!(shim.delete_action("c1", bundle.path()).pid, pid);
    drop(elsewhere);
    shim.assert_clean();
}

/// gvisor#14645: Kill reported no process, and the pod stayed in Terminating.
#[test]
fn shim_serves_a_container_whose_first_thread_has_ended() {
    let shim = Shim::start("headless");
    let bundle = Bundle::probe(&["headless", "+", "signal"]);
    let pid = shim.run("c1", &bundle);
    // procs::alive looks at the first thread.
    until_true("the first thread to end", LONG, || !alive(pid));
    assert_eq!((shim.phase("c1", ""), shim.pids("c1").unwrap()), ("RUNNING".into(), vec![(pid, None)]));
    shim.delete("c1", "").unwrap_err().is(Code::FAILED_PRECONDITION, &["running"]);
    shim.pause("c1").unwrap();
    shim.resume("c1").unwrap();
    shim.update("c1", r#"{"pids":{"limit":50}}"#).unwrap();
    shim.run_exec("c1", "e1", &["/probe", "exit", "7"], None);
    assert_eq!(shim.status("c1", "e1"), 7);
    shim.kill("c1", "", 15, false).unwrap();
    assert_eq!(shim.status("c1", ""), 128 + 15);
    shim.delete("c1", "").unwrap();
    let pid = shim.run("c2", &bundle);
    until_true("the first thread to end", LONG, || !alive(pid));
    shim.kill("c2", "", 9, true).unwrap();
    assert_eq!(shim.status("c2", ""), 137);
    shim.delete("c2", "").unwrap();
    shim.assert_clean();
}
