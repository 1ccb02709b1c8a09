//! `ctr task`: exec, pause, resume, kill, metrics, the list of processes, and the errors of each in the wrong state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Runtime},
    matrix,
    pod::parse,
    procs,
    task::{Task, run},
    wait::{LONG, until, until_true},
};

matrix!(
    ctr_exec_passes_streams_and_exit_codes,
    ctr_pauses_resumes_and_kills_a_paused_task,
    ctr_kill_reaches_init_all_processes_or_one_exec,
    ctr_shows_metrics_and_processes,
    ctr_calls_in_the_wrong_state_are_refused,
    ctr_log_uri_writes_a_file
);

/// Exits with 7 on SIGTERM.
const POLITE: &str = "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done";

fn ctr_exec_passes_streams_and_exit_codes(containerd: &Containerd) {
    containerd.import_for_ctr();
    let task = Task::start(containerd, "exec", &["--env", "FROM=container"], &["sleep", "1000"]);
    // ctr may stop reading when it learns of the exit, so the process waits until its output is read.
    let mut exec = task.exec_in_pipes(&["sh", "-c", "echo $FROM; echo bad >&2; read line; exit 42"]);
    exec.expect("container\n");
    exec.expect("bad\n");
    exec.send("on\n");
    assert_eq!(exec.finish(), 42, "{}", exec.heard());
    assert_eq!(task.exec(&["true"]).code(), 0);
    assert_eq!(task.exec(&["false"]).code(), 1);
    assert_eq!(task.exec(&["sh", "-c", "kill -9 $$"]).code(), 137);
    assert_eq!(task.exec(&["sh", "-c", "kill -15 $$"]).code(), 143);
    let said = task.exec(&["no-such-program"]).failed();
    assert!(said.contains("no-such-program") && said.contains("executable file not found in $PATH"), "{said}");
    let said = task.exec(&["/bad/data"]).failed();
    assert!(said.contains("permission denied"), "{said}");
    let mut shell = task.exec_on_terminal(&[
        "sh",
        "-c",
        "until stty size | grep 111; do usleep 20000; done; read -r w; echo \"<$w>\"; read -r w; exit 3",
    ]);
    shell.expect("37 111");
    shell.send("word\n");
    shell.expect("<word>");
    shell.send("on\n");
    assert_eq!(shell.finish(), 3, "{}", shell.heard());
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    assert_eq!(task.reap(), 137);
    task.remove();
}

fn ctr_pauses_resumes_and_kills_a_paused_task(containerd: &Containerd) {
    containerd.import_for_ctr();
    let script = "while :; do echo tick; usleep 20000; done > /tmp/ticks";
    let task = Task::start(containerd, "pause", &[], &["sh", "-c", script]);
    let ticks = format!("/proc/{}/root/tmp/ticks", task.pid());
    let size = || std::fs::metadata(&ticks).map_or(0, |file| file.len());
    until_true("ticks", LONG, || size() > 0);
    task.verb("pause", &[]).ok();
    assert_eq!(task.find().unwrap().1, "PAUSED");
    assert!(cgroup::frozen(&task.cgroup()));
    let said = task.exec(&["true"]).failed();
    assert!(said.contains("paus"), "exec in a paused container: {said}");
    task.verb("resume", &[]).ok();
    assert_eq!(task.find().unwrap().1, "RUNNING");
    let before = size();
    until_true("more ticks", LONG, || size() > before);
    // A paused container can be killed.
    task.verb("pause", &[]).ok();
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    if task.find().is_some_and(|found| found.1 == "PAUSED") {
        // On cgroup v1 a frozen process dies when it is thawed. containerd's shim for runc leaves the thaw to the
        // caller.
        task.verb("resume", &[]);
    }
    assert_eq!(task.reap(), 137);
    task.remove();
}

fn ctr_kill_reaches_init_all_processes_or_one_exec(containerd: &Containerd) {
    containerd.import_for_ctr();
    let task = Task::start(containerd, "polite", &[], &["sh", "-c", POLITE]);
    // The shell sets the trap a moment after the start.
    until_true("the trap", LONG, || task.exec(&["pidof", "sleep"]).status.success());
    task.verb("kill", &["--signal", "SIGTERM"]).ok();
    assert_eq!(task.reap(), 7);
    task.remove();
    // --all reaches every process. Without its own pid namespace nothing else would end the second one.
    let task = Task::start(containerd, "all", &[], &["sh", "-c", "sleep 1001 & exec sleep 1002"]);
    until_true("both", LONG, || cgroup::processes(&task.cgroup()).len() == 2);
    let pids = cgroup::processes(&task.cgroup());
    task.verb("kill", &["--all", "--signal", "SIGKILL"]).ok();
    until_true("both gone", LONG, || pids.iter().all(|pid| !procs::alive(*pid)));
    assert_eq!(task.reap(), 137);
    task.remove();
    // An exec gets signals of its own.
    let task = Task::start(containerd, "exec", &[], &["sleep", "1000"]);
    containerd.ctr(["task", "exec", "--detach", "--exec-id", "long", &task.id, "sleep", "1003"]).ok();
    task.verb("kill", &["--exec-id", "long", "--signal", "SIGKILL"]).ok();
    until_true("the exec to end", LONG, || cgroup::processes(&task.cgroup()).len() == 1);
    assert_eq!(task.find().unwrap().1, "RUNNING");
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    assert_eq!(task.reap(), 137);
    task.remove();
}

fn ctr_shows_metrics_and_processes(containerd: &Containerd) {
    containerd.import_for_ctr();
    let task = Task::start(
        containerd,
        "metrics",
        &["--memory-limit", "67108864"],
        &["sh", "-c", "sleep 1001 & exec sleep 1002"],
    );
    until_true("both", LONG, || cgroup::processes(&task.cgroup()).len() == 2);
    let list = task.verb("ps", &[]).ok();
    let mut listed: Vec<i32> =
        list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, cgroup::processes(&task.cgroup()), "{list}");
    // The kernel counts threads that are ending until they are gone.
    let metrics = until("two tasks alone to be counted", LONG, || {
        let metrics = parse(&task.verb("metrics", &["--format", "json"]).ok());
        (metrics["pids"]["current"].as_u64() == Some(2)).then_some(metrics)
    });
    let text = metrics.to_string();
    let memory = &metrics["memory"]["usage"];
    let (usage, limit) = match memory["limit"].as_u64() {
        Some(limit) => (memory["usage"].as_u64().unwrap(), limit),
        None => (memory.as_u64().expect(&text), metrics["memory"]["usage_limit"].as_u64().expect(&text)),
    };
    assert!(usage > 0 && limit == 67_108_864, "{text}");
    assert!(metrics["cpu"].is_object(), "{text}");
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    task.reap();
    task.remove();
}

fn ctr_calls_in_the_wrong_state_are_refused(containerd: &Containerd) {
    containerd.import_for_ctr();
    let task = Task::start(containerd, "moments", &[], &["sleep", "1000"]);
    let said = run(containerd, "moments", &[], &["true"]).failed();
    assert!(said.contains("already exists"), "a second container of one id: {said}");
    let said = task.verb("start", &[]).failed();
    assert!(said.contains("already exists") || said.contains("already started"), "a second start: {said}");
    let said = task.verb("delete", &[]).failed();
    assert!(said.contains("must be stopped") || said.contains("running"), "delete of a running task: {said}");
    let said = task.verb("resume", &[]).failed();
    assert!(said.contains("not paused") || said.contains("running"), "resume of a running task: {said}");
    containerd.ctr(["task", "exec", "--detach", "--exec-id", "one", &task.id, "sleep", "1004"]).ok();
    let said = containerd.ctr(["task", "exec", "--exec-id", "one", &task.id, "true"]).failed();
    assert!(said.contains("already exists"), "a second exec of one id: {said}");
    assert_eq!(task.find().unwrap().1, "RUNNING");
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    task.await_status("STOPPED");
    let said = task.exec(&["true"]).failed();
    assert!(said.contains("stopped") || said.contains("not running"), "exec in a stopped container: {said}");
    let said = task.verb("kill", &["--signal", "SIGKILL"]).failed();
    assert!(said.contains("already finished") || said.contains("not found"), "kill of a stopped task: {said}");
    assert_eq!(task.reap(), 137);
    let said = task.verb("delete", &[]).failed();
    assert!(said.contains("not found"), "a second delete: {said}");
    task.remove();
}

fn ctr_log_uri_writes_a_file(containerd: &Containerd) {
    containerd.import_for_ctr();
    let file = containerd.dir().join("logs-of/one/file.log");
    let uri = format!("file://{}", file.display());
    let task = Task::start(containerd, "file", &["--log-uri", &uri], &["sh", "-c", "echo one; echo two >&2; exit 9"]);
    assert_eq!(task.reap(), 9);
    let mut lines: Vec<_> = std::fs::read_to_string(&file).unwrap().lines().map(String::from).collect();
    lines.sort();
    // Only berth promises that the whole output is in the file when Delete answers.
    let all = containerd.runtime != Runtime::Runc;
    assert!(lines == ["one", "two"] || !all && lines.iter().all(|line| line == "one" || line == "two"), "{lines:?}");
    task.remove();
}
