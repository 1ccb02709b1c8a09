//! New programs that cannot take a shim over. It serves on as before, or nothing of it is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    procs,
    shim::{Shim, stdio::Stdio, upgrade::Programs},
    wait::{LONG, until_true},
};
use berth_proto::ttrpc::Code;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    thread,
};

const APPLETS: [&str; 4] = ["sh", "cat", "sleep", "echo"];

fn shell(script: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", script], &APPLETS)
}

/// A container `c` that repeats its input.
fn echoing(shim: &Shim) -> (u32, Stdio) {
    let stdio = Stdio::all(shim.work(), "c");
    (shim.run_with("c", &shell("cat"), &stdio), stdio)
}

/// Checks that the shim still serves: a call, an exec, a stream.
fn assert_serves(shim: &Shim, pid: u32, stdio: &mut Stdio, word: &str) {
    assert_eq!((shim.phase("c", ""), shim.state("c", "").unwrap().pid), ("RUNNING".into(), pid), "{word}");
    stdio.write(&format!("{word}\n"));
    stdio.out.until(&format!("{word}\n"));
    shim.run_exec("c", "e", &["/bin/sh", "-c", "exit 3"], None);
    assert_eq!(shim.status("c", "e"), 3, "{word}");
    shim.delete("c", "e").unwrap();
}

fn end(shim: &Shim) {
    shim.end("c");
    shim.events.until("delete c");
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_shim_as_it_was() {
    let (shim, programs) = (Shim::start("unfit"), Programs::default());
    let (pid, mut stdio) = echoing(&shim);
    let made = |name: &str, mode: u32, uid: u32| {
        let path = programs.shim(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(uid), None).unwrap();
        path
    };
    let everyones = shim.work().join("shim");
    fs::copy(programs.shim("original"), &everyones).unwrap();
    let garbage = programs.copy(&PathBuf::from("/bin/true"), "garbage");
    fs::write(&garbage, "\x7fELF, and no program").unwrap();
    let rows = [
        (PathBuf::from("shim"), vec!["not absolute"]),
        (programs.path("missing"), vec!["missing", "no such file"]),
        (made("foreign", 0o755, 1000), vec!["foreign", "not owned by root", "uid 1000"]),
        (made("writable", 0o775, 0), vec!["writable", "writable by others than root", "775"]),
        (made("plain", 0o644, 0), vec!["plain", "not executable"]),
        (everyones, vec!["writable by others than root"]),
        (programs.path("."), vec!["no regular file"]),
        (garbage, vec!["garbage", "execute it", "format error"]),
        (programs.copy(&PathBuf::from("/bin/true"), "true"), vec!["no shim that can take over"]),
        (programs.odd("silent"), vec!["no shim that can take over"]),
        (programs.odd("dies"), vec!["no shim that can take over"]),
        (programs.odd("hangs"), vec!["did not answer"]),
    ];
    for (path, words) in rows {
        for outcome in [shim.try_upgrade(&path), shim.upgrade(&path)] {
            outcome.unwrap_err().is(Code::INVALID_ARGUMENT, &words);
        }
        assert_serves(&shim, pid, &mut stdio, path.file_name().unwrap().to_str().unwrap());
    }
    // The control: a program that can.
    let fit = programs.shim("fit");
    shim.try_upgrade(&fit).unwrap();
    shim.upgrade(&fit).unwrap();
    assert_serves(&shim, pid, &mut stdio, "fit");
    assert!(shim.upgrade(&fit).unwrap().unchanged, "it runs already");
    end(&shim);
}

#[test]
fn a_program_that_refuses_gives_the_shim_back() {
    let (shim, programs) = (Shim::start("refuses"), Programs::default());
    let (pid, mut stdio) = echoing(&shim);
    for (round, mode) in ["refuses", "misled", "refuses"].into_iter().enumerate() {
        let program = programs.odd(mode);
        shim.try_upgrade(&program).unwrap();
        let word = if mode == "misled" { "-namespace" } else { "an odd shim" };
        shim.upgrade(&program).unwrap_err().is(Code::FAILED_PRECONDITION, &["refused", "serves on", word]);
        assert_serves(&shim, pid, &mut stdio, &format!("back{round}"));
    }
    // A shim that was given back can still be upgraded.
    shim.upgrade(&programs.shim("fit")).unwrap();
    assert_serves(&shim, pid, &mut stdio, "fit");
    end(&shim);
}

#[test]
fn a_program_that_crashes_after_the_trial_leaves_nothing_behind() {
    let (shim, programs) = (Shim::start("crashes"), Programs::default());
    let bundle = shell("sleep 1000");
    shim.run("c", &bundle);
    shim.upgrade(&programs.odd("crashes")).unwrap_err().is(Code::UNAVAILABLE, &[]);
    until_true("the end of the shim", LONG, || !procs::alive(shim.pid));
    let deleted = shim.delete_action("c", bundle.path());
    assert_eq!(deleted.exit_status, 137);
    shim.assert_clean();
    shim.discard();
}

#[test]
fn a_shim_with_a_change_in_flight_is_busy_and_serves_on() {
    let (shim, programs) = (Shim::start("busy"), Programs::default());
    let (pid, mut stdio) = echoing(&shim);
    let fit = programs.shim("fit");
    // No client opens the fifo, so Start waits for one.
    let fifo = berth_integration::shim::stdio::fifo(shim.work(), "nobody");
    let process = berth_integration::shim::container::process(&["/bin/sh", "-c", "exit 0"]);
    let mut request = berth_integration::shim::container::exec_request("c", "waits", &process, None);
    request.stdout = fifo.to_str().unwrap().to_owned();
    shim.exec_as(request).unwrap();
    thread::scope(|scope| {
        let start = scope.spawn(|| shim.start_process("c", "waits"));
        until_true("the start", LONG, || shim.drain().is_err());
        shim.upgrade(&fit).unwrap_err().is(Code::FAILED_PRECONDITION, &["busy", "Start has no answer yet"]);
        assert_serves(&shim, pid, &mut stdio, "busy");
        shim.kill("c", "waits", 9, false).unwrap();
        start.join().unwrap().unwrap_err();
    });
    shim.drain().unwrap();
    shim.upgrade(&fit).unwrap();
    assert_eq!(shim.status("c", "waits"), 137);
    shim.delete("c", "waits").unwrap();
    assert_serves(&shim, pid, &mut stdio, "after");
    end(&shim);
}

#[test]
fn a_shim_without_descriptors_is_not_upgraded_and_serves_on() {
    let (shim, programs) = (Shim::start("nofds"), Programs::default());
    let (pid, mut stdio) = echoing(&shim);
    let fit = programs.shim("fit");
    let (process, hard) = (Pid::from_raw(shim.pid), getrlimit(Resource::Nofile).maximum);
    let limit = |current| prlimit(process, Resource::Nofile, Rlimit { current, maximum: hard }).unwrap();
    // Descriptors of the reserve let the connection in, and no other one is opened.
    let taken = |n: u64| Path::new(&format!("/proc/{}/fd/{n}", shim.pid)).symlink_metadata().is_ok();
    limit((0..).find(|n| !taken(*n)));
    let refused = shim.upgrade(&fit).unwrap_err();
    refused.is(Code::RESOURCE_EXHAUSTED, &["too many open files"]);
    limit(hard);
    assert_serves(&shim, pid, &mut stdio, "again");
    shim.upgrade(&fit).unwrap();
    end(&shim);
}
