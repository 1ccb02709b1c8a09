//! Checkpoint of the task service, and Create with a checkpoint.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    shim::{CALL, Failure, Kind, Shim, stdio::Stdio},
    tools,
    wait::{LONG, until_true},
};
use berth_proto::{
    any, runc,
    task::{CheckpointTaskRequest, CreateTaskRequest},
    ttrpc::Code,
};
use std::path::{Path, PathBuf};

fn shim(name: &str) -> Shim {
    let criu = format!("BERTH_CRIU={}", tools::tool("CRIU").display());
    Shim::start_under(&["env".to_owned(), criu], Kind::Berth, name)
}

fn images(shim: &Shim) -> PathBuf {
    shim.work().join("images")
}

fn checkpoint(shim: &Shim, id: &str, options: Option<runc::CheckpointOptions>) -> Result<(), Failure> {
    let request = CheckpointTaskRequest {
        id: id.into(),
        path: images(shim).to_str().unwrap().into(),
        options: options.map(|options| any::pack(&options).unwrap()).into(),
        ..Default::default()
    };
    shim.call(CALL, async |c, ctx| c.checkpoint(ctx, &request).await).map(drop)
}

fn exit() -> Option<runc::CheckpointOptions> {
    Some(runc::CheckpointOptions { exit: true, ..Default::default() })
}

fn from_images(shim: &Shim, id: &str, bundle: &Bundle, stdio: &Stdio) -> CreateTaskRequest {
    CreateTaskRequest {
        checkpoint: images(shim).to_str().unwrap().into(),
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        ..shim.request(id, bundle)
    }
}

/// A process that tells a number after each line of its input, and ends with 7.
fn teller() -> Bundle {
    let script = "n=0; echo ready; while read -r line; do n=$((n+1)); echo told $n; done; exit 7";
    Bundle::busybox(&["/bin/sh", "-c", script], &["sh"])
}

#[test]
fn restored_task_has_streams_exits_and_events_as_any_other() {
    let shim = shim("restore");
    let bundle = teller();
    let mut stdio = Stdio::all(shim.work(), "first");
    shim.run_with("c1", &bundle, &stdio);
    stdio.write("a\n");
    stdio.out.until("told 1");
    // An exec is no part of the checkpoint, and its exit is told.
    shim.run_exec("c1", "e1", &["/probe", "sleep", "1000"], None);
    checkpoint(&shim, "c1", exit()).unwrap();
    assert_eq!((shim.status("c1", ""), shim.status("c1", "e1")), (137, 137));
    let events = shim.events.until("exit c1/c1 137");
    let at = |word: &str| events.iter().position(|w| w == word).unwrap_or_else(|| panic!("no {word} in {events:?}"));
    assert!(at("exit c1/e1 137") < at("exit c1/c1 137"), "{events:?}");
    assert_eq!(shim.events.count("checkpointed"), 1);
    shim.delete("c1", "").unwrap();
    shim.assert_clean();

    let mut stdio = Stdio::all(shim.work(), "second");
    assert_eq!(shim.create_as(from_images(&shim, "c2", &bundle, &stdio)).unwrap(), 0);
    assert_eq!((shim.phase("c2", ""), shim.state("c2", "").unwrap().pid), ("CREATED".to_owned(), 0));
    shim.pause("c2").unwrap_err().is(Code::FAILED_PRECONDITION, &["created"]);
    checkpoint(&shim, "c2", None).unwrap_err().is(Code::FAILED_PRECONDITION, &["created"]);
    let pid = shim.start_process("c2", "").unwrap();
    assert_eq!((shim.phase("c2", ""), shim.state("c2", "").unwrap().pid), ("RUNNING".to_owned(), pid));
    stdio.write("b\n");
    stdio.out.until("told 2");
    shim.run_exec("c2", "e1", &["/probe", "exit", "3"], None);
    assert_eq!(shim.status("c2", "e1"), 3);
    shim.stats("c2").unwrap();
    stdio.hang_up();
    shim.close_stdin("c2", "").unwrap();
    assert_eq!(shim.status("c2", ""), 7);
    shim.delete("c2", "").unwrap();
    shim.assert_clean();
}

#[test]
fn checkpointed_task_runs_on_as_containerd_asks() {
    let shim = shim("checkpoint");
    let bundle = Bundle::probe(&["go-on", "/dev/shm"]);
    let pid = shim.run("c1", &bundle);
    let count = || std::fs::read_to_string(format!("/proc/{pid}/root/dev/shm/count")).unwrap_or_default();
    until_true("a count", LONG, || !count().is_empty());
    // The client pauses the container, and resumes it after the checkpoint.
    shim.pause("c1").unwrap();
    checkpoint(&shim, "c1", None).unwrap();
    assert!(images(&shim).join("inventory.img").exists());
    assert_eq!(shim.phase("c1", ""), "PAUSED");
    shim.resume("c1").unwrap();
    let before = count();
    until_true("the count goes on", LONG, || count() > before);
    assert!(!bundle.path().join("criu-work").exists());
    // With `exit` a paused container ends as well.
    shim.pause("c1").unwrap();
    checkpoint(&shim, "c1", exit()).unwrap();
    assert_eq!(shim.status("c1", ""), 137);
    let _ = shim.resume("c1");
    shim.delete("c1", "").unwrap();
    shim.assert_clean();
}

#[test]
fn failed_checkpoint_or_restore_leaves_a_log_and_nothing_else() {
    let shim = shim("criu-bad");
    let bundle = teller();
    let stdio = Stdio::all(shim.work(), "first");
    shim.run_with("c1", &bundle, &stdio);
    let wrong = |mode: &str| Some(runc::CheckpointOptions { cgroups_mode: mode.into(), ..Default::default() });
    checkpoint(&shim, "c1", wrong("some")).unwrap_err().is(Code::INVALID_ARGUMENT, &["manage-cgroups-mode"]);
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    checkpoint(&shim, "c1", None).unwrap();
    let broken: &Path = &images(&shim).join("core-1.img");
    std::fs::write(broken, "broken").unwrap();
    let stdio = Stdio::all(shim.work(), "second");
    let again = bundle.clone();
    shim.create_as(from_images(&shim, "c2", &again, &stdio)).unwrap();
    let log = again.path().join("criu-restore.log");
    let failure = shim.start_process("c2", "").unwrap_err();
    assert!(failure.message.contains("criu-restore.log") && failure.message.contains("type RESTORE"), "{failure:?}");
    assert!(log.exists());
    shim.delete("c2", "").unwrap();
    // A container that was never started has no process to kill.
    let stdio = Stdio::all(shim.work(), "third");
    shim.create_as(from_images(&shim, "c3", &bundle, &stdio)).unwrap();
    shim.delete("c3", "").unwrap();
    shim.events.until("exit c3/c3 137");
    assert_eq!(shim.events.exits("c3").len(), 1);
    shim.end("c1");
    shim.assert_clean();
}
