//! Races on the paths that a caller names, and on those of a container that runs: the pid file, the log, targets of
//! live mounts, the working directory of an exec, the cgroup. Another user, or the container, replaces an entry by a
//! link to files of the host meanwhile. `--root` and `--bundle` are the caller's own: their owner decides what runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup, mounts,
    race::{Ground, Swap, Swapper, TEXT, mounts_stay_inside, naive, rounds},
    runtime::Runtime,
    wait::LONG,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// The uid of a user who is not the caller.
const OTHER: u32 = 4711;
/// The number of mounts in one call.
const USES: usize = 20;

/// Calls `round` many times beside a swapper of another user, for each swap. The entry of the volume is a file or a
/// directory, and `round` gets its path. The host's files must not be touched.
#[track_caller]
fn beside_another_user(runtime: &Runtime, directory: bool, to: &str, round: impl Fn(&Path)) {
    for swap in Swap::LINKS {
        let ground = Ground::new(&runtime.work().join(format!("{directory}-{swap:?}")));
        let (entry, _swapper) = swapped(&ground, swap, directory, to);
        for _ in 0..rounds() * 4 {
            round(&entry);
            assert_eq!(ground.touched(), [""; 0], "{swap:?}");
        }
    }
}

fn swapped(ground: &Ground, swap: Swap, directory: bool, to: &str) -> (PathBuf, Swapper) {
    let entry = ground.volume.join("entry");
    if directory {
        fs::create_dir(&entry).unwrap()
    } else {
        fs::write(&entry, "").unwrap()
    }
    let swapper = ground.swap_as(OTHER, swap, &entry, to);
    (entry, swapper)
}

/// Fails unless `naive` is led to the host's files by another user's swapper.
#[track_caller]
fn is_caught(runtime: &Runtime, directory: bool, to: &str, naive: fn(&Path) -> bool) {
    for swap in Swap::LINKS {
        let ground = Ground::new(&runtime.work().join(format!("{directory}-{swap:?}")));
        let ((entry, _swapper), end) = (swapped(&ground, swap, directory, to), Instant::now() + LONG);
        while !naive(&entry) && ground.touched().is_empty() {
            assert!(Instant::now() < end, "{swap:?}: never");
        }
    }
}

#[test]
fn swapped_pid_file_does_not_change_a_host_file() {
    let runtime = Runtime::new("swap-pid-file");
    let bundle = Bundle::probe(&["exit", "0"]);
    beside_another_user(&runtime, false, "file", |entry| {
        let out = runtime.on("run", "c1", &bundle).with(&["--pid-file", entry.to_str().unwrap()]).wait();
        assert!(out.code == 0 || out.stderr.contains("pid"), "{out:#?}");
    });
    runtime.assert_clean("pid files");
}

#[test]
fn swapped_directory_of_a_pid_file_does_not_lead_to_the_host() {
    if skipped_on_runc("links of another user on the way to a pid file", "it follows them") {
        return;
    }
    let runtime = Runtime::new("swap-pid-dir");
    let bundle = Bundle::probe(&["exit", "0"]);
    beside_another_user(&runtime, true, "", |entry| {
        let out = runtime.on("run", "c1", &bundle).with(&["--pid-file", entry.join("pid").to_str().unwrap()]).wait();
        assert!(out.code == 0 || out.stderr.contains("pid"), "{out:#?}");
    });
    runtime.assert_clean("pid files");
}

#[test]
fn swapped_log_does_not_change_a_host_file() {
    if skipped_on_runc("links of another user as a log", "it follows them") {
        return;
    }
    let runtime = Runtime::new("swap-log");
    let state = |log: &Path| runtime.call(&["state", "none"]).global(&["--log", log.to_str().unwrap()]).wait();
    beside_another_user(&runtime, false, "file", |entry| drop(state(entry).fails(1, &[])));
    beside_another_user(&runtime, true, "", |entry| drop(state(&entry.join("log")).fails(1, &[])));
}

#[test]
fn control_writes_by_name_follow_another_users_links() {
    let runtime = Runtime::new("swap-caller-control");
    is_caught(&runtime, false, "file", naive::writes);
    is_caught(&runtime, true, "", naive::makes_directory);
}

/// A running container with the volume at /v.
fn container(runtime: &Runtime, ground: &Ground) -> PathBuf {
    let entry = ground.volume.join("entry");
    fs::create_dir(&entry).unwrap();
    let bundle = Bundle::probe(&["signal"]).mount("/v", "bind", ground.volume.to_str().unwrap(), &["bind"]);
    runtime.start("c1", &bundle.set("/root/readonly", json!(false)));
    entry
}

#[test]
fn swapped_targets_of_live_mounts_stay_inside_the_root() {
    if skipped_on_runc("mounts", "the command is crun's") {
        return;
    }
    let runtime = Runtime::new("swap-live");
    let file = runtime.work().join("mounts.json");
    for (swap, relative) in Swap::LINKS.into_iter().flat_map(|swap| [(swap, false), (swap, true)]) {
        let ground = Ground::new(&runtime.work().join(format!("{swap:?}-{relative}")));
        let entry = container(&runtime, &ground);
        let one = |n| match n % 3 {
            0 => json!({"destination": "/v/entry", "type": "tmpfs", "source": "tmpfs"}),
            1 => json!({"destination": format!("/v/entry/made{n}/below"), "type": "tmpfs", "source": "tmpfs"}),
            _ => {
                json!({"destination": format!("/v/entry/file{n}"), "type": "bind", "source": "/etc/hosts", "options": ["bind"]})
            }
        };
        fs::write(&file, json!((0..USES).map(one).collect::<Vec<_>>()).to_string()).unwrap();
        let swapper = ground.swap(swap, relative, &entry, "");
        for _ in 0..rounds() {
            let words = |verb| ["mounts", verb, "c1", file.to_str().unwrap()];
            for out in ["add", "remove"].map(|verb| runtime.cmd(&words(verb))) {
                assert!(matches!(out.code, 0 | 1), "{out:#?}");
            }
        }
        drop(swapper);
        let report = runtime.exec("c1", &["/probe", "report", "mountinfo"]).ok().json();
        assert_eq!(mounts_stay_inside(&mounts::reported(&report)), None, "{swap:?}");
        assert_eq!(ground.touched(), [""; 0], "{swap:?}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("live mounts");
}

#[test]
fn swapped_working_directory_of_an_exec_stays_inside_the_root() {
    let runtime = Runtime::new("swap-exec");
    for swap in Swap::LINKS {
        let ground = Ground::new(&runtime.work().join(format!("{swap:?}")));
        let entry = container(&runtime, &ground);
        let swapper = ground.swap(swap, true, &entry, "");
        for n in 0..rounds() * 3 {
            let cwd = ["/v/entry".to_owned(), format!("/v/entry/new{n}")][n % 2].clone();
            let out = runtime.cmd(&["exec", "--cwd", &cwd, "c1", "/probe", "report", "cwd", "list=.", "read=file"]);
            assert!(!out.stdout.contains(TEXT) && !out.stdout.contains("(unreachable)"), "{swap:?}: {out:#?}");
            assert!(out.code == 0 || !out.stderr.is_empty(), "{swap:?}: {out:#?}");
        }
        drop(swapper);
        assert_eq!(ground.touched(), [""; 0], "{swap:?}");
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("execs");
}

/// The owner of a delegated cgroup removes and makes the cgroup of a container while the container is made in it.
#[test]
fn swapped_cgroup_of_a_container_is_entered_or_refused() {
    let runtime = Runtime::new("swap-cgroup");
    let path = runtime.cgroup("c1");
    let dirs: Vec<_> = cgroup::hierarchies().iter().map(|dir| dir.join(path.trim_start_matches('/'))).collect();
    dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    let removed = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (swapped, counted) = (dirs.clone(), removed.clone());
    let swapper = Swapper::repeat(move |round| {
        let dir = &swapped[usize::try_from(round).unwrap() % swapped.len()];
        counted.fetch_add(usize::from(fs::remove_dir(dir).is_ok()), std::sync::atomic::Ordering::Relaxed);
        let _ = fs::create_dir(dir);
    });
    let bundle = Bundle::probe(&["sleep", "1000"]);
    let (mut made, mut refused) = (0, 0);
    for _ in 0..rounds() {
        let out = runtime.create("c1", &bundle);
        if out.code == 0 {
            made += 1;
            let pid = runtime.pid("c1");
            let lines = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            // A hierarchy that the container does not use has its caller's cgroup.
            let (own, callers) = (lines(&pid.to_string()), lines("self"));
            let entered = |line: &str| line.ends_with(&path) || callers.lines().any(|own| own == line);
            assert!(own.lines().all(entered), "{own}");
        } else {
            refused += 1;
            assert!(out.stderr.contains("cgroup"), "{out:#?}");
        }
        let out = runtime.cmd(&["delete", "--force", "c1"]);
        assert!(out.code == 0 || out.stderr.contains("does not exist"), "{out:#?}");
    }
    drop(swapper);
    eprintln!("{made} made, {refused} refused, {removed:?} removed");
    assert!(removed.load(std::sync::atomic::Ordering::Relaxed) > 0);
    dirs.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
    runtime.assert_clean("cgroups that come and go");
}
