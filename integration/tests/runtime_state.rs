//! The records of a runtime between its calls: they are private, and a pid alone is not trusted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    probe::sys,
    procs,
    runtime::{Runtime, wait_until},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
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

/// After a reboot another process may have the pid, and another container the cgroup.
#[test]
fn record_of_another_boot_reaches_no_process_and_no_cgroup() {
    if skipped_on_runc("boot", "its records do not name the boot") {
        return;
    }
    let runtime = Runtime::new("boot");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let (pid, file) = (runtime.pid("c1").cast_signed(), runtime.root().join("c1/state.json"));
    let own: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(own["boot"], boot.trim());
    let mut other = own.clone();
    other["boot"] = json!("00000000-0000-4000-8000-000000000000");
    // A record that cannot be read whole, as a newer build may have written it.
    let partial =
        |whole: &Value| json!({"version": 99, "pid": pid, "start_time": own["start_time"], "boot": whole["boot"]});
    let write = |record: &Value| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, record.to_string()).unwrap();
    };

    write(&other);
    assert_eq!(runtime.state("c1")["status"], "stopped");
    assert_eq!(runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout.trim(), "null");
    for words in [&["kill", "c1", "KILL"][..], &["pause", "c1"]] {
        runtime.cmd(words).fails(1, &["container not running"]);
    }
    // Of a stopped container no process is left, which is no error.
    runtime.cmd(&["kill", "--all", "c1", "KILL"]).ok();
    assert!(procs::alive(pid));
    runtime.cmd(&["update", "--pids-limit", "7", "c1"]).fails(1, &["container not running"]);
    runtime.cmd(&["events", "--stats", "c1"]).fails(1, &["is not running"]);
    runtime.exec("c1", &["/probe"]).fails(255, &["cannot exec in a stopped container"]);
    for record in [&other, &partial(&other)] {
        write(record);
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        assert!(!file.exists() && procs::alive(pid), "{record}");
        assert!(cgroup::processes(&runtime.cgroup("c1")).contains(&pid), "{record}");
    }

    // The same records reach the process if they are of this boot.
    write(&partial(&own));
    runtime.cmd(&["delete", "--force", "c1"]).fails(1, &["is not understood, and its process"]);
    assert!(procs::alive(pid));
    write(&own);
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    assert!(!procs::alive(pid));
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

/// A reader that gets a part of an answer must learn of it.
#[test]
fn answers_that_cannot_be_written_are_errors() {
    if skipped_on_runc("a full disk", "it does not look at the result of the write") {
        return;
    }
    let runtime = Runtime::new("full-stdout");
    runtime.create("c1", &Bundle::probe(&["exit", "0"])).ok();
    let calls: [&[&str]; 5] = [&["state", "c1"], &["ps", "c1"], &["list"], &["list", "--quiet"], &["features"]];
    for words in calls {
        let full = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
        runtime.call(words).through(&full).wait().fails(1, &["write to stdout: no space left on device"]);
    }
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.assert_clean("full outputs");
}
