//! Many pods at once, some of them killed, under a containerd that is restarted meanwhile; and very many execs through
//! one shim. `BERTH_PODS` and `BERTH_EXECS` set the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    cgroup,
    containerd::{Containerd, Form, Runtime, Version},
    matrix,
    pod::{container_config, parse, pod_config},
    procs,
    task::Task,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// The number of concurrent pods or execs.
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

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap_or_else(|e| panic!("{variable}={value}: {e}")))
}

fn churn(containerd: &Containerd) {
    let pods = number("BERTH_PODS", 30);
    let (next, done, lived) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= pods {
                        return;
                    }
                    lived.fetch_add(usize::from(live(containerd, n)), Ordering::Relaxed);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until_true("half of the pods", LONG * 10, || done.load(Ordering::Relaxed) * 2 >= pods);
        containerd.kill();
        containerd.launch();
    });
    let lived = lived.into_inner();
    assert!(lived * 4 >= pods, "{lived} of {pods} pods had an exec");
    // A killed containerd could not remove everything; that is removed now.
    until_true("all pods to be gone", LONG, || {
        let left = containerd.crictl(["pods", "--quiet"]).ok();
        left.lines().for_each(|id| drop(containerd.crictl(["rmp", "--force", id])));
        left.is_empty()
    });
    containerd.clear_forgotten_netns();
    containerd.clear_hidden_bundles();
    containerd.excuse_runc("sockets and cgroups of killed shims");
}

/// Runs one pod from runp to rmp. Every fifth pod is killed at some moment: its shim, or all its processes. Commands
/// that meet a kill or the restart may fail; only the traces left in the end count. Returns true if an exec succeeded.
fn live(containerd: &Containerd, n: usize) -> bool {
    let name = format!("churn-{n}");
    let file = |kind: &str, config: serde_json::Value| {
        let file = containerd.dir().join(format!("{kind}-{name}.json"));
        std::fs::write(&file, config.to_string()).unwrap();
        file.display().to_string()
    };
    let pod_file = file("pod", pod_config(containerd, &name));
    let pod = containerd.crictl(["runp", "--runtime", containerd.runtime.handler(), &pod_file]);
    let id = pod.stdout.trim().to_owned();
    if id.is_empty() {
        return false;
    }
    containerd.reservation.expect_shim("k8s.io", &id);
    let lived = thread::scope(|scope| {
        if n % 5 == 4 {
            scope.spawn(|| kill_some(containerd, &id, n));
        }
        let script = "sleep 1001 & echo started; exec sleep 1002";
        let main = file("main", container_config("main", &["sh", "-c", script]));
        let container = containerd.crictl(["create", "--no-pull", &id, &main, &pod_file]).stdout.trim().to_owned();
        containerd.crictl(["start", &container]);
        containerd.crictl(["exec", "--sync", &container, "true"]).status.success()
    });
    containerd.crictl(["stopp", &id]);
    containerd.crictl(["rmp", "--force", &id]);
    lived
}

/// Kills the pod's shim or the processes of its containers, after a delay that differs from pod to pod.
fn kill_some(containerd: &Containerd, id: &str, n: usize) {
    thread::sleep(std::time::Duration::from_millis((n as u64 * 7919) % 250));
    if n.is_multiple_of(2) {
        let shims = containerd.shims().into_iter().filter(|shim| shim.line.contains(id));
        shims.for_each(|shim| procs::kill(shim.pid, Signal::KILL));
    } else {
        let status = containerd.crictl(["inspectp", id]);
        if let Some(pid) = status.status.success().then(|| parse(&status.stdout)["info"]["pid"].as_i64()).flatten() {
            procs::kill(i32::try_from(pid).unwrap(), Signal::KILL);
        }
    }
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
