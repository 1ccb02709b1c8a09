//! A running shim takes a new program: processes, exits, streams, connections and events go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    command, executable, procs,
    shim::{
        CALL, Shim,
        container::{exec_request, process},
        stdio::{self, Stdio, Stream},
        upgrade::Programs,
    },
    tools,
    wait::{LONG, until_true},
};
use berth_proto::{task::WaitRequest, ttrpc::context};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    process::Command,
};

const APPLETS: [&str; 6] = ["sh", "cat", "sleep", "echo", "seq", "stty"];

fn shell(script: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", script], &APPLETS)
}

/// The file that a process runs, by device and inode.
fn program_of(pid: i32) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    (meta.dev(), meta.ino())
}

/// The number of sockets of a process.
fn sockets(pid: i32) -> usize {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Checks that a text is the numbers from 1 on, one a line.
fn assert_counts(text: &str) -> usize {
    let mut count = 0;
    for (line, want) in text.lines().zip(1_usize..) {
        assert_eq!(line, want.to_string(), "a line is lost or doubled");
        count = want;
    }
    count
}

#[test]
fn an_upgraded_shim_keeps_its_process_and_its_containers() {
    let (shim, programs) = (Shim::start("upgrade"), Programs::default());
    let pid = shim.run("c", &shell("sleep 1000"));
    let before = sockets(shim.pid);
    let waiter = shim.connection();
    let request = WaitRequest { id: "c".into(), ..Default::default() };
    let wait = shim.runtime().spawn(async move { waiter.wait(context::with_duration(CALL), &request).await });
    until_true("the connection of the Wait call", LONG, || sockets(shim.pid) > before);
    let before = program_of(shim.pid);
    for name in ["one", "two"] {
        let answer = shim.upgrade(&programs.shim(name)).unwrap();
        assert_eq!(answer.from, answer.to);
        assert!(!answer.unchanged);
        assert_ne!(program_of(shim.pid), before, "another program runs");
        // A client of ttrpc never connects again, so this call goes over the connection from before.
        assert_eq!((shim.phase("c", ""), shim.state("c", "").unwrap().pid), ("RUNNING".into(), pid));
        assert!(shim.log().contains("upgraded from version"));
    }
    assert!(!wait.is_finished());
    shim.kill("c", "", 9, false).unwrap();
    assert_eq!(shim.runtime().block_on(wait).unwrap().unwrap().exit_status, 137);
    shim.delete("c", "").unwrap();
    shim.events.until("delete c");
    assert_eq!(shim.events.words(), ["create c", "start c", "exit c/c 137", "delete c"]);
    shim.shut_down();
}

#[test]
fn an_upgrade_loses_and_doubles_no_byte() {
    let (shim, programs) = (Shim::start("bytes"), Programs::default());
    let mut init = Stdio::all(shim.work(), "init");
    shim.run_with("c", &shell("seq 300000; cat; exit 5"), &init);
    let mut terminal = Stdio::terminal(shim.work(), "tty");
    shim.run_exec("c", "tty", &["/bin/sh", "-c", "stty -echo; echo ready; read a; seq 20000; exit 6"], Some(&terminal));
    let file = shim.work().join("file.log");
    let mut request = exec_request("c", "file", &process(&["/bin/sh", "-c", "seq 300000; exit 7"]), None);
    request.stdout = format!("file://{}", file.display());
    shim.exec_as(request).unwrap();
    shim.start_process("c", "file").unwrap();
    terminal.out.until("ready");
    terminal.write("go\n");
    let names = ["one", "two"].map(|name| programs.shim(name));
    for round in 0..6 {
        shim.upgrade(&names[round % 2]).unwrap();
        if round == 3 {
            init.write("300001\n");
        }
    }
    init.write("300002\n");
    // The exit of init would end the others.
    for (exec, status) in [("tty", 6), ("file", 7)] {
        assert_eq!(shim.status("c", exec), status);
    }
    shim.close_stdin("c", "").unwrap();
    init.hang_up();
    assert_eq!(shim.status("c", ""), 5);
    assert_eq!(assert_counts(&init.out.end()), 300_002);
    let text = terminal.out.end().replace('\r', "");
    assert_eq!(assert_counts(text.split_once("ready\n").unwrap().1), 20_000);
    for exec in ["tty", "file"] {
        shim.delete("c", exec).unwrap();
    }
    assert_eq!(assert_counts(&fs::read_to_string(file).unwrap()), 300_000);
    shim.delete("c", "").unwrap();
}

#[test]
fn containers_and_execs_in_each_state_are_handed_over() {
    let (shim, programs) = (Shim::start("states"), Programs::default());
    let log = shim.work().join("logged");
    let logger = shim.work().join("logger");
    executable::write(&logger, &format!("#!/bin/sh\nexec 5>&-\nexec cat <&3 > {}\n", log.display()), 0o755);
    let created = shim.create("created", &shell("exit 1")).unwrap();
    shim.run("paused", &shell("sleep 1000"));
    shim.pause("paused").unwrap();
    let stopped = shim.run("stopped", &shell("exit 2"));
    let exit = shim.wait("stopped", "").unwrap();
    let mut running = Stdio::all(shim.work(), "running");
    shim.run_with("running", &shell("cat; exit 3"), &running);
    shim.exec("running", "added", &["/bin/sh", "-c", "exit 4"], None).unwrap();
    shim.run_exec("running", "exited", &["/bin/sh", "-c", "exit 5"], None);
    assert_eq!(shim.status("running", "exited"), 5);
    let mut logged = shim.request("logged", &shell("echo first; read line; echo second; exit 6"));
    let input = Stdio::all(shim.work(), "logged");
    (logged.stdin, logged.stdout) = (input.stdin.clone(), format!("binary://{}", logger.display()));
    shim.create_as(logged).unwrap();
    shim.start_process("logged", "").unwrap();
    let mut input = input;
    until_true("the first line", LONG, || fs::read_to_string(&log).is_ok_and(|text| text == "first\n"));
    for name in ["one", "two"] {
        shim.upgrade(&programs.shim(name)).unwrap();
    }
    let phases = ["created", "paused", "stopped", "running", "logged"].map(|id| shim.phase(id, ""));
    assert_eq!(phases, ["CREATED", "PAUSED", "STOPPED", "RUNNING", "RUNNING"]);
    assert_eq!(["added", "exited"].map(|exec| shim.phase("running", exec)), ["CREATED", "STOPPED"]);
    assert_eq!(shim.start_process("created", "").unwrap(), created);
    assert_eq!(shim.status("created", ""), 1);
    shim.resume("paused").unwrap();
    assert_eq!(shim.phase("paused", ""), "RUNNING");
    let deleted = shim.delete("stopped", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (stopped, 2, exit.exited_at));
    shim.start_process("running", "added").unwrap();
    assert_eq!((shim.status("running", "added"), shim.status("running", "exited")), (4, 5));
    input.write("go\n");
    assert_eq!(shim.status("logged", ""), 6);
    shim.delete("logged", "").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "first\nsecond\n");
    running.write("typed\n");
    running.out.until("typed\n");
    shim.close_stdin("running", "").unwrap();
    running.hang_up();
    assert_eq!(shim.status("running", ""), 3);
    assert_eq!(running.out.end(), "typed\n");
    shim.delete("running", "").unwrap();
    shim.delete("created", "").unwrap();
    shim.end("paused");
    let events = shim.events.until("delete paused");
    for id in ["created", "paused", "stopped", "running", "logged"] {
        assert_eq!(events.iter().filter(|event| event.starts_with(&format!("exit {id}/{id} "))).count(), 1, "{id}");
    }
    shim.shut_down();
}

#[test]
fn output_that_its_client_has_not_read_is_handed_over() {
    let (shim, programs) = (Shim::start("unread"), Programs::default());
    shim.run("c", &shell("sleep 1000"));
    let [stdout, stderr] = ["out", "err"].map(|name| stdio::fifo(shim.work(), name));
    let mut request = exec_request("c", "e", &process(&["/bin/sh", "-c", "echo said; exit 8"]), None);
    (request.stdout, request.stderr) = [stdout.clone(), stderr.clone()].map(|path| path.display().to_string()).into();
    let readers =
        [&stdout, &stderr].map(|path| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap());
    shim.exec_as(request).unwrap();
    shim.start_process("c", "e").unwrap();
    assert_eq!(shim.status("c", "e"), 8);
    shim.upgrade(&programs.shim("one")).unwrap();
    // The client goes away and comes back, as a restarted containerd does.
    drop(readers);
    shim.upgrade(&programs.shim("two")).unwrap();
    let mut again = Stream::read(&stdout);
    assert_eq!(again.end(), "said\n");
    shim.delete("c", "e").unwrap();
    shim.end("c");
}

#[test]
fn an_out_of_memory_kill_after_an_upgrade_is_published_before_its_exit() {
    let (shim, programs) = (Shim::start("oom"), Programs::default());
    let mut stdio = Stdio::all(shim.work(), "c");
    let limit = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    let script = "read line; x=x; while :; do x=$x$x$x$x; done";
    shim.run_with("c", &shell(script).set("/linux/resources/memory", limit), &stdio);
    shim.upgrade(&programs.shim("one")).unwrap();
    stdio.write("go\n");
    assert_eq!(shim.status("c", ""), 137);
    let events = shim.events.until("exit c/c 137");
    let at = |word: &str| events.iter().position(|w| w == word).unwrap_or_else(|| panic!("no {word} in {events:?}"));
    assert!(at("oom c") < at("exit c/c 137"), "{events:?}");
    shim.delete("c", "").unwrap();
}

#[test]
fn shims_are_listed_and_upgraded_by_the_command_line() {
    let (shim, programs) = (Shim::start("line"), Programs::default());
    let sibling = shim.sibling("other");
    let pid = shim.run("c", &shell("sleep 1000"));
    let sockets = format!("--socket-dir={}", shim.socket().parent().unwrap().display());
    let berth = |words: &[&str]| command::run(Command::new(tools::built("berth")).args(words).arg(&sockets), LONG);
    let rows: serde_json::Value = serde_json::from_str(&berth(&["shims", "--json"]).ok()).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == "pod").unwrap();
    assert_eq!((row["pid"].as_i64(), row["containers"].as_i64()), (Some(shim.pid.into()), Some(1)));
    assert!(row["memory"].as_u64().unwrap() > 50_000 && row["namespace"] == *shim.namespace, "{row}");
    let table = berth(&["shims"]).ok();
    assert!(table.starts_with("ID ") && table.contains(&shim.pid.to_string()), "{table}");
    assert_eq!(berth(&["shims", "-q"]).ok(), "other\npod");
    let (one, before) = (programs.shim("one"), program_of(shim.pid));
    let binary = format!("--binary={}", one.display());
    let checked = berth(&["upgrade", "--all", "--check", &binary]).ok();
    assert_eq!(checked.matches("can be replaced by").count(), 2, "{checked}");
    assert_eq!(program_of(shim.pid), before);
    let upgraded = berth(&["upgrade", "--id", "pod", &binary]).ok();
    assert!(upgraded.starts_with(&format!("pod: pid {}: ", shim.pid)) && upgraded.contains("pause"), "{upgraded}");
    assert_ne!(program_of(shim.pid), before);
    assert_eq!(program_of(sibling.pid), before, "the others are left alone");
    let all = berth(&["upgrade", "--all", &binary]).ok();
    assert!(all.contains("runs already") && all.contains("other: "), "{all}");
    // The first failure ends it: the canary.
    let failed = berth(&["upgrade", "--all", "--binary", "/nowhere/shim"]).failed();
    assert!(failed.contains("0 of 2 done, 1 not tried") && failed.contains("/nowhere/shim"), "{failed}");
    assert!(berth(&["upgrade", "--id", "nobody", &binary]).failed().contains("\"nobody\""));
    assert!(berth(&["upgrade", &binary]).failed().contains("--all"));
    assert_eq!(shim.state("c", "").unwrap().pid, pid);
    shim.end("c");
    procs::kill(sibling.pid, rustix::process::Signal::TERM);
    until_true("the sibling to end", LONG, || !procs::alive(sibling.pid));
}
