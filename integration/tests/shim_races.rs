//! Calls of the task service on one container or exec at the same time: each one succeeds or has a code that containerd
//! understands, of two that exclude each other one succeeds, each process has one exit, and nothing is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    race,
    shim::{Failure, Shim},
    wait::{LONG, until_true},
};
use berth_proto::ttrpc::Code;

type Call = fn(&Shim) -> Result<(), Failure>;

/// The state of the container or the exec in which the calls begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Created,
    Running,
    Stopped,
    ExecAdded,
    ExecRunning,
    ExecStopped,
}

/// Calls that begin at the same time.
struct Row {
    name: &'static str,
    from: From,
    calls: &'static [Call],
    /// The number of calls that succeed: the least and the most.
    winners: (usize, usize),
}

const START: Call = |shim| shim.start_process("c1", "").map(drop);
const KILL: Call = |shim| shim.kill("c1", "", 9, false);
const DELETE: Call = |shim| shim.delete("c1", "").map(drop);
const PAUSE: Call = |shim| shim.pause("c1");
const RESUME: Call = |shim| shim.resume("c1");
const STATS: Call = |shim| shim.stats("c1").map(drop);
const START_EXEC: Call = |shim| shim.start_process("c1", "e").map(drop);
const KILL_EXEC: Call = |shim| shim.kill("c1", "e", 9, false);
const DELETE_EXEC: Call = |shim| shim.delete("c1", "e").map(drop);
const WAIT_EXEC: Call = |shim| shim.wait("c1", "e").map(drop);

const ROWS: &[Row] = &[
    Row { name: "two starts", from: From::Created, calls: &[START, START], winners: (1, 1) },
    Row { name: "start and kill", from: From::Created, calls: &[START, KILL], winners: (1, 2) },
    Row { name: "start and delete", from: From::Created, calls: &[START, DELETE], winners: (1, 2) },
    Row { name: "pause and kill", from: From::Running, calls: &[PAUSE, KILL], winners: (1, 2) },
    Row { name: "two pauses and resume", from: From::Running, calls: &[PAUSE, RESUME, PAUSE], winners: (1, 3) },
    Row { name: "two kills and stats", from: From::Running, calls: &[KILL, STATS, KILL], winners: (1, 3) },
    Row { name: "kill and delete", from: From::Running, calls: &[KILL, DELETE], winners: (1, 2) },
    Row { name: "two deletes", from: From::Stopped, calls: &[DELETE, DELETE], winners: (1, 1) },
    Row { name: "two starts of an exec", from: From::ExecAdded, calls: &[START_EXEC, START_EXEC], winners: (1, 1) },
    Row { name: "start of an exec and kill", from: From::ExecAdded, calls: &[START_EXEC, KILL], winners: (1, 2) },
    Row {
        name: "start and delete of an exec",
        from: From::ExecAdded,
        calls: &[START_EXEC, DELETE_EXEC],
        winners: (1, 2),
    },
    Row { name: "start and kill of an exec", from: From::ExecAdded, calls: &[START_EXEC, KILL_EXEC], winners: (1, 2) },
    Row {
        name: "wait, kill of an exec and kill",
        from: From::ExecRunning,
        calls: &[WAIT_EXEC, KILL_EXEC, KILL],
        winners: (2, 3),
    },
    Row {
        name: "two deletes of an exec",
        from: From::ExecStopped,
        calls: &[DELETE_EXEC, DELETE_EXEC],
        winners: (1, 1),
    },
];

fn make(shim: &Shim, bundle: &Bundle, from: From) {
    shim.create("c1", bundle).unwrap();
    if from == From::Created {
        return;
    }
    shim.start_process("c1", "").unwrap();
    match from {
        From::Created | From::Running => {}
        From::Stopped => {
            shim.kill("c1", "", 9, false).unwrap();
            shim.wait("c1", "").unwrap();
        }
        From::ExecAdded => shim.exec("c1", "e", &["/probe", "sleep", "1000"], None).unwrap(),
        From::ExecRunning => drop(shim.run_exec("c1", "e", &["/probe", "sleep", "1000"], None)),
        From::ExecStopped => {
            shim.run_exec("c1", "e", &["/probe", "exit", "0"], None);
            shim.wait("c1", "e").unwrap();
        }
    }
}

/// Makes the calls at the same time, each on a thread of its own.
fn at_once<T: Send, C: Fn(&Shim) -> T + Sync>(shim: &Shim, calls: &[C]) -> Vec<T> {
    let barrier = std::sync::Barrier::new(calls.len());
    let start = |call: &C| {
        barrier.wait();
        call(shim)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = calls.iter().map(|call| scope.spawn(|| start(call))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A call that comes too late has one of these codes.
fn is_told(failure: &Failure) -> bool {
    matches!(failure.code, Code::NOT_FOUND | Code::FAILED_PRECONDITION | Code::ALREADY_EXISTS)
}

#[test]
fn calls_at_once_succeed_or_say_that_they_come_too_late() {
    let shim = Shim::start("races");
    let bundle = Bundle::probe(&["sleep", "1000"]);
    let mut rounds = 0;
    for row in ROWS {
        for _ in 0..race::rounds() / 2 {
            rounds += 1;
            make(&shim, &bundle, row.from);
            let answers = at_once(&shim, row.calls);
            let failures: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
            // An exec whose start was ended by a kill says so.
            let aborted = |failure: &Failure| row.from == From::ExecAdded && failure.code == Code::ABORTED;
            // On v1 the kill thaws the cgroup that the pause freezes.
            let thawed = |failure: &Failure| failure.message.contains("while freezing");
            let told = |f: &&Failure| is_told(f) || aborted(f) || thawed(f);
            assert!(failures.iter().all(told), "{}: {answers:#?}", row.name);
            let winners = answers.len() - failures.len();
            assert!((row.winners.0..=row.winners.1).contains(&winners), "{}: {answers:#?}", row.name);
            for answer in
                [shim.kill("c1", "", 9, false), shim.wait("c1", "").map(drop), shim.delete("c1", "").map(drop)]
            {
                assert!(answer.as_ref().err().is_none_or(is_told), "{answer:?}");
            }
            shim.state("c1", "").unwrap_err().is(Code::NOT_FOUND, &[]);
        }
    }
    until_true("all deletes to be told", LONG, || shim.events.count("delete c1") == rounds);
    assert_eq!(shim.events.count("exit c1/c1"), rounds, "{:?}", shim.events.words());
    // An exec that was started has one exit, and the exit of init is the last one.
    let (started, exits) = (shim.events.count("exec-started"), shim.events.count("exit c1/e"));
    assert_eq!(started, exits, "{:?}", shim.events.words());
    shim.assert_clean();
}

#[test]
fn creates_at_once_of_one_id_make_one_task() {
    let shim = Shim::start("race-creates");
    let requests: Vec<_> = (0..4).map(|_| shim.request("c1", &Bundle::probe(&["sleep", "1000"]))).collect();
    let calls: Vec<_> =
        requests.iter().map(|request| move |shim: &Shim| shim.create_as(request.clone()).map(drop)).collect();
    for _ in 0..race::rounds() {
        let answers = at_once(&shim, &calls);
        let failures: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(failures.len(), 3, "{answers:#?}");
        assert!(failures.iter().all(|failure| failure.code == Code::ALREADY_EXISTS), "{answers:#?}");
        shim.start_process("c1", "").unwrap();
        shim.end("c1");
    }
    shim.assert_clean();
}
