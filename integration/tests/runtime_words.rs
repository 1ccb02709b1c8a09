//! The command line as callers of runc know it: verbs in every state, messages, exit statuses, tables and JSON.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::{Bundle, default_config},
    runtime::{Running, Runtime, wait_until},
};
use serde_json::{Value, json};

/// One call in a row of calls on the container `c1`.
struct Step {
    words: &'static str,
    code: i32,
    /// The words that standard error (of a failure) or standard output (of a success) must have.
    says: &'static [&'static str],
}

/// A call that must succeed.
const fn ok(words: &'static str, says: &'static [&'static str]) -> Step {
    Step { words, code: 0, says }
}

/// A call that must fail with this exit status.
const fn fails(words: &'static str, code: i32, says: &'static [&'static str]) -> Step {
    Step { words, code, says }
}

fn go(runtime: &Runtime, when: &str, steps: &[Step]) {
    for step in steps {
        let words: Vec<&str> = step.words.split(' ').collect();
        let out = runtime.cmd(&words);
        assert_eq!(out.code, step.code, "{when}: {out:#?}");
        let text = if step.code == 0 { &out.stdout } else { &out.stderr };
        for word in step.says {
            assert!(text.contains(word), "{when}: no {word:?} in {out:#?}");
        }
    }
}

const ABSENT: &[Step] = &[
    fails("state c1", 1, &["container does not exist"]),
    fails("start c1", 1, &["container does not exist"]),
    fails("kill c1", 1, &["container does not exist"]),
    fails("delete c1", 1, &["container does not exist"]),
    fails("pause c1", 1, &["container does not exist"]),
    fails("resume c1", 1, &["container does not exist"]),
    fails("ps c1", 1, &["container does not exist"]),
    fails("exec c1 /probe", 255, &["exec failed: ", "container does not exist"]),
    ok("delete --force c1", &[]),
    ok("list", &["ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"]),
    ok("list --quiet", &[]),
    ok("list --format json", &["null"]),
    fails("list --format yaml", 1, &["invalid format option"]),
    fails("--log-format yaml list", 1, &["invalid log-format: yaml"]),
    fails("state", 1, &[r#""state\" requires exactly 1 argument(s)"#]),
    fails("start", 1, &[r#""start\" requires exactly 1 argument(s)"#]),
    fails("create", 1, &[r#""create\" requires exactly 1 argument(s)"#]),
    fails("run", 1, &[r#""run\" requires exactly 1 argument(s)"#]),
    fails("kill", 1, &[r#""kill\" requires a minimum of 1 argument(s)"#]),
    fails("state a b", 1, &[r#""state\" requires exactly 1 argument(s)"#]),
    fails("state --bogus c1", 1, &["flag provided but not defined: -bogus"]),
    fails("--bogus state c1", 1, &["flag provided but not defined: -bogus"]),
    fails("frobnicate", 3, &["No help topic for 'frobnicate'"]),
];

const CREATED: &[Step] = &[
    ok("state c1", &[r#""status": "created""#]),
    ok("list", &["created"]),
    ok("list -q", &["c1\n"]),
    ok("kill c1 0", &[]),
    fails("resume c1", 1, &["container not paused"]),
    fails("kill c1 NOSUCH", 1, &[r#"unknown signal \"NOSUCH\""#]),
    // runc says "invalid argument" without naming the value.
    fails("kill c1 99", 1, &["signal"]),
];

const RUNNING: &[Step] = &[
    ok("state c1", &[r#""status": "running""#]),
    fails("start c1", 1, &["cannot start an already running container"]),
    fails("delete c1", 1, &["cannot delete container c1 that is not stopped: running"]),
    fails("resume c1", 1, &["container not paused"]),
    ok("kill c1 WINCH", &[]),
    ok("kill c1 SIGWINCH", &[]),
    ok("kill c1 sigwinch", &[]),
    ok("kill c1 28", &[]),
    ok("ps c1", &["UID", "PID", "CMD", "/probe sleep 100"]),
    ok("ps c1 -o pid,comm", &["PID COMMAND", "probe"]),
    ok("exec c1 /probe", &[]),
    ok("exec c1 /probe say hello", &["hello\n"]),
    fails("exec c1 /probe exit 1", 1, &[]),
    fails("exec c1 /probe exit 42", 42, &[]),
    fails("exec c1 /probe exit 255", 255, &[]),
    fails("exec c1 /probe syscall 39 + syscall 62:0,9", 137, &[]),
    fails("exec c1 nosuch", 255, &[r#"exec failed: "#, r#"exec: \"nosuch\": executable file not found in $PATH"#]),
    fails("exec c1 /nosuch", 255, &["exec failed: ", "/nosuch", "no such file or directory"]),
    fails("exec c1 /etc", 255, &["exec failed: ", "/etc", "is a directory"]),
    fails("exec c1 /plain", 255, &["exec failed: ", "/plain", "permission denied"]),
    fails("exec c1", 255, &["args cannot be empty"]),
    fails("exec --user nobody c1 /probe", 255, &["nobody"]),
];

const PAUSED: &[Step] = &[
    ok("state c1", &[r#""status": "paused""#]),
    ok("list", &["paused"]),
    fails("pause c1", 1, &["container not running"]),
    fails("exec c1 /probe", 255, &["cannot exec in a paused container (use --ignore-paused to override)"]),
    fails("start c1", 1, &["cannot start a container in the paused state"]),
    fails("delete c1", 1, &["cannot delete container c1 that is not stopped: paused"]),
];

const STOPPED: &[Step] = &[
    ok("state c1", &[r#""status": "stopped""#, r#""pid": 0"#]),
    ok("list", &["stopped"]),
    fails("start c1", 1, &["cannot start a container that has stopped"]),
    fails("kill c1", 1, &["container not running"]),
    fails("kill c1 KILL", 1, &["container not running"]),
    fails("exec c1 /probe", 255, &["exec failed: cannot exec in a stopped container"]),
    fails("pause c1", 1, &["container not running"]),
    fails("resume c1", 1, &["container not paused"]),
];

#[test]
fn verbs_answer_as_runc_in_every_state() {
    let runtime = Runtime::new("verbs");
    let bundle = Bundle::probe(&["sleep", "100"]).dir("etc", 0o755).file("plain", "", 0o644);
    go(&runtime, "absent", ABSENT);
    runtime.create("c1", &bundle).ok();
    go(&runtime, "created", CREATED);
    runtime.create("c1", &bundle).fails(1, &["container with given ID already exists"]);
    runtime.run("c1", &bundle).fails(1, &["container with given ID already exists"]);
    runtime.cmd(&["start", "c1"]).ok();
    go(&runtime, "running", RUNNING);
    runtime.cmd(&["pause", "c1"]).ok();
    assert!(runtime.frozen("c1"));
    go(&runtime, "paused", PAUSED);
    runtime.cmd(&["resume", "c1"]).ok();
    assert!(!runtime.frozen("c1"));
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    go(&runtime, "stopped", STOPPED);
    runtime.cmd(&["delete", "c1"]).ok();
    go(&runtime, "deleted", ABSENT);
}

/// Other processes without a handler end on these signals. The kernel would not even deliver them to an init.
#[test]
fn signals_end_a_created_container() {
    let runtime = Runtime::new("signal-created");
    for signal in ["TERM", "HUP", "INT", "KILL"] {
        runtime.create("c1", &Bundle::probe(&["sleep", "100"])).ok();
        runtime.cmd(&["kill", "c1", signal]).ok();
        runtime.until("c1", "stopped");
        runtime.cmd(&["delete", "c1"]).ok();
    }
    // Signals that do not end it are not lost.
    let bundle = Bundle::probe(&["report", "signals", "+", "sleep", "100"]);
    let creating = runtime.on("create", "c1", &bundle).spawn();
    let number = creating.number;
    creating.wait().ok();
    runtime.cmd(&["kill", "c1", "WINCH"]).ok();
    runtime.until("c1", "created");
    runtime.cmd(&["start", "c1"]).ok();
    wait_until(|| runtime.stdout_of(number).contains('\n'), || "no report".into());
    let report: Value = serde_json::from_str(runtime.stdout_of(number).trim()).unwrap();
    assert_eq!(report["signals"]["blocked"], json!([]), "{report}");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.assert_clean("signals");
}

#[test]
fn created_container_can_be_deleted() {
    let runtime = Runtime::new("delete-created");
    runtime.create("c1", &Bundle::probe(&["sleep", "100"])).ok();
    runtime.cmd(&["delete", "c1"]).ok();
    runtime.assert_clean("delete");
}

#[test]
fn kill_ends_a_paused_container() {
    let runtime = Runtime::new("kill-paused");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    runtime.cmd(&["pause", "c1"]).ok();
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
}

#[test]
fn force_delete_ends_a_running_container() {
    let runtime = Runtime::new("delete-force");
    for paused in [false, true] {
        runtime.start("c1", &Bundle::probe(&["orphans", "3", "100", "+", "sleep", "100"]));
        if paused {
            runtime.cmd(&["pause", "c1"]).ok();
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        runtime.assert_clean("delete --force");
    }
}

#[test]
fn kill_all_reaches_processes_in_the_hosts_pid_namespace() {
    let runtime = Runtime::new("kill-all");
    let bundle = Bundle::probe(&["orphans", "2", "100", "+", "sleep", "100"]).host_namespace("pid");
    runtime.start("c1", &bundle);
    runtime.cmd(&["kill", "--all", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
    runtime.assert_clean("kill --all");
}

#[test]
fn state_and_list_print_the_json_of_runc() {
    let runtime = Runtime::new("json");
    let bundle = Bundle::probe(&["sleep", "100"]).set("/annotations", json!({"org.example.a": "b", "c": "d\n\"e"}));
    runtime.start("c1", &bundle);
    let state = runtime.state("c1");
    let expected = json!({
        "ociVersion": state["ociVersion"], "id": "c1", "pid": state["pid"], "status": "running", "bundle": bundle.path(),
        "rootfs": bundle.rootfs(), "created": state["created"], "annotations": {"org.example.a": "b", "c": "d\n\"e"},
        "owner": ""
    });
    assert_eq!(state, expected);
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    let exe = || std::fs::read_link(format!("/proc/{}/exe", state["pid"])).unwrap();
    wait_until(|| exe().ends_with("probe"), || format!("{} is {}", state["pid"], exe().display()));
    let created = state["created"].as_str().unwrap();
    assert!(created.len() >= 20 && created.ends_with('Z') && created.contains('T'), "{created} is not RFC 3339 in UTC");

    let text = runtime.cmd(&["list", "--format", "json"]).ok().stdout;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    for key in ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations"] {
        assert_eq!(list[0][key], state[key], "{key} in {text}");
    }
    assert_eq!(list[0]["owner"], "root", "{text}");
    let order = ["\"ociVersion\"", "\"id\"", "\"pid\"", "\"status\"", "\"bundle\""].map(|key| text.find(key).unwrap());
    assert!(order.is_sorted(), "{text}");

    let ps: Value = serde_json::from_str(&runtime.cmd(&["ps", "--format", "json", "c1"]).ok().stdout).unwrap();
    assert_eq!(ps, json!([state["pid"]]));
}

#[test]
fn list_prints_the_table_of_runc() {
    let runtime = Runtime::new("table");
    let bundle = Bundle::probe(&["sleep", "100"]);
    runtime.start("a-longer-name", &bundle);
    let state = runtime.state("a-longer-name");
    let table = runtime.cmd(&["list"]).ok().stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let pid = state["pid"].to_string();
    let path = bundle.path().to_str().unwrap();
    assert_eq!(rows[1], ["a-longer-name", &pid, "running", path, state["created"].as_str().unwrap(), "root"]);
    let columns = |line: &str, word: &str| line.find(word).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(columns(lines[0], "STATUS"), columns(lines[1], "running"), "{table}");
}

#[test]
fn spec_writes_the_default_config_once() {
    let runtime = Runtime::new("spec");
    let dir = runtime.work().join("spec");
    std::fs::create_dir(&dir).unwrap();
    runtime.call(&["spec"]).dir(&dir).wait().ok();
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let mut written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["process"]["terminal"], true);
    assert_eq!(written["process"]["args"], json!(["sh"]));
    written["process"]["terminal"] = json!(false);
    written["process"]["args"] = json!(["/probe", "report"]);
    let mut expected = default_config();
    for field in ["ociVersion", "hostname"] {
        expected[field] = written[field].clone();
    }
    // berth may mask more than runc: GHSA-7ww5-4wqc-m92c (RAPL) is not in runc's list.
    for path in expected["linux"]["maskedPaths"].as_array().unwrap() {
        assert!(written["linux"]["maskedPaths"].as_array().unwrap().contains(path), "{path} not masked");
    }
    expected["linux"]["maskedPaths"] = written["linux"]["maskedPaths"].clone();
    assert_eq!(written, expected);
    runtime.call(&["spec"]).dir(&dir).wait().fails(1, &["File config.json exists. Remove it first"]);
    let elsewhere = runtime.work().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    runtime.cmd(&["spec", "--bundle", elsewhere.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(elsewhere.join("config.json")).unwrap(), text);
}

#[test]
fn run_exits_with_the_status_of_its_process() {
    let runtime = Runtime::new("status");
    let rows: &[(&[&str], i32)] = &[
        (&["exit", "0"], 0),
        (&["exit", "1"], 1),
        (&["exit", "42"], 42),
        (&["exit", "126"], 126),
        (&["exit", "127"], 127),
        (&["exit", "255"], 255),
        // Init is immune to its own SIGKILL, but not to a fault of its own.
        (&["syscall", "200:1,11"], 0),
    ];
    for (words, code) in rows {
        let out = runtime.run("c1", &Bundle::probe(words));
        assert_eq!(out.code, *code, "{words:?}: {out:#?}");
    }
}

#[test]
fn run_forwards_signals_to_its_process() {
    let runtime = Runtime::new("forward");
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGINT] {
        let run: Running = runtime.on("run", "c1", &Bundle::probe(&["say", "up", "+", "signal"])).spawn();
        let number = run.number;
        wait_until(
            || runtime.stdout_of(number).contains("up"),
            || format!("signal {signal}: never ran: {:?}", runtime.all_stdout()),
        );
        let pid = rustix::process::Pid::from_raw(run.pid().cast_signed()).unwrap();
        let signal_name = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal_name).unwrap();
        let out = run.wait();
        assert_eq!(out.code, 128 + signal, "{out:#?}");
        assert_eq!(out.json()["signal"], signal);
    }
}

#[test]
fn detached_run_and_exec_write_pid_files() {
    let runtime = Runtime::new("detach");
    let (init, other) = (runtime.work().join("init.pid"), runtime.work().join("exec.pid"));
    let bundle = Bundle::probe(&["sleep", "100"]);
    runtime.on("run", "c1", &bundle).with(&["--detach", "--pid-file", init.to_str().unwrap()]).wait().ok();
    assert_eq!(std::fs::read_to_string(&init).unwrap(), runtime.pid("c1").to_string());
    let options = ["exec", "--detach", "--pid-file", other.to_str().unwrap(), "c1", "/probe", "sleep", "99"];
    runtime.cmd(&options).ok();
    let pid: u32 = std::fs::read_to_string(&other).unwrap().parse().unwrap();
    let command = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    wait_until(|| command() == "/probe\0sleep\x0099\0", || format!("it runs {:?}", command()));
    let ps: Vec<u32> = serde_json::from_str(&runtime.cmd(&["ps", "-f", "json", "c1"]).ok().stdout).unwrap();
    assert!(ps.contains(&pid), "{pid} not in {ps:?}");
}

#[test]
fn run_with_keep_keeps_the_container() {
    let runtime = Runtime::new("keep");
    runtime.on("run", "c1", &Bundle::probe(&["exit", "3"])).with(&["--keep"]).wait().fails(3, &[]);
    assert_eq!(runtime.state("c1")["status"], "stopped");
    runtime.cmd(&["delete", "c1"]).ok();
}

#[test]
fn errors_are_logged_as_json_lines_for_go_runc() {
    let runtime = Runtime::new("log");
    let log = runtime.work().join("log.json");
    let options = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let out = runtime.call(&["state", "nope"]).global(&options).wait().fails(1, &["container does not exist"]);
    assert!(!out.stderr.contains("level="), "{out:#?}");
    runtime.on("create", "c1", &Bundle::probe(&[]).args(&["no\"such"])).global(&options).wait().fails(1, &[]);
    let lines = std::fs::read_to_string(&log).unwrap();
    let entries: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let errors: Vec<_> = entries.iter().filter(|e| e["level"] == "error").collect();
    assert_eq!(errors.len(), 2, "{lines}");
    assert_eq!(errors[0]["msg"], "container does not exist");
    assert!(errors[0]["time"].as_str().unwrap().contains('T'), "{lines}");
    let last = errors[1]["msg"].as_str().unwrap();
    assert!(last.contains(r#"exec: "no\"such": executable file not found in $PATH"#), "{lines}");
}

#[test]
fn version_has_the_form_that_go_runc_reads() {
    let out = Runtime::new("version").cmd(&["--version"]).ok();
    let mut lines = out.stdout.lines();
    let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
    assert_eq!((first.len(), first[1]), (3, "version"), "{out:#?}");
    assert!(lines.any(|l| l.strip_prefix("spec: ").is_some_and(|v| v.starts_with("1."))), "{out:#?}");
}
