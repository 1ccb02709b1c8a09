//! The shim of a pod takes a new program. containerd and the containers of the pod see nothing of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    by_path, command,
    containerd::{Containerd, Runtime},
    pod::{Container, Pod},
    shim::upgrade::Programs,
    tools,
    wait::{LONG, until_true},
};
use std::process::Command;

by_path!(an_upgrade_of_its_shim_leaves_a_pod_as_it_is);

/// Prints a number ten times a second, and exits with 42 as soon as /tmp/go exists.
const COUNTER: &str =
    "i=0; until [ -e /tmp/go ]; do echo count $i; i=$((i+1)); usleep 100000; done; echo last; exit 42";

fn an_upgrade_of_its_shim_leaves_a_pod_as_it_is(containerd: &Containerd) {
    if containerd.runtime == Runtime::Runc {
        eprintln!("skipped: containerd's own shim takes no new program");
        return;
    }
    let (pod, programs) = (Pod::run(containerd, "upgraded"), Programs::default());
    let two = ["going", "ending"].map(|name| pod.start(name, &["sh", "-c", COUNTER]));
    two.iter().for_each(|container| drop(container.expect_log("count 2\n")));
    let ([going, ending], pids) = (&two, two.each_ref().map(Container::pid));
    let shims = containerd.shims().iter().map(|shim| shim.pid).collect::<Vec<_>>();
    let mut terminal = going.exec_on_terminal(&["sh", "-c", "echo ready; read line; echo got $line"]);
    terminal.expect("ready");
    let upgrade = |name: &str| {
        let socket = &containerd.reservation.shim_sockets()[0];
        let mut berth = Command::new(tools::built("berth"));
        // The directory has the sockets of other tests, too.
        berth.args(["upgrade", "--id", &pod.id, "--binary"]).arg(programs.shim(name));
        let said = command::run(berth.arg("--socket-dir").arg(socket.parent().unwrap()), LONG).ok();
        assert!(said.contains("pause"), "{said}");
    };
    upgrade("one");
    terminal.send("typed\n");
    terminal.expect("got typed");
    assert_eq!(terminal.finish(), 0);
    // An exit that no client waits for, and a containerd that comes back to the new program.
    containerd.kill();
    std::fs::write(format!("/proc/{}/root/tmp/go", pids[1]), "").unwrap();
    upgrade("two");
    containerd.launch();
    assert_eq!(containerd.shims().iter().map(|shim| shim.pid).collect::<Vec<_>>(), shims, "the same process");
    assert_eq!(ending.exited()["exitCode"], 42);
    assert_eq!((going.status()["state"].as_str(), going.pid()), (Some("CONTAINER_RUNNING"), pids[0]));
    assert_eq!(going.exec(&["echo", "still"]).stdout.trim(), "still");
    let before = going.log();
    until_true("the log to go on", LONG, || going.log().len() > before.len());
    upgrade("three");
    std::fs::write(format!("/proc/{}/root/tmp/go", pids[0]), "").unwrap();
    assert_eq!(going.exited()["exitCode"], 42);
    let log = going.expect_log("stdout F last\n");
    for n in 0..log.matches("count ").count() {
        assert_eq!(log.matches(&format!(" count {n}\n")).count(), 1, "line {n} is lost or doubled:\n{log}");
    }
    let after = pod.start("after", &["sleep", "1000"]);
    after.stop(0);
    pod.stop();
    pod.remove();
}
