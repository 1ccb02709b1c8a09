//! A container that attacks its own shim: it can harm processes that join it, and never the other containers of the
//! pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    cgroup,
    shim::{
        CALL, Shim,
        container::{exec_request, process},
        failure, stdio,
    },
    wait::{LONG, until_true},
};
use berth_proto::{
    task::StartRequest,
    ttrpc::{Code, context},
};
use std::fs;

/// The number of execs in the hostile container: more than a shim makes at a time.
const EXECS: usize = 60;

/// Returns the number of stopped processes in the container.
fn stopped(shim: &Shim, id: &str) -> usize {
    let is_stopped = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    cgroup::processes(&shim.cgroup(id)).iter().filter(|pid| is_stopped(pid)).count()
}

/// Starts execs without waiting for the answers.
fn begin(shim: &Shim, id: &str, execs: &[String]) {
    let client = shim.connection();
    for exec in execs {
        shim.exec_as(exec_request(id, exec, &process(&["/probe", "sleep", "1000"]), None)).unwrap();
        let (client, request) =
            (client.clone(), StartRequest { id: id.into(), exec_id: exec.clone(), ..Default::default() });
        shim.runtime().spawn(async move { client.start(context::with_duration(CALL), &request).await });
    }
}

#[test]
fn container_that_stops_its_execs_blocks_no_other_container() {
    let shim = Shim::start("halt");
    shim.run("hostile", &Bundle::probe(&["halt"]));
    shim.run("other", &Bundle::probe(&["sleep", "1000"]));
    let execs: Vec<_> = (0..EXECS).map(|n| format!("e{n}")).collect();
    begin(&shim, "hostile", &execs);
    // The control: the container stops them, and a process that is stopped before its execve is not started.
    until_true("processes that join to be stopped", LONG, || stopped(&shim, "hostile") >= 4);
    until_true("starts to hang", LONG, || execs.iter().any(|e| shim.phase("hostile", e) == "CREATED"));

    shim.run_exec("other", "x", &["/probe", "exit", "7"], None);
    assert_eq!(shim.status("other", "x"), 7);
    shim.pause("other").unwrap();
    shim.resume("other").unwrap();
    shim.run("third", &Bundle::probe(&["exit", "3"]));
    assert_eq!(shim.status("third", ""), 3);
    shim.delete("third", "").unwrap();

    // Kill ends one half, and Delete alone ends those of the other half that are not made yet.
    let (killed, deleted) = execs.split_at(EXECS / 2);
    for exec in killed {
        until_true("the start to have begun", LONG, || shim.kill("hostile", exec, 9, false).is_ok());
        assert_eq!(shim.status("hostile", exec), 137, "{exec}");
        assert_eq!(shim.delete("hostile", exec).unwrap().exit_status, 137, "{exec}");
    }
    for exec in deleted {
        until_true("Delete to end the start", LONG, || {
            if shim.phase("hostile", exec) == "RUNNING" {
                // The exec was made before it was stopped.
                shim.kill("hostile", exec, 9, false).unwrap();
                assert_eq!(shim.status("hostile", exec), 137, "{exec}");
            }
            shim.delete("hostile", exec).is_ok()
        });
    }
    until_true("nothing to be left of them", LONG, || cgroup::processes(&shim.cgroup("hostile")).len() == 1);
    shim.end("hostile");
    shim.run_exec("other", "y", &["/probe", "exit", "8"], None);
    assert_eq!(shim.status("other", "y"), 8);
    shim.end("other");
}

#[test]
fn exec_without_a_fifo_reader_ends_by_kill_and_by_delete() {
    let shim = Shim::start("unopened");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    let client = shim.connection();
    for (exec, by_kill) in [("killed", true), ("deleted", false)] {
        let fifo = stdio::fifo(shim.work(), exec);
        let mut request = exec_request("c1", exec, &process(&["/probe", "exit", "0"]), None);
        request.stdout = fifo.to_str().unwrap().into();
        shim.exec_as(request).unwrap();
        let start = StartRequest { id: "c1".into(), exec_id: exec.into(), ..Default::default() };
        let client = client.clone();
        let starting = shim.runtime().spawn(async move { client.start(context::with_duration(CALL), &start).await });
        // The exec has no program yet that could handle another signal, and before Start there is nothing to kill.
        if by_kill {
            shim.kill("c1", exec, 10, false).unwrap_err().is(Code::FAILED_PRECONDITION, &["not created"]);
            until_true("the start to have begun", LONG, || shim.kill("c1", exec, 9, false).is_ok());
        } else {
            until_true("the start to have begun", LONG, || begun(&shim, exec));
            assert_eq!(shim.delete("c1", exec).unwrap().exit_status, 137);
        }
        let failure = failure(shim.runtime().block_on(starting).unwrap().unwrap_err());
        failure.is(Code::FAILED_PRECONDITION, &["killed before it was started"]);
        if by_kill {
            assert_eq!(shim.status("c1", exec), 137);
            shim.delete("c1", exec).unwrap();
        }
        assert_eq!(shim.events.count(&format!("exit c1/{exec}")), 0, "what was not started has no end");
    }
    shim.end("c1");
}

/// Returns whether the start of an exec of `c1` has begun: a second start is then refused.
fn begun(shim: &Shim, exec: &str) -> bool {
    shim.kill("c1", exec, 0, false).unwrap_err().is(Code::FAILED_PRECONDITION, &["not created"]);
    shim.start_process("c1", exec).is_err_and(|e| e.message.contains("was started before"))
}
