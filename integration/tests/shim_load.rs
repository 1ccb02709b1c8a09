//! Many calls, lost clients, dead shims: no call is lost, no memory grows, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    procs,
    shim::{
        CALL, Shim,
        container::{exec_request, process},
        stdio::Stdio,
    },
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{ConnectRequest, DeleteRequest, StartRequest, TaskClient, WaitRequest},
    ttrpc::context,
};
use rustix::process::Signal;
use std::time::Duration;

/// Returns the number of execs of the long test. The environment may ask for more (10,000 before a release).
fn execs() -> usize {
    std::env::var("BERTH_EXECS").ok().and_then(|n| n.parse().ok()).unwrap_or(600)
}

/// Calls Exec, Start, Wait and Delete for a process that exits with `status`. Returns the answers of Wait and Delete.
async fn one(client: &TaskClient, exec: &str, status: u32) -> (u32, u32) {
    let ctx = || context::with_duration(CALL);
    let (id, exec_id) = ("c1".to_owned(), exec.to_owned());
    let words = status.to_string();
    let request = exec_request("c1", exec, &process(&["/probe", "exit", &words]), None);
    client.exec(ctx(), &request).await.unwrap();
    let wait = WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    client
        .start(ctx(), &StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() })
        .await
        .unwrap();
    let waited = client.wait(ctx(), &wait).await.unwrap().exit_status;
    let deleted = client.delete(ctx(), &DeleteRequest { id, exec_id, ..Default::default() }).await.unwrap();
    (waited, deleted.exit_status)
}

#[test]
fn sixty_four_concurrent_execs_succeed() {
    let shim = Shim::start("sixtyfour");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    let client = shim.connection();
    let (_, _, memory) = shim.size();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let client = client.clone();
            shim.runtime().spawn(async move { (n, one(&client, &format!("e{n}"), n).await) })
        })
        .collect();
    // State answers while the execs are made.
    for _ in 0..20 {
        assert_eq!(shim.phase("c1", ""), "RUNNING");
    }
    for task in tasks {
        let (n, statuses) = shim.runtime().block_on(task).unwrap();
        assert_eq!(statuses, (n, n));
    }
    until_true("all exits to be told", LONG, || shim.events.count("exit") == 64);
    let words = shim.events.words();
    for n in 0..64 {
        let at = |word: String| words.iter().position(|w| *w == word).unwrap_or_else(|| panic!("no {word}"));
        assert!(at(format!("exec-added c1 e{n}")) < at(format!("exec-started c1 e{n}")));
        assert!(at(format!("exec-started c1 e{n}")) < at(format!("exit c1/e{n} {n}")));
    }
    // The execs took 600 kB and more. Some pages stay in use between free ones.
    until_true("their memory to be given back", LONG, || shim.size().2 <= memory + 64);
    shim.end("c1");
}

#[test]
fn execs_leave_no_memory_or_descriptors_in_the_shim() {
    let shim = Shim::start("many");
    shim.run("c1", &Bundle::probe(&["sleep", "1000"]));
    let client = shim.connection();
    let round = |from: usize, to: usize| {
        shim.runtime().block_on(async {
            for n in from..to {
                let status = u32::try_from(n % 250).unwrap();
                assert_eq!(one(&client, &format!("e{n}"), status).await, (status, status), "exec {n}");
            }
        });
    };
    // Threads of the pool end after one idle second.
    let at_rest = || until_true("the shim to come to rest", LONG, || shim.size().1 == 1);
    round(0, 100);
    at_rest();
    let (fds, _, memory) = shim.size();
    round(100, 100 + execs());
    at_rest();
    // Free memory is returned some seconds later.
    until_true("memory to be as before", LONG, || shim.size().2 <= memory + memory / 20);
    let (fds_after, _, memory_after) = shim.size();
    eprintln!("descriptors {fds} {fds_after}, private dirty {memory} {memory_after} kB");
    assert!(fds_after <= fds, "descriptors: {fds} and then {fds_after}");
    until_true("all exits to be told", LONG, || shim.events.count("exit") == 100 + execs());
    // The control: processes that nobody deletes show in the same count.
    for n in 0..8 {
        shim.run_exec("c1", &format!("kept{n}"), &["/probe", "sleep", "1000"], None);
    }
    assert!(shim.size().0 > fds, "eight processes have no descriptor");
    shim.end("c1");
}

#[test]
fn create_goes_on_after_its_client_disconnects() {
    let shim = Shim::start("leaves");
    let bundle = Bundle::probe(&["sleep", "1000"]);
    let request = shim.request("c1", &bundle);
    // The create takes long enough, since its fifo's reader comes late.
    let stdout = berth_integration::shim::stdio::fifo(shim.work(), "late");
    let request = berth_proto::task::CreateTaskRequest { stdout: stdout.to_str().unwrap().into(), ..request };
    let (connection, connect) = (shim.connection(), ConnectRequest::default());
    shim.runtime().block_on(async {
        tokio::select! {
            biased;
            answer = connection.create(context::with_duration(CALL), &request) => panic!("{answer:?}"),
            // The answer on the same connection shows that the create has begun.
            _ = connection.connect(context::with_duration(CALL), &connect) => (),
        }
    });
    drop(connection);
    let _reader = berth_integration::shim::stdio::Stream::read(&stdout);
    shim.events.until("create c1");
    assert_eq!(shim.phase("c1", ""), "CREATED");
    shim.delete("c1", "").unwrap();
}

#[test]
fn delete_completes_after_its_client_timed_out() {
    let shim = Shim::start("timeout");
    shim.run("c1", &Bundle::busybox(&["/bin/sh", "-c", "sleep 1000"], &["sh", "sleep"]));
    let stdio = Stdio::outputs(shim.work(), "e");
    shim.run_exec("c1", "e", &["/bin/sh", "-c", "sleep 1000 &"], Some(&stdio));
    shim.wait("c1", "e").unwrap();
    // Delete waits for the output, whose pipe a grandchild holds open.
    let delete = DeleteRequest { id: "c1".into(), exec_id: "e".into(), ..Default::default() };
    shim.call(Duration::from_millis(200), async |c, ctx| c.delete(ctx, &delete).await).unwrap_err();
    until_true("the stream to be ended", LONG, || stdio.out.ended());
    shim.end("c1");
}

#[test]
fn delete_action_cleans_up_after_a_killed_shim() {
    let shim = Shim::start("killed");
    let bundle = Bundle::probe(&["sleep", "1000"]);
    let pid = shim.run("c1", &bundle);
    shim.run_exec("c1", "e", &["/probe", "sleep", "1000"], None);
    procs::kill(shim.pid, Signal::KILL);
    until_true("the shim to die", LONG, || !procs::alive(shim.pid));
    assert!(procs::alive(i32::try_from(pid).unwrap()), "the container outlives its shim");
    let answer = shim.delete_action("c1", bundle.path());
    assert_eq!((answer.pid, answer.exit_status), (pid, 137));
    shim.assert_clean();
    // containerd may call delete again for a container that is already cleaned up.
    shim.delete_action("c1", bundle.path());
}

#[test]
fn orphans_in_the_hosts_pid_namespace_are_reaped() {
    let shim = Shim::start("orphans");
    let bundle = Bundle::busybox(&["/bin/sh", "-c", "sleep 1000"], &["sh", "sleep"]).host_namespace("pid");
    shim.run("c1", &bundle);
    for n in 0..20 {
        // The shell exits, and its child becomes a child of the shim and exits a moment later.
        shim.run_exec("c1", &format!("e{n}"), &["/bin/sh", "-c", "sleep 0.2 & exit 7"], None);
    }
    for n in 0..20 {
        assert_eq!(shim.status("c1", &format!("e{n}")), 7);
    }
    let children = || procs::all().into_iter().filter(|p| p.parent == shim.pid).count();
    until_true("only init to be left", LONG, || children() == 1);
    shim.end("c1");
}
