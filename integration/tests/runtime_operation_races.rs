//! Operations on one container at the same time: each one succeeds or says why it does not, of two that exclude each
//! other one succeeds, and nothing is left in the end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    race,
    runtime::{Output, Runtime},
};
use serde_json::{Value, json};
use std::fs;

/// The state of the container in which the operations begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Created,
    Running,
    Stopped,
}

/// Operations that begin at the same time.
struct Row {
    name: &'static str,
    from: From,
    /// The command lines without the id, which is the word `c1`.
    calls: &'static [&'static [&'static str]],
    /// The words of a call that fails: it has one of them.
    says: &'static [&'static str],
    /// The number of calls that succeed: the least and the most.
    winners: (usize, usize),
}

const KILL: &[&str] = &["kill", "c1", "KILL"];
const DELETE: &[&str] = &["delete", "c1"];
const FORCE: &[&str] = &["delete", "--force", "c1"];
const EXEC: &[&str] = &["exec", "c1", "/probe", "exit", "0"];
const PAUSE: &[&str] = &["pause", "c1"];
const RESUME: &[&str] = &["resume", "c1"];
const START: &[&str] = &["start", "c1"];
const STATE: &[&str] = &["state", "c1"];
const UPDATE: &[&str] = &["update", "--pids-limit", "50", "c1"];

const GONE: &[&str] = &["does not exist", "not running", "stopped", "no such process", "not created"];

const ROWS: &[Row] = &[
    Row {
        name: "exec and kill",
        from: From::Running,
        calls: &[EXEC, KILL],
        says: &["cannot exec in a stopped container"],
        winners: (1, 2),
    },
    Row {
        name: "execs and delete",
        from: From::Running,
        calls: &[EXEC, EXEC, FORCE],
        says: &["does not exist", "cannot exec in a stopped container", "paused"],
        winners: (1, 3),
    },
    Row {
        name: "pause and kill",
        from: From::Running,
        calls: &[PAUSE, KILL],
        // A process that has been killed leaves its cgroup first.
        says: &["does not exist", "not running", "stopped", "not in its cgroup", "while freezing"],
        winners: (1, 2),
    },
    Row {
        name: "pause, resume and kill",
        from: From::Running,
        calls: &[PAUSE, RESUME, KILL],
        says: &["not paused", "not running", "does not exist", "stopped", "not in its cgroup", "while freezing"],
        winners: (1, 3),
    },
    Row { name: "kill and delete", from: From::Running, calls: &[KILL, FORCE], says: GONE, winners: (1, 2) },
    Row {
        name: "start and delete",
        from: From::Created,
        calls: &[START, FORCE],
        // On cgroup v1 the processes are killed while they are frozen.
        says: &["does not exist", "stopped", "not running", "paused"],
        winners: (1, 2),
    },
    Row {
        name: "two starts",
        from: From::Created,
        calls: &[START, START],
        says: &["cannot start an already running container"],
        winners: (1, 1),
    },
    Row { name: "state and delete", from: From::Running, calls: &[STATE, FORCE, STATE], says: GONE, winners: (1, 3) },
    Row { name: "update and delete", from: From::Running, calls: &[UPDATE, FORCE], says: GONE, winners: (1, 2) },
    Row { name: "two deletes", from: From::Stopped, calls: &[DELETE, DELETE], says: GONE, winners: (1, 1) },
    Row { name: "two deletes by force", from: From::Running, calls: &[FORCE, FORCE], says: GONE, winners: (1, 2) },
];

fn made(runtime: &Runtime, from: From) {
    let bundle = Bundle::probe(&["signal"]);
    runtime.create("c1", &bundle).ok();
    if from != From::Created {
        runtime.cmd(START).ok();
    }
    if from == From::Stopped {
        runtime.cmd(KILL).ok();
        runtime.until("c1", "stopped");
    }
}

fn at_once(runtime: &Runtime, calls: &[&[&str]]) -> Vec<Output> {
    let running: Vec<_> = calls.iter().map(|words| runtime.call(words).spawn()).collect();
    running.into_iter().map(|call| call.wait()).collect()
}

/// Runs a row many times. Returns the first fault.
fn fault(row: &Row) -> Option<String> {
    let runtime = Runtime::new("operations");
    for _ in 0..race::rounds() {
        made(&runtime, row.from);
        let outs = at_once(&runtime, row.calls);
        runtime.cmd(FORCE).ok();
        let failed = outs.iter().filter(|out| out.code != 0);
        // An exec whose process was killed has the status of the signal and no words.
        let killed = |out: &Output| out.words.starts_with("exec") && out.code == 137;
        let says = |out: &Output| row.says.iter().any(|word| out.stderr.contains(word));
        let told = |out: &Output| killed(out) || says(out);
        let winners = outs.len() - failed.clone().count();
        let left = runtime.ids();
        if !failed.clone().all(told) || !(row.winners.0..=row.winners.1).contains(&winners) || !left.is_empty() {
            return Some(format!("{}: {outs:#?}, left {left:?}", row.name));
        }
    }
    let left = runtime.residue();
    (!left.is_empty()).then(|| format!("{}: left behind {left:#?}", row.name))
}

#[test]
fn operations_at_once_succeed_or_say_why_they_do_not() {
    if !skipped_on_runc("operations at once", "it does not exclude them") {
        let faults: Vec<_> = ROWS.iter().filter_map(fault).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

#[test]
fn creates_of_one_id_at_once_make_one_container() {
    let runtime = Runtime::new("creates");
    let bundles: Vec<_> = (0..4).map(|_| Bundle::probe(&["signal"])).collect();
    for _ in 0..race::rounds() {
        let running: Vec<_> = bundles.iter().map(|bundle| runtime.on("create", "c1", bundle).spawn()).collect();
        let outs: Vec<_> = running.into_iter().map(|call| call.wait()).collect();
        let (made, refused): (Vec<_>, Vec<_>) = outs.iter().partition(|out| out.code == 0);
        assert_eq!(made.len(), 1, "{outs:#?}");
        assert!(refused.iter().all(|out| out.stderr.contains("exist")), "{refused:#?}");
        runtime.cmd(START).ok();
        assert_eq!(runtime.state("c1")["status"], "running");
        runtime.cmd(FORCE).ok();
        runtime.assert_clean("creates of one id");
    }
}

/// The hook runs once for a container, however many deletes there are.
#[test]
fn deletes_at_once_run_the_poststop_hook_once() {
    if skipped_on_runc("deletes at once", "each one runs the hooks") {
        return;
    }
    let runtime = Runtime::new("deletes");
    let ran = runtime.work().join("ran");
    let script = format!("echo $$ >> {}", ran.display());
    let hook = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let bundle = Bundle::probe(&["signal"]).set("/hooks", hook);
    for n in 1..=race::rounds() * 2 {
        runtime.start("c1", &bundle);
        runtime.cmd(KILL).ok();
        runtime.until("c1", "stopped");
        let outs = at_once(&runtime, &[DELETE, FORCE, DELETE, FORCE]);
        assert_eq!(fs::read_to_string(&ran).unwrap().lines().count(), n, "{outs:#?}");
    }
    runtime.assert_clean("deletes");
}

/// `list` is whole and succeeds while containers come and go.
#[test]
fn list_succeeds_while_containers_come_and_go() {
    let runtime = Runtime::new("lists");
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let bundle = Bundle::probe(&["exit", "0"]);
            (0..race::rounds() * 3).for_each(|n| drop(runtime.run(&format!("c{}", n % 3), &bundle).ok()));
        });
        let mut lists = 0;
        while !churn.is_finished() || lists == 0 {
            let out = runtime.cmd(&["list", "--format", "json"]).ok();
            let list: Value = serde_json::from_str(out.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {out:#?}"));
            assert!(list.is_array() || list.is_null(), "{list}");
            lists += 1;
        }
        churn.join().unwrap();
    });
    runtime.assert_clean("a list");
}
