//! checkpoint and restore: a container is written to disk and goes on from there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    console::ConsoleSocket,
    criu::{checkpoint, count, images, restore, restore_detached, with_criu, without_streams},
    procs,
    runtime::{Runtime, is_runc, wait_until},
};
use serde_json::json;
use std::fs;

fn counter() -> Bundle {
    Bundle::probe(&["go-on", "/dev/shm"])
}

fn run_detached(runtime: &Runtime, id: &str, bundle: &Bundle) {
    without_streams(runtime.on("run", id, bundle).with(&["-d"])).wait().ok();
}

#[test]
fn restored_container_goes_on_where_it_was() {
    let runtime = Runtime::new("checkpoint");
    let bundle = counter();
    run_detached(&runtime, "c1", &bundle);
    let mut before = count(&runtime, "c1", 3);
    for round in 0..2 {
        checkpoint(&runtime, "c1").wait().ok();
        assert!(images(&runtime).join("inventory.img").exists() && images(&runtime).join("dump.log").exists());
        runtime.cmd(&["state", "c1"]).fails(1, &["does not exist"]);
        runtime.assert_clean("a checkpoint");

        let pid_file = runtime.work().join("pid");
        let call = restore(&runtime, "c1", &bundle).with(&["-d", "--pid-file", &pid_file.to_string_lossy()]);
        without_streams(call).wait().ok();
        let pid = runtime.pid("c1");
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
        assert_eq!(runtime.state("c1")["status"], "running");
        let after = count(&runtime, "c1", before.number + 20);
        assert_eq!(after.birth, before.birth, "round {round}: it is another process");
        before = after;
    }
    let exec = runtime.exec("c1", &["/probe", "report", "process"]).ok().json();
    assert_ne!(exec["process"]["pid"], 1);
    let told = runtime.exec("c1", &["/probe", "ask", "/dev/shm/socket"]).ok().json();
    let number: u64 = told["ask"].as_str().unwrap().parse().unwrap();
    assert!(number >= before.number, "{told}");
    if !is_runc() {
        // runc leaves the loopback device of the new network namespace down.
        let routes = fs::read_to_string(format!("/proc/{}/net/fib_trie", runtime.pid("c1"))).unwrap();
        assert!(routes.contains("127.0.0.1"), "{routes}");
    }
    runtime.cmd(&["pause", "c1"]).ok();
    assert!(runtime.frozen("c1"));
    runtime.cmd(&["resume", "c1"]).ok();
    runtime.cmd(&["update", "--pids-limit", "77", "c1"]).ok();
    assert_eq!(runtime.cmd(&["events", "--stats", "c1"]).ok().json()["data"]["pids"]["limit"], 77);
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
}

#[test]
fn container_that_is_left_running_runs_on() {
    let runtime = Runtime::new("checkpoint-leave");
    let bundle = counter();
    run_detached(&runtime, "c1", &bundle);
    let (pid, before) = (runtime.pid("c1"), count(&runtime, "c1", 3));
    checkpoint(&runtime, "c1").with(&["--leave-running"]).wait().ok();
    assert_eq!((runtime.pid("c1"), runtime.state("c1")["status"].clone()), (pid, json!("running")));
    assert_eq!(count(&runtime, "c1", before.number + 20).birth, before.birth);
    // The images of the running container become a second one.
    restore_detached(&runtime, "c2", &bundle).ok();
    assert_eq!(count(&runtime, "c2", before.number + 20).birth, before.birth);
    assert_ne!(runtime.pid("c2"), pid);
    runtime.cmd(&["pause", "c1"]).ok();
    checkpoint(&runtime, "c1").with(&["--leave-running"]).wait().ok();
    assert_eq!(runtime.state("c1")["status"], "paused");
    runtime.cmd(&["resume", "c1"]).ok();
}

#[test]
fn restored_container_has_a_new_terminal() {
    let runtime = Runtime::new("checkpoint-tty");
    let console = ConsoleSocket::new(runtime.work());
    let bundle = Bundle::busybox(&["/bin/sh"], &["sh", "cat"]).set("/process/terminal", json!(true));
    runtime.on("run", "c1", &bundle).with(&["-d", "--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    master.write("told=before\necho $told-it\n");
    assert!(master.read_until("before-it").contains("before-it"));
    checkpoint(&runtime, "c1").wait().ok();
    drop(master);
    restore(&runtime, "c1", &bundle).with(&["-d", "--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    master.write("echo $told-again\n");
    assert!(master.read_until("before-again").contains("before-again"));
}

#[test]
fn foreground_restore_copies_the_output_and_ends_with_its_status() {
    let runtime = Runtime::new("checkpoint-pipes");
    let script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let bundle = Bundle::busybox(&["/bin/sh", "-c", script], &["sh", "sleep"]);
    let first = runtime.on("run", "c1", &bundle).spawn();
    wait_until(|| runtime.stdout_of(first.number).contains("ready"), || "no output".into());
    checkpoint(&runtime, "c1").wait().ok();
    assert_eq!(first.wait().code, 137, "CRIU kills the process");
    let second = restore(&runtime, "c1", &bundle).spawn();
    wait_until(|| runtime.cmd(&["state", "c1"]).stdout.contains("running"), || "not restored".into());
    runtime.cmd(&["kill", "c1", "TERM"]).ok();
    let out = second.wait();
    assert_eq!((out.code, out.stdout.as_str()), (7, "told\n"), "{out:#?}");
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

#[test]
fn mounts_from_outside_are_bound_again() {
    let runtime = Runtime::new("checkpoint-binds");
    let outside = runtime.work().join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("file"), "text").unwrap();
    let source = |name: &str| outside.join(name).to_string_lossy().into_owned();
    let bundle = Bundle::probe(&["go-on", "/real"])
        .dir("real", 0o755)
        .link("link", "real")
        .mount("/link", "bind", &source("deep"), &["bind", "rw"])
        .mount("/file", "bind", &source("file"), &["bind", "ro"])
        .set("/root/readonly", json!(false));
    run_detached(&runtime, "c1", &bundle);
    let number = || fs::read_to_string(outside.join("deep/count")).unwrap_or_default();
    wait_until(|| !number().is_empty(), || "no count".into());
    checkpoint(&runtime, "c1").wait().ok();
    let before = number();
    // The mount points that the first run made are missing where a checkpoint comes to.
    fs::remove_file(bundle.rootfs().join("file")).unwrap();
    restore_detached(&runtime, "c1", &bundle).ok();
    wait_until(|| number() > before, || "it does not go on".into());
    let read = runtime.exec("c1", &["/probe", "open", "r", "/file"]).ok().json();
    assert_eq!(read["open"]["/file"], 0, "{read}");
    assert!(!procs::words_of(runtime.pid("c1"), "mountinfo").contains("criu-root"));
}

#[test]
fn restored_container_has_the_namespaces_of_config_json() {
    let runtime = Runtime::new("checkpoint-namespaces");
    let bundle = counter().namespace("cgroup", "");
    run_detached(&runtime, "c1", &bundle);
    let before = count(&runtime, "c1", 1);
    checkpoint(&runtime, "c1").wait().ok();
    restore_detached(&runtime, "c1", &bundle).ok();
    count(&runtime, "c1", before.number + 20);
    let own = |kind: &str| {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        of("self") != of(&runtime.pid("c1").to_string())
    };
    // A CRIU that ignores cgroups makes no cgroup namespace, and runc's container is in the host's.
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"].iter().filter(|kind| !is_runc() || **kind != "cgroup") {
        assert!(own(kind), "{kind}");
    }
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    if is_runc() {
        return;
    }
    let shared = counter().unset("/hostname").host_namespace("uts");
    run_detached(&runtime, "c1", &shared);
    count(&runtime, "c1", 1);
    checkpoint(&runtime, "c1").wait().ok();
    restore_detached(&runtime, "c1", &counter()).fails(1, &["no uts namespace of its own"]);
    runtime.assert_clean("a restore without a namespace");
    restore_detached(&runtime, "c1", &shared).ok();
}

#[test]
fn hooks_of_create_and_of_delete_run() {
    let runtime = Runtime::new("checkpoint-hooks");
    let seen = runtime.work().join("seen");
    let hook = |name: &str| {
        let script = format!("cat > /dev/null; echo {name} >> {}", seen.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let hooks = ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let all: serde_json::Map<_, _> = hooks.iter().map(|name| ((*name).to_owned(), hook(name))).collect();
    let bundle = counter();
    run_detached(&runtime, "c1", &bundle);
    count(&runtime, "c1", 1);
    checkpoint(&runtime, "c1").wait().ok();
    let bundle = bundle.set("/hooks", json!(all));
    restore_detached(&runtime, "c1", &bundle).ok();
    assert_eq!(fs::read_to_string(&seen).unwrap(), "createRuntime\n");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert_eq!(fs::read_to_string(&seen).unwrap(), "createRuntime\npoststop\n");
}

#[test]
fn flags_of_checkpoint_are_checked_before_anything_is_done() {
    let runtime = Runtime::new("checkpoint-flags");
    run_detached(&runtime, "c1", &counter());
    let cases: [(&[&str], &str); 6] = [
        (&["--manage-cgroups-mode", "some"], "manage-cgroups-mode"),
        (&["--empty-ns", "pid"], "is not supported"),
        (&["--page-server", "nowhere"], "Use --page-server ADDRESS:PORT to specify page server"),
        (&["--page-server", "127.0.0.1:no"], "Invalid port number"),
        (&["--parent-path", "/absolute"], "--parent-path"),
        (&["--parent-path", "missing"], "--parent-path"),
    ];
    for (flags, says) in cases {
        let images = images(&runtime);
        let call = runtime.call(&["checkpoint", "--image-path", &images.to_string_lossy(), "c1"]).with(flags);
        with_criu(&runtime, call).wait().fails(1, &[says]);
        assert!(!images.join("inventory.img").exists(), "{flags:?}");
    }
    runtime.cmd(&["checkpoint", "nobody"]).fails(1, &["container does not exist"]);
    assert_eq!(runtime.state("c1")["status"], "running");
}
