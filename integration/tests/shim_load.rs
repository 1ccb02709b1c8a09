//! Many calls, lost clients, dead shims: no call is lost, no memory grows, and nothing is left behind. `BERTH_EXECS` sets
//! the number of execs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    procs,
    shim::{CALL, Shim, stdio::Stdio},
    soak::{self, execs::one},
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{ConnectRequest, DeleteRequest},
    ttrpc::context,
};
use rustix::process::Signal;
use std::time::Duration;

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
    soak::execs::soak(soak::number("BERTH_EXECS", 600));
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
