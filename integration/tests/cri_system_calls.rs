//! Counts by strace the calls by which the shim makes a process: one execve, and one clone, or two for a process in a
//! shared pid namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    by_path,
    containerd::{Containerd, Runtime},
    pod::{Pod, container_config},
    strace::Joined,
};

by_path!(shim_makes_a_process_with_one_exec_and_at_most_two_clones);

fn shim_makes_a_process_with_one_exec_and_at_most_two_clones(containerd: &Containerd) {
    if containerd.runtime == Runtime::Runc {
        eprintln!("runc's shim runs runc, which runs itself: nothing to count");
        return;
    }
    let pod = Pod::run(containerd, "strace");
    let shim = containerd.shims()[0].pid;
    let first = pod.create(&container_config("first", &["sleep", "1000"]));
    first.start();
    let seen = traced(shim, || pod.start("second", &["sleep", "1000"]).exec(&["true"]));
    let (both_clones, both_execs) = count(&seen);
    let seen = traced(shim, || first.exec(&["true"]));
    let (clones, execs) = count(&seen);
    // The process that joins is not the process that the pid namespace, here the pod's, shows.
    assert_eq!((clones, execs), (2, 1), "an exec: {seen}");
    assert_eq!((both_clones, both_execs), (4, 2), "create, start and exec: {seen}");
    pod.stop();
    pod.remove();
}

/// Returns the output of strace for the process-making calls of `pid` and its threads while `work` runs.
fn traced<T>(pid: i32, work: impl FnOnce() -> T) -> String {
    let calls = "trace=clone,clone3,fork,vfork,execve,execveat";
    let strace = Joined::to(pid, &["-f", "-e", calls]);
    work();
    strace.leave()
}

/// Returns the numbers of new processes (without threads) and of executed programs.
fn count(seen: &str) -> (usize, usize) {
    let clones = ["clone(", "clone3(", "fork("].map(|call| seen.lines().filter(move |line| line.contains(call)));
    let clones = clones.into_iter().flatten().filter(|line| !line.contains("CLONE_THREAD"));
    let execs = seen.lines().filter(|line| line.contains("execve(") || line.contains("execveat("));
    (clones.count(), execs.count())
}
