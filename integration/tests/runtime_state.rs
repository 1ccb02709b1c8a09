//! The records of a runtime between its calls: they are private, and a pid alone is not trusted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    probe::sys,
    runtime::{Runtime, wait_until},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// A container whose init has ended, and another process with the same pid.
struct Reused {
    pid: Pid,
}

impl Reused {
    fn new(runtime: &Runtime, id: &str) -> Self {
        let pid = runtime.pid(id).cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        wait_until(|| !Path::new(&format!("/proc/{pid}")).exists(), || format!("{pid} is never reaped"));
        sys::sleeper(pid).unwrap_or_else(|e| panic!("no second process {pid}: errno {e}"));
        Self { pid: Pid::from_raw(pid).unwrap() }
    }

    fn alive(&self) -> bool {
        waitpid(Some(self.pid), WaitOptions::NOHANG).unwrap().is_none()
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The second most severe fault: signals to, and namespaces of, a process that is not the container's.
#[test]
fn reused_pid_is_not_taken_for_the_container() {
    let runtime = Runtime::new("pid-reuse");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let stranger = Reused::new(&runtime, "c1");
    assert_eq!(runtime.state("c1")["status"], "stopped");
    runtime.exec("c1", &["/probe"]).fails(255, &["cannot exec in a stopped container"]);
    runtime.cmd(&["kill", "c1", "KILL"]).fails(1, &["container not running"]);
    runtime.cmd(&["pause", "c1"]).fails(1, &["container not running"]);
    runtime.cmd(&["start", "c1"]).fails(1, &["cannot start a container that has stopped"]);
    runtime.cmd(&["delete", "c1"]).ok();
    assert!(stranger.alive());
}

#[test]
fn force_delete_spares_a_process_with_a_reused_pid() {
    let runtime = Runtime::new("pid-force");
    runtime.create("c1", &Bundle::probe(&["sleep", "100"])).ok();
    let stranger = Reused::new(&runtime, "c1");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(stranger.alive());
}

/// CVE-2021-41103, CVE-2024-25621: users of the host must not be able to enter the directories of containers.
#[test]
fn state_files_are_accessible_to_the_owner_only() {
    if skipped_on_runc("modes", "its state directories may be entered by anyone who knows a name (0711)") {
        return;
    }
    let runtime = Runtime::new("modes");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let mut todo = vec![runtime.root().join("c1")];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o077, 0, "{}: {:o}", path.display(), meta.mode());
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().flatten().map(|e| e.path()));
        }
    }
}

/// A container can be used and deleted after its bundle is removed.
#[test]
fn container_outlives_its_bundle() {
    let runtime = Runtime::new("vanish");
    let bundle = Bundle::probe(&["sleep", "100"]);
    runtime.start("c1", &bundle);
    wait_until(
        || fs::read_link(format!("/proc/{}/exe", runtime.pid("c1"))).unwrap().ends_with("probe"),
        || "never ran".into(),
    );
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    assert_eq!(runtime.state("c1")["status"], "running");
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
}

/// The runtime makes a missing state root, and names one that cannot be made.
#[test]
fn state_root_is_made_or_named_in_the_error() {
    let runtime = Runtime::new("root-dir");
    let bundle = Bundle::probe(&["sleep", "100"]);
    let root = runtime.work().join("made/for/it");
    let options = ["--root", root.to_str().unwrap()];
    runtime.on("create", "c1", &bundle).global(&options).wait().ok();
    assert!(root.join("c1").is_dir());
    runtime.call(&["delete", "--force", "c1"]).global(&options).wait().ok();
    assert!(!root.join("c1").exists());
    runtime.on("create", "c2", &bundle).global(&["--root", "/proc/none"]).wait().fails(1, &["/proc/none"]);
    runtime.assert_clean("other roots");
}
