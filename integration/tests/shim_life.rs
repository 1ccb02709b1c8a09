//! The life of a container through the task service: states, events, metrics, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    cgroup,
    shim::{CALL, Shim},
    wait::{LONG, until_true},
};
use berth_proto::{Message, any, metrics, runc, task::ConnectRequest, ttrpc::Code};
use std::fs;

#[test]
fn container_lives_from_create_to_delete() {
    let shim = Shim::start("life");
    let bundle = Bundle::probe(&["exit", "42"]);
    let pid = shim.create("c1", &bundle).unwrap();
    assert_eq!(fs::read_to_string(bundle.path().join("init.pid")).unwrap(), pid.to_string());
    let exe = fs::read_to_string(bundle.path().join("shim-binary-path")).unwrap();
    assert!(exe.ends_with("/containerd-shim-berth-v2"), "{exe}");
    let state = shim.state("c1", "").unwrap();
    assert_eq!((state.pid, shim.phase("c1", "").as_str()), (pid, "CREATED"));
    assert_eq!(state.bundle, bundle.path().to_str().unwrap());
    assert_eq!(shim.start_process("c1", "").unwrap(), pid);
    let exit = shim.wait("c1", "").unwrap();
    assert_eq!(exit.exit_status, 42);
    let state = shim.state("c1", "").unwrap();
    assert_eq!((state.exit_status, &state.exited_at), (42, &exit.exited_at));
    assert_eq!(shim.phase("c1", ""), "STOPPED");
    // A restarted containerd would take an empty list as a leaked shim.
    assert_eq!(shim.pids("c1").unwrap(), [(pid, None)]);
    let deleted = shim.delete("c1", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status, &deleted.exited_at), (pid, 42, &exit.exited_at));
    shim.delete("c1", "").unwrap_err().is(Code::NOT_FOUND, &["c1"]);
    shim.events.until("delete c1");
    assert_eq!(shim.events.words(), ["create c1", "start c1", "exit c1/c1 42", "delete c1"]);
    assert_eq!(shim.events.exits("c1")[0].exited_at, exit.exited_at);
    shim.assert_clean();
    shim.shut_down();
}

#[test]
fn container_that_never_started_can_be_deleted() {
    let shim = Shim::start("unstarted");
    let pid = shim.create("c1", &Bundle::probe(&["exit", "0"])).unwrap();
    let deleted = shim.delete("c1", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(shim.events.until("delete c1"), ["create c1", "exit c1/c1 137", "delete c1"]);
    shim.assert_clean();
}

#[test]
fn created_container_can_be_killed() {
    let shim = Shim::start("unborn");
    shim.create("c1", &Bundle::probe(&["exit", "0"])).unwrap();
    shim.kill("c1", "", 9, false).unwrap();
    assert_eq!(shim.status("c1", ""), 137);
    shim.start_process("c1", "").unwrap_err().is(Code::FAILED_PRECONDITION, &["stopped"]);
    shim.delete("c1", "").unwrap();
}

#[test]
fn missing_program_fails_create_or_start() {
    let shim = Shim::start("noexec");
    let bundle = Bundle::probe(&[]).args(&["/nowhere"]);
    match shim.create("c1", &bundle) {
        // runc finds the fault at create, and berth may do so as well.
        Err(failure) => assert!(failure.message.starts_with("OCI runtime create failed: "), "{failure:?}"),
        Ok(_) => {
            let failure = shim.start_process("c1", "").unwrap_err();
            assert!(failure.message.contains("no such file or directory"), "{failure:?}");
            assert_eq!(shim.phase("c1", ""), "STOPPED");
            shim.delete("c1", "").unwrap();
            assert_eq!(shim.events.count("start"), 0);
        }
    }
    shim.assert_clean();
}

#[test]
fn paused_container_refuses_exec_and_delete_until_resumed() {
    let shim = Shim::start("pause");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    shim.resume("c1").unwrap_err().is(Code::FAILED_PRECONDITION, &["running"]);
    shim.pause("c1").unwrap();
    assert_eq!((shim.phase("c1", "").as_str(), shim.phase("c1", "e1").as_str()), ("PAUSED", "PAUSED"));
    shim.pause("c1").unwrap_err().is(Code::FAILED_PRECONDITION, &["paused"]);
    shim.exec("c1", "e2", &["/probe"], None).unwrap_err().is(Code::FAILED_PRECONDITION, &["paused"]);
    shim.delete("c1", "").unwrap_err().is(Code::FAILED_PRECONDITION, &["paused"]);
    shim.resume("c1").unwrap();
    assert_eq!((shim.phase("c1", "").as_str(), shim.phase("c1", "e1").as_str()), ("RUNNING", "RUNNING"));
    // A container that dies while it is frozen is cleaned up like any other.
    shim.pause("c1").unwrap();
    shim.kill("c1", "", 9, false).unwrap();
    assert_eq!(shim.status("c1", ""), 137);
    shim.delete("c1", "").unwrap();
    let events = shim.events.until("delete c1");
    let order: Vec<_> = events.iter().filter(|w| w.starts_with("paused") || w.starts_with("resumed")).collect();
    assert_eq!(order, ["paused c1", "resumed c1", "paused c1"]);
    shim.assert_clean();
}

#[test]
fn exit_status_after_a_signal_is_128_plus_its_number() {
    let shim = Shim::start("signals");
    for (n, signal) in [1, 9, 15, 34, 64].into_iter().enumerate() {
        let id = format!("c{n}");
        // The init of a pid namespace ignores signals without a handler, except SIGKILL from outside.
        shim.run(&id, &Bundle::probe(&["sleep", "1000"]));
        shim.kill(&id, "", 0, false).unwrap();
        shim.run_exec(&id, "e", &["/probe", "sleep", "1000"], None);
        shim.kill(&id, "e", signal, false).unwrap();
        assert_eq!(shim.status(&id, "e"), 128 + signal);
        shim.end(&id);
    }
}

#[test]
fn shim_kill_all_ends_init_and_execs() {
    let shim = Shim::start("killall");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    shim.kill("c1", "", 9, true).unwrap();
    assert_eq!((shim.status("c1", ""), shim.status("c1", "e1")), (137, 137));
    let events = shim.events.until("exit c1/c1 137");
    assert_eq!(events[events.len() - 2..], ["exit c1/e1 137", "exit c1/c1 137"]);
    shim.delete("c1", "").unwrap();
}

#[test]
fn processes_in_the_hosts_pid_namespace_end_with_init() {
    let shim = Shim::start("hostpid");
    let bundle = Bundle::probe(&["orphans", "3", "1000", "+", "sleep", "0.5"]).host_namespace("pid");
    shim.run("c1", &bundle);
    shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    assert_eq!(shim.status("c1", ""), 0);
    assert_eq!(shim.status("c1", "e1"), 137);
    let events = shim.events.until("exit c1/c1 0");
    assert_eq!(events.last().unwrap(), "exit c1/c1 0");
    shim.delete("c1", "").unwrap();
    shim.assert_clean();
}

#[test]
fn pids_name_the_exec_of_each_process() {
    let shim = Shim::start("pids");
    let init = shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    let exec = shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    let mut pids = shim.pids("c1").unwrap();
    pids.sort_by_key(|(pid, _)| *pid != init);
    assert_eq!(pids.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [init, exec]);
    assert!(pids[0].1.is_none());
    let details = pids[1].1.as_ref().unwrap();
    assert_eq!(details.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(any::unpack::<runc::ProcessDetails>(details).unwrap().unwrap().exec_id, "e1");
    shim.end("c1");
}

#[test]
fn metrics_are_answered_before_and_after_the_exit() {
    let shim = Shim::start("metrics");
    shim.run("c1", &Bundle::probe(&["eat", "20000000", "+", "sleep", "1000"]));
    let memory = |shim: &Shim| {
        let stats = shim.stats("c1").unwrap();
        match stats.type_url.as_str() {
            "io.containerd.cgroups.v1.Metrics" => {
                let m = metrics::v1::Metrics::parse_from_bytes(&stats.value).unwrap();
                (m.memory.usage.max, m.cpu.usage.total)
            }
            "io.containerd.cgroups.v2.Metrics" => {
                let m = metrics::v2::Metrics::parse_from_bytes(&stats.value).unwrap();
                (m.memory.usage, m.cpu.usage_usec * 1000)
            }
            other => panic!("{other}"),
        }
    };
    until_true("20 MB and some time to be used", LONG, || memory(&shim).0 > 20_000_000 && memory(&shim).1 > 100_000);
    shim.kill("c1", "", 9, false).unwrap();
    shim.wait("c1", "").unwrap();
    assert!(memory(&shim).1 > 100_000, "the last numbers are kept");
    shim.delete("c1", "").unwrap();
    shim.stats("c1").unwrap_err().is(Code::NOT_FOUND, &[]);
}

#[test]
fn shim_update_changes_limits() {
    let shim = Shim::start("update");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    shim.update("c1", r#"{"memory":{"limit":67108864},"pids":{"limit":17}}"#).unwrap();
    let cgroup = shim.cgroup("c1");
    assert_eq!(cgroup::value(&cgroup, "memory/memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(cgroup::value(&cgroup, "pids/pids.max", "pids.max"), "17");
    shim.update("c1", "{\"memory\":").unwrap_err().is(Code::INVALID_ARGUMENT, &["resources"]);
    shim.kill("c1", "", 9, false).unwrap();
    shim.wait("c1", "").unwrap();
    shim.update("c1", "{}").unwrap_err().is(Code::FAILED_PRECONDITION, &["stopped"]);
    shim.delete("c1", "").unwrap();
}

#[test]
fn oom_event_comes_before_the_exit_event() {
    let shim = Shim::start("oom");
    let bundle = Bundle::probe(&["eat", "200000000", "+", "sleep", "1000"])
        .set("/linux/resources/memory", serde_json::json!({"limit": 32 << 20, "swap": 32 << 20}));
    shim.run("c1", &bundle);
    assert_eq!(shim.status("c1", ""), 137);
    let events = shim.events.until("exit c1/c1 137");
    let at = |word: &str| events.iter().position(|w| w == word).unwrap_or_else(|| panic!("no {word} in {events:?}"));
    assert!(at("oom c1") < at("exit c1/c1 137"), "{events:?}");
    assert_eq!(shim.events.count("oom"), 1);
    shim.delete("c1", "").unwrap();
}

#[test]
fn connect_never_fails() {
    let shim = Shim::start("connect");
    let connect = |id: &str| {
        let request = ConnectRequest { id: id.into(), ..Default::default() };
        shim.call(CALL, async |c, ctx| c.connect(ctx, &request).await).unwrap()
    };
    assert_eq!(connect("nobody").task_pid, 0);
    assert_eq!(i32::try_from(connect("nobody").shim_pid).unwrap(), shim.pid);
    let pid = shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    assert_eq!(connect("c1").task_pid, pid);
    shim.end("c1");
}

#[test]
fn shim_serves_a_pod_until_its_last_container_ends() {
    let shim = Shim::start("pod");
    for id in ["c1", "c2", "c3"] {
        shim.run(id, &Bundle::probe(&["sleep", "1000"]));
    }
    shim.end("c2");
    shim.call(CALL, async |c, ctx| c.shutdown(ctx, &berth_proto::task::ShutdownRequest::default()).await).unwrap();
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    shim.end("c1");
    shim.end("c3");
    shim.shut_down();
}

#[test]
fn rootfs_mounts_are_made_and_removed() {
    let shim = Shim::start("rootfs");
    let lower = Bundle::probe(&["say", "from", "below"]);
    let bundle = Bundle::probe(&["say", "from", "below"]);
    let (upper, work) = (shim.work().join("upper"), shim.work().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    let mount = berth_proto::task::Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lower.rootfs().display()),
        ],
        ..Default::default()
    };
    let mut request = shim.request("c1", &bundle);
    request.rootfs = vec![mount.clone()];
    shim.create_as(request.clone()).unwrap();
    shim.start_process("c1", "").unwrap();
    assert_eq!(shim.status("c1", ""), 0);
    shim.delete("c1", "").unwrap();
    shim.assert_clean();
    // A second mount that fails is removed together with the first one.
    let bad = berth_proto::task::Mount { type_: "nosuchfs".into(), source: "none".into(), ..Default::default() };
    request.rootfs = vec![mount, bad];
    let failure = shim.create_as(request).unwrap_err();
    assert!(failure.message.contains("nosuchfs"), "{failure:?}");
    shim.assert_clean();
}
