//! The protection of the shim's own process, and its bounds. Its containers have none of the restrictions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]
#![allow(clippy::disallowed_methods, reason = "the control of a crash is an ordinary process")]

use berth_integration::{
    bundle::Bundle,
    command::{self, DUMPING},
    procs,
    runtime::wait_until,
    scratch::Scratch,
    shim::{CALL, Kind, Shim, failure, stdio::Stdio},
    strace::Joined,
    wait::{LONG, until},
};
use berth_proto::{
    task::WaitRequest,
    ttrpc::{Code, context},
};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, waitpid};
use serde_json::{Value, json};
use std::{fs, os::unix::process::ExitStatusExt, process::Command};

#[test]
fn crash_of_the_shim_leaves_no_core_dump() {
    // `start` ends, and its server becomes a child of this process, which can then read its wait status.
    set_child_subreaper(Some(getpid())).unwrap();
    let shim = Shim::start_under(&DUMPING.map(str::to_owned), Kind::Berth, "core");
    procs::kill(shim.pid, Signal::ABORT);
    let (_, status) = waitpid(Pid::from_raw(shim.pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.terminating_signal(), Some(libc::SIGABRT), "{status:?}");
    assert_eq!(status.as_raw() & 0x80, 0, "a core dump: {status:?}");
    // The control: an ordinary program that crashes in the same directory.
    let mut crashing = Command::new(DUMPING[0]);
    crashing.args(&DUMPING[1..]).args(["sh", "-c", "kill -ABRT $$"]).current_dir(shim.work());
    assert!(command::wait(&mut crashing.spawn().unwrap(), LONG).unwrap().core_dumped(), "this machine dumps no core");
}

/// `PR_SET_MDWE` of the shim must not reach a payload: just-in-time compilers need such memory.
#[test]
fn payloads_of_the_shim_may_make_memory_executable_and_the_shim_may_not() {
    const REFUSED: i64 = -(libc::EINVAL as i64);
    let (shim, trace) = traced("mdwe");
    let [get, set] = ["66,0,0,0,0", "65,3,0,0,0"].map(|call| format!("{}:{call}", libc::SYS_prctl));
    let results = |output: String| -> Vec<i64> {
        let report: Value = serde_json::from_str(output.trim()).unwrap();
        report["syscall"].as_object().unwrap().values().map(|value| value.as_i64().unwrap()).collect()
    };
    let mut stdio = Stdio::outputs(shim.work(), "init");
    shim.run_with("c1", &Bundle::probe(&["syscall", &get, "+", "signal"]), &stdio);
    stdio.out.until("}\n");
    assert!(matches!(results(stdio.out.so_far()).as_slice(), [0 | REFUSED]));
    let mut exec = Stdio::outputs(shim.work(), "exec");
    shim.run_exec("c1", "e1", &["/probe", "syscall", &set, &get], Some(&exec));
    let control = results(exec.out.end());
    let supported = control == [0, 3];
    assert!(supported || control.first() == Some(&REFUSED), "{control:?}");
    shim.end("c1");
    stdio.out.end();
    shim.shut_down();
    let calls = trace.leave();
    let own = |line: &&str| line.contains("prctl(0x41") || line.contains("prctl(PR_SET_MDWE");
    let done = calls.lines().filter(own).filter(|line| line.ends_with("= 0")).count();
    // `start` and the server protect themselves. The payload that is the control makes the third call.
    assert_eq!(done, if supported { 3 } else { 0 }, "{calls}");
}

/// Starts a shim whose `start` and server are traced from their first instruction.
fn traced(name: &str) -> (Shim, Joined) {
    let work = Scratch::new(name);
    let file = work.path().join("pid");
    let stop = ["sh", "-c", "echo $$ > \"$0\"; kill -STOP $$; exec \"$@\"", file.to_str().unwrap()].map(str::to_owned);
    let joiner = std::thread::spawn(move || {
        let stopped =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "));
        let pid = until("start to stop", LONG, || {
            let text = fs::read_to_string(&file).ok()?;
            text.strip_suffix('\n')?.parse().ok().filter(stopped)
        });
        let trace = Joined::to(pid, &["-f", "-e", "trace=prctl"]);
        procs::kill(pid, Signal::CONT);
        trace
    });
    let shim = Shim::start_under(&stop, Kind::Berth, name);
    (shim, joiner.join().unwrap())
}

/// A hook without `env` gets the environment of containerd, and no variable of the shim's own.
#[test]
fn hooks_do_not_get_the_tunables_of_the_shim() {
    for given in [None, Some("glibc.malloc.check=0")] {
        let assigned = given.map(|value| format!("GLIBC_TUNABLES={value}"));
        let before: Vec<_> = ["env".to_owned()].into_iter().chain(assigned.clone()).collect();
        let shim = Shim::start_under(&before, Kind::Berth, "hook-env");
        let seen = shim.work().join("env");
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("env > {}", seen.display())]});
        shim.run("c1", &Bundle::probe(&["signal"]).set("/hooks", json!({"createRuntime": [hook]})));
        let text = fs::read_to_string(&seen).unwrap();
        let found: Vec<_> = text.lines().filter(|line| line.starts_with("GLIBC_TUNABLES")).collect();
        assert_eq!(found, assigned.iter().collect::<Vec<_>>(), "{text}");
        assert!(text.contains("PATH="), "{text}");
        // The server itself has its tunables.
        let own = fs::read_to_string(format!("/proc/{}/environ", shim.pid)).unwrap();
        assert!(own.contains("glibc.malloc.tcache_count=0"), "{own}");
        shim.end("c1");
    }
}

/// The largest number of Wait calls without an answer.
const MAX_WAITS: usize = 16 << 10;

#[test]
fn wait_calls_beyond_the_limit_are_refused_and_the_others_answered() {
    const MORE: usize = 64;
    let shim = Shim::start("waits");
    shim.run("c1", &Bundle::probe(&["signal"]));
    let (rest, mut refused, mut answered) = (shim.connection(), 0, 0);
    let calls: Vec<_> = (0..MAX_WAITS + MORE)
        .map(|_| {
            let client = rest.clone();
            shim.runtime().spawn(async move {
                let request = WaitRequest { id: "c1".into(), ..Default::default() };
                client.wait(context::with_duration(CALL), &request).await
            })
        })
        .collect();
    wait_until(
        || calls.iter().filter(|call| call.is_finished()).count() == MORE,
        || "not the number of refusals".into(),
    );
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    shim.kill("c1", "", 9, false).unwrap();
    for call in calls {
        match shim.runtime().block_on(call).unwrap() {
            Ok(_) => answered += 1,
            Err(e) => {
                failure(e).is(Code::RESOURCE_EXHAUSTED, &["Wait calls"]);
                refused += 1;
            }
        }
    }
    assert_eq!((answered, refused), (MAX_WAITS, MORE));
    shim.delete("c1", "").unwrap();
}
