//! Pods that come and go beside kills of shims and processes, out-of-memory kills, full disks, failing and succeeding
//! execs, and a containerd that is killed and started again. Each exit reaches the CRI status, and nothing is left.

use super::Table;
use crate::{
    containerd::{Containerd, Runtime},
    pod::{container_config, parse, pod_config},
    procs,
    wait::{LONG, until_true},
};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// The number of pods at the same time.
const AT_ONCE: usize = 10;
/// The number of pods between two kills of containerd.
const RESTART_EVERY: usize = 50;

/// The end of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A container exits by itself, and execs succeed and fail.
    Exit,
    /// The kernel kills a container for want of memory.
    OutOfMemory,
    /// The disk of the logs is full.
    FullDisk,
    /// The pod's first process is killed.
    Killed,
    /// The shim is killed.
    ShimKilled,
}

impl Fate {
    const ALL: [Self; 10] = [
        Self::Exit,
        Self::OutOfMemory,
        Self::Exit,
        Self::FullDisk,
        Self::ShimKilled,
        Self::Exit,
        Self::OutOfMemory,
        Self::Exit,
        Self::Exit,
        Self::Killed,
    ];

    fn of(n: usize) -> Self {
        Self::ALL[n % Self::ALL.len()]
    }

    /// Returns the script of the container that exits, and its exit code.
    fn script(self, n: usize) -> (String, usize) {
        match self {
            // tail(1) keeps the last line, and the device has no end of a line.
            Self::OutOfMemory => ("tail /dev/zero".into(), 137),
            Self::FullDisk => {
                (format!("dd if=/dev/zero bs=1k count=512 2> /dev/null | tr '\\0' x; exit {}", n % 256), n % 256)
            }
            Self::Exit | Self::Killed | Self::ShimKilled => (format!("exit {}", n % 256), n % 256),
        }
    }
}

/// The counts of a churn.
#[derive(Debug, Default)]
struct Tally {
    next: AtomicUsize,
    done: AtomicUsize,
    exits: AtomicUsize,
    /// The exits that containerd took and then lost with its own death.
    lost: AtomicUsize,
    execs: AtomicUsize,
    kills: AtomicUsize,
    restarts: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Lets `pods` pods come and go in some parts. After each part the machine must be as it was at
/// [`Containerd::remember`].
pub fn soak(containerd: &Containerd, pods: usize, parts: usize) -> Table {
    let mut table = Table::new(
        format!("{pods} pods, {AT_ONCE} at the same time"),
        &[
            "pods",
            "exits right",
            "exits lost by containerd",
            "execs right",
            "kills",
            "restarts of containerd",
            "containerd's memory (kB)",
        ],
    );
    let tally = Tally::default();
    for part in 1..=parts {
        churn(containerd, &tally, pods * part / parts);
        clear(containerd);
        containerd.assert_clean();
        let counts = [&tally.done, &tally.exits, &tally.lost, &tally.execs, &tally.kills, &tally.restarts];
        let counts = counts.map(|counter| counter.load(Ordering::Relaxed) as u64);
        table.add([&counts[..], &[procs::size(containerd.pid()).2]].concat());
    }
    let [exits, execs] = ["exits right", "execs right"].map(|name| table.column(name).last().copied().unwrap_or(0));
    assert!(exits * 4 >= pods as u64 && execs * 4 >= pods as u64, "too few pods lived: {table}");
    table
}

/// Runs the pods up to number `to`, and kills containerd now and then. With runc's shim containerd lives on, since exits are
/// lost between the two.
fn churn(containerd: &Containerd, tally: &Tally, to: usize) {
    let from = tally.next.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let n = tally.next.fetch_add(1, Ordering::Relaxed);
                        if n >= to {
                            return;
                        }
                        live(containerd, n, tally);
                        count(&tally.done);
                    }
                })
            })
            .collect();
        let mut kill_at = from + (to - from).min(RESTART_EVERY) / 2;
        while workers.iter().any(|worker| !worker.is_finished()) {
            if tally.done.load(Ordering::Relaxed) >= kill_at && containerd.runtime != Runtime::Runc {
                count(&tally.restarts);
                containerd.kill();
                containerd.launch();
                kill_at += RESTART_EVERY;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    // Each worker took one number more.
    tally.next.store(to, Ordering::Relaxed);
}

/// Removes the pods and files that a killed containerd could not remove.
fn clear(containerd: &Containerd) {
    until_true("all pods to be gone", LONG, || {
        let left = containerd.crictl(["pods", "--quiet"]).ok();
        left.lines().for_each(|id| drop(containerd.crictl(["rmp", "--force", id])));
        left.is_empty()
    });
    containerd.clear_forgotten_netns();
    containerd.clear_hidden_bundles();
    containerd.excuse_runc("sockets and cgroups of killed shims");
}

/// Runs one pod from runp to rmp. Commands that meet a kill or a restart may fail; a container that was started must be
/// seen to exit with its code, unless something of its pod was killed.
fn live(containerd: &Containerd, n: usize, tally: &Tally) {
    let (name, fate) = (format!("soak-{n}"), Fate::of(n));
    let file = |kind: &str, config: Value| {
        let file = containerd.dir().join(format!("{kind}-{name}.json"));
        fs::write(&file, config.to_string()).unwrap();
        file.display().to_string()
    };
    let config = pod_config(containerd, &name);
    let _disk = (fate == Fate::FullDisk).then(|| SmallDisk::mount(config["log_directory"].as_str().unwrap().into()));
    let pod = file("pod", config);
    let id = containerd.crictl(["runp", "--runtime", containerd.runtime.handler(), &pod]).stdout.trim().to_owned();
    if id.is_empty() {
        return;
    }
    containerd.reservation.expect_shim("k8s.io", &id);
    let start = |kind: &str, config: Value| {
        let file = file(kind, config);
        let container = containerd.crictl(["create", "--no-pull", &id, &file, &pod]).stdout.trim().to_owned();
        let started = !container.is_empty() && containerd.crictl(["start", &container]).status.success();
        started.then_some(container)
    };
    thread::scope(|scope| {
        let killed = matches!(fate, Fate::Killed | Fate::ShimKilled);
        if killed {
            scope.spawn(|| kill_some(containerd, &id, n, fate));
            count(&tally.kills);
        }
        let script = "sleep 1001 & echo started; exec sleep 1002";
        if let Some(main) = start("main", container_config("main", &["sh", "-c", script])) {
            execs(containerd, &main, tally);
        }
        let (script, code) = fate.script(n);
        let mut config = container_config("ends", &["sh", "-c", &script]);
        if fate == Fate::OutOfMemory {
            config["linux"]["resources"] = json!({"memory_limit_in_bytes": 16 << 20});
        }
        let restarts = tally.restarts.load(Ordering::Relaxed);
        if let Some(ends) = start("ends", config)
            && !killed
        {
            let status = exit(containerd, &ends);
            let restarted = tally.restarts.load(Ordering::Relaxed) > restarts;
            if restarted && (status.is_null() || lost_by_containerd(containerd, &id, &status)) {
                count(&tally.lost);
            } else {
                assert_eq!(status["exitCode"], code, "{status:#}");
                count(&tally.exits);
            }
        }
    });
    containerd.crictl(["stopp", &id]);
    containerd.crictl(["rmp", "--force", &id]);
}

/// Runs probes that succeed and fail, and counts the right ones. A restart of containerd may end others.
fn execs(containerd: &Containerd, id: &str, tally: &Tally) {
    for code in [0, 7] {
        let out = containerd.crictl(["exec", "--sync", id, "sh", "-c", &format!("exit {code}")]);
        assert!(code == 0 || !out.status.success(), "{out}");
        if out.status.success() || out.stderr.contains(&format!("exited with {code}:")) {
            count(&tally.execs);
        }
    }
}

/// Returns the CRI status that has the exit, also if containerd was away when it happened. Returns null for a container that
/// a containerd forgot, which could not load it at its start.
fn exit(containerd: &Containerd, id: &str) -> Value {
    let mut last = Value::Null;
    until_true(&format!("the exit of {id}"), LONG, || {
        let out = containerd.crictl(["inspect", id]);
        if out.status.success() {
            last = parse(&out.stdout)["status"].clone();
            return last["state"] == "CONTAINER_EXITED";
        }
        let forgotten = |line: &str| line.contains("Failed to load container status") && line.contains(id);
        let gone = containerd.log().lines().any(forgotten);
        if gone {
            last = Value::Null;
        }
        gone
    });
    last
}

/// Returns whether containerd asked the pod's living shim to delete the task and was killed before it had written the exit
/// down. containerd deletes first, and finds no task at its next start.
fn lost_by_containerd(containerd: &Containerd, pod: &str, status: &Value) -> bool {
    let id = status["id"].as_str().unwrap();
    let deleted = format!("\"shim disconnected\" id={id}");
    status["exitCode"] == 255
        && status["reason"] == "Unknown"
        && containerd.shims().iter().any(|shim| shim.line.contains(pod))
        && containerd.log().lines().any(|line| line.contains(&deleted))
}

/// Kills the pod's shim or its first process, after a delay that differs from pod to pod.
fn kill_some(containerd: &Containerd, id: &str, n: usize, fate: Fate) {
    thread::sleep(Duration::from_millis((n as u64 * 7919) % 250));
    if fate == Fate::ShimKilled {
        let shims = containerd.shims().into_iter().filter(|shim| shim.line.contains(id));
        shims.for_each(|shim| procs::kill(shim.pid, Signal::KILL));
        return;
    }
    let status = containerd.crictl(["inspectp", id]);
    if let Some(pid) = status.status.success().then(|| parse(&status.stdout)["info"]["pid"].as_i64()).flatten() {
        procs::kill(i32::try_from(pid).unwrap(), Signal::KILL);
    }
}

/// A small file system for the logs of a pod.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
