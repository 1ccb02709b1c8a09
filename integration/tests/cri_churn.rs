//! The short form of the soak through containerd: many pods at once, some of them killed, under a containerd that is
//! restarted meanwhile; pods that are probed; and very many execs through one shim. `BERTH_PODS` and `BERTH_EXECS` set
//! the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Form, Runtime, Version},
    matrix, procs,
    soak::{self, number},
    task::Task,
    wait::{LONG, until_true},
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// The number of concurrent execs.
const AT_ONCE: usize = 10;

#[test]
fn churning_pods_leave_nothing_under_containerd_2() {
    matrix::run(Version::V2_3, Form::ByPath, churn);
}

#[test]
fn churning_pods_leave_nothing_under_containerd_1() {
    matrix::run(Version::V1_6, Form::ByPath, churn);
}

#[test]
fn many_execs_leave_the_shim_as_it_was() {
    matrix::run(Version::V2_3, Form::ByPath, execs);
}

fn churn(containerd: &Containerd) {
    soak::churn::soak(containerd, number("BERTH_PODS", 30), 1);
}

#[test]
fn probed_pods_leave_their_shims_as_they_were() {
    matrix::run(Version::V2_3, Form::ByPath, |containerd| {
        if containerd.runtime != Runtime::Runc {
            soak::probes::soak(containerd, 3, 0);
        }
    });
}

fn execs(containerd: &Containerd) {
    containerd.import_for_ctr();
    let execs = number("BERTH_EXECS", 300);
    let task = Task::start(containerd, "execs", &[], &["sleep", "1000"]);
    let shim = containerd.shims()[0].pid;
    let round = |from: usize, to: usize| {
        let next = AtomicUsize::new(from);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= to {
                            return;
                        }
                        let (name, script) = (format!("exec-{n}"), format!("echo {n}; exit {}", n % 256));
                        let out = containerd.ctr(["task", "exec", "--exec-id", &name, &task.id, "sh", "-c", &script]);
                        assert_eq!(out.code(), i32::try_from(n % 256).unwrap(), "{out}");
                        // ctr stops reading when it learns of the exit, on a loaded machine even before it has read.
                        assert!(out.stdout.is_empty() || out.stdout.trim() == n.to_string(), "{out}");
                    }
                });
            }
        });
    };
    round(0, 50);
    // Idle threads end a moment later.
    let threads = || std::fs::read_dir(format!("/proc/{shim}/task")).unwrap().count();
    let settled = |bound: usize| until_true("idle threads to end", LONG, || threads() <= bound);
    if containerd.runtime != Runtime::Runc {
        settled(1);
    }
    let before = procs::size(shim);
    round(50, 50 + execs);
    if containerd.runtime == Runtime::Runc {
        eprintln!("runc's shim: {before:?}, then {:?}", procs::size(shim));
    } else {
        settled(before.1);
        // The shim closes a connection or a stream a moment after its last answer, and returns free memory later.
        let grown = |after: (usize, usize, u64)| after.0 > before.0 || after.2 > before.2 + 256;
        let fits = || !grown(procs::size(shim));
        until_true(&format!("open files and memory to be as before, {before:?}"), LONG, fits);
    }
    assert_eq!(cgroup::processes(&task.cgroup()).len(), 1);
    task.verb("kill", &["--signal", "SIGKILL"]).ok();
    assert_eq!(task.reap(), 137);
    task.remove();
}
