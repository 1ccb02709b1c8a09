//! Terminals: the console socket, sizes, owners, input, and refusals.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    console::{ConsoleSocket, Terminal},
    runtime::{Runtime, is_runc},
};
use serde_json::{Value, json};

fn terminal(words: &[&str]) -> Bundle {
    Bundle::probe(words).set("/process/terminal", json!(true))
}

fn json_in(text: &str) -> Value {
    let line = text.lines().find_map(|l| Some(l.trim().get(l.trim().find('{')?..)?.to_owned()));
    serde_json::from_str(&line.unwrap_or_else(|| panic!("no report in {text:?}"))).unwrap()
}

#[test]
fn init_has_a_terminal_with_its_size_and_owner() {
    let runtime = Runtime::new("terminal");
    let console = ConsoleSocket::new(runtime.work());
    let bundle = terminal(&["report", "tty", "process", "fds", "dev"])
        .set("/process/consoleSize", json!({"height": 33, "width": 101}))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    runtime.on("create", "c1", &bundle).with(&["--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    runtime.cmd(&["start", "c1"]).ok();
    let report = json_in(&master.read_all());
    for fd in ["0", "1", "2"] {
        let tty = &report["tty"][fd];
        assert_eq!(
            (&tty["tty"], &tty["size"], &tty["foreground"]),
            (&json!(true), &json!([33, 101]), &json!(1)),
            "{report:#}"
        );
        assert_eq!(report["fds"][fd]["rdev"][0], 136, "{report:#}");
    }
    assert_eq!(report["tty"]["ctty"], 0, "it is the controlling terminal");
    assert_eq!((&report["process"]["sid"], &report["process"]["pgid"]), (&json!(1), &json!(1)));
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{report:#}");
    let console = &report["dev"]["/dev/console"];
    assert_eq!(console["rdev"], report["fds"]["0"]["rdev"], "{console}");
    assert_eq!((&console["type"], &console["uid"]), (&json!("c"), &json!(1000)), "{console}");
}

#[test]
fn terminal_carries_input_and_output() {
    let runtime = Runtime::new("typing");
    let console = ConsoleSocket::new(runtime.work());
    let bundle = terminal(&["say", "ready", "+", "count", "+", "complain", "to", "stderr"]);
    runtime.on("run", "c1", &bundle).with(&["--detach", "--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    assert!(master.read_until("ready").contains("ready"));
    master.write("abc\n\x04");
    let text = master.read_all();
    let bytes = json_in(&text.replace("abc\r\n", "abc\n"))["count"]["bytes"].clone();
    assert_eq!(bytes, 4, "{text:?}");
    assert!(text.contains("to stderr"), "{text:?}");
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let runtime = Runtime::new("exec-terminal");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let console = ConsoleSocket::new(runtime.work());
    let words = [
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        console.path(),
        "c1",
        "/probe",
        "report",
        "tty",
        "process",
        "fds",
        "+",
        "count",
    ];
    runtime.cmd(&words).ok();
    let mut master = console.receive();
    master.resize(20, 70);
    let report = json_in(&master.read_until("\n"));
    assert_eq!(report["tty"]["0"]["tty"], true, "{report:#}");
    assert_eq!(report["process"]["sid"], report["process"]["pid"], "{report:#}");
    assert_eq!(report["tty"]["ctty"], 0, "{report:#}");
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{report:#}");
    master.write("\x04");
    assert!(master.read_all().contains("count"));
}

/// The interrupt character becomes SIGINT of the foreground process.
#[test]
fn control_c_interrupts_the_process() {
    let runtime = Runtime::new("interrupt");
    let console = ConsoleSocket::new(runtime.work());
    runtime
        .on("run", "c1", &terminal(&["say", "ready", "+", "signal"]))
        .with(&["--detach", "--console-socket", console.path()])
        .wait()
        .ok();
    let mut master = console.receive();
    master.read_until("ready");
    master.write("\x03");
    assert_eq!(json_in(&master.read_all())["signal"], libc::SIGINT);
}

/// In the foreground the runtime copies between its own terminal and the container's.
#[test]
fn foreground_run_copies_between_both_terminals() {
    let runtime = Runtime::new("foreground");
    let (mut master, slave) = Terminal::pair();
    master.resize(44, 55);
    let words = ["/probe", "report", "tty", "+", "count", "+", "exit", "7"];
    // runc passes the size on when the process already runs.
    let script = format!("until [ \"$(stty size)\" = '44 55' ]; do sleep 0.02; done; exec {}", words.join(" "));
    let bundle = match is_runc() {
        true => Bundle::busybox(&["/bin/sh", "-c", &script], &["sh", "stty", "sleep"]),
        false => Bundle::probe(&words[1..]),
    };
    let run = runtime.on("run", "c1", &bundle.set("/process/terminal", json!(true))).stdin(slave).spawn();
    let number = run.number;
    berth_integration::runtime::wait_until(|| runtime.stdout_of(number).contains('}'), || "no report".into());
    master.write("hello\n\x04");
    let out = run.wait();
    assert_eq!(out.code, 7, "{out:#?}");
    let report = json_in(&out.stdout);
    assert_eq!(report["tty"]["0"]["size"], json!([44, 55]), "{report:#}");
    assert!(out.stdout.contains(r#"{"count":{"bytes":6"#), "{out:#?}");
    assert!(out.stdout.contains("hello"), "echoed: {out:#?}");
}

#[test]
fn console_socket_and_terminal_must_match() {
    let runtime = Runtime::new("terminal-refused");
    let console = ConsoleSocket::new(runtime.work());
    runtime
        .create("c1", &terminal(&[]))
        .fails(1, &["cannot allocate tty if", "will detach without setting console socket"]);
    let plain = Bundle::probe(&[]);
    let out = runtime.on("create", "c1", &plain).with(&["--console-socket", console.path()]).wait();
    out.fails(1, &["cannot use console socket if", "will not detach or allocate tty"]);
    let out = runtime.on("create", "c1", &terminal(&[])).with(&["--console-socket", "/no/such/socket"]).wait();
    out.fails(1, &["/no/such/socket", "no such file or directory"]);
    runtime.assert_clean("refusals");
}
