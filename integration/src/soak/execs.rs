//! Very many execs of one shim, without containerd: each exit status is right, each exit is told once and after its
//! start, and the shim stays as it was.

use super::{Table, settle};
use crate::{
    bundle::Bundle,
    shim::{
        CALL, Shim,
        container::{exec_request, process},
    },
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{DeleteRequest, StartRequest, TaskClient, WaitRequest},
    ttrpc::context,
};
use std::collections::BTreeMap;

/// The number of execs at the same time.
const AT_ONCE: usize = 8;
/// The number of measurements.
const PARTS: usize = 10;
/// The memory that may stay in use between free pages, in kB.
const MARGIN: u64 = 96;

/// Calls Exec, Start, Wait and Delete of the container `c1` for a process that exits with `status`. Returns the answers
/// of Wait and Delete.
pub async fn one(client: &TaskClient, exec: &str, status: u32) -> (u32, u32) {
    let ctx = || context::with_duration(CALL);
    let (id, exec_id) = ("c1".to_owned(), exec.to_owned());
    let words = status.to_string();
    let request = exec_request("c1", exec, &process(&["/probe", "exit", &words]), None);
    client.exec(ctx(), &request).await.unwrap();
    let wait = WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    let start = StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    client.start(ctx(), &start).await.unwrap();
    let waited = client.wait(ctx(), &wait).await.unwrap().exit_status;
    let deleted = client.delete(ctx(), &DeleteRequest { id, exec_id, ..Default::default() }).await.unwrap();
    (waited, deleted.exit_status)
}

fn status(n: usize) -> u32 {
    u32::try_from(n % 250).unwrap()
}

/// Runs the execs `range`, some at the same time, and checks their statuses and events.
fn part(shim: &Shim, range: std::ops::Range<usize>) {
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            let (client, range) = (shim.connection(), range.clone());
            shim.runtime().spawn(async move {
                for n in range.skip(first).step_by(AT_ONCE) {
                    assert_eq!(one(&client, &format!("e{n}"), status(n)).await, (status(n), status(n)), "exec {n}");
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| shim.runtime().block_on(task).unwrap());
    until_true("all exits to be told", LONG, || shim.events.count("exit") == range.len());
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in shim.events.take() {
        let (kind, exec) = event.split_once(" c1").unwrap_or_else(|| panic!("{event}"));
        let (exec, status) = exec[1..].split_once(' ').unwrap_or((&exec[1..], ""));
        seen.entry(exec.to_owned()).or_default().push(format!("{kind} {status}"));
    }
    assert_eq!(seen.len(), range.len());
    for n in range {
        let wanted = ["exec-added ".to_owned(), "exec-started ".into(), format!("exit {}", status(n))];
        assert_eq!(seen[&format!("e{n}")], wanted, "exec {n}");
    }
}

/// Runs `execs` execs, and measures the shim ten times.
pub fn soak(execs: usize) -> Table {
    let mut table = Table::new(
        format!("{execs} execs of one shim, {AT_ONCE} at the same time"),
        &["execs", "exits told", "descriptors", "threads", "private memory (kB)"],
    );
    let shim = Shim::start("soak-execs");
    shim.run("c1", &Bundle::probe(&["sleep", "100000"]));
    shim.events.until("start c1");
    shim.events.take();
    let mut done = 0;
    // The first part shows what the shim keeps for its work.
    for n in 0..=PARTS {
        let to = if n == 0 { execs.min(100) } else { execs * n / PARTS };
        if to > done {
            part(&shim, done..to);
            done = to;
        }
        until_true("idle threads to end", LONG, || shim.size().1 == 1);
        if n == 0 || n == PARTS || execs > 10_000 {
            settle();
            let (descriptors, threads, memory) = shim.size();
            let figures = [done, done, descriptors, threads].map(|figure| figure as u64);
            table.add([&figures[..], &[memory]].concat());
        }
    }
    table.assert_flat("descriptors", 0);
    table.assert_flat("threads", 0);
    table.assert_flat("private memory (kB)", MARGIN);
    // The control: processes that nobody deletes show in the same count.
    for n in 0..8 {
        shim.run_exec("c1", &format!("kept{n}"), &["/probe", "sleep", "1000"], None);
    }
    assert!(shim.size().0 as u64 > table.column("descriptors")[0], "eight processes have no descriptor");
    shim.end("c1");
    table
}
