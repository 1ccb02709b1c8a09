//! Many pods that are probed for a long time: each probe has its result, and each shim stays as it was.

use super::{Table, settle};
use crate::{
    cgroup,
    containerd::Containerd,
    pod::{Container, Pod},
    procs,
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The number of probes at the same time.
const AT_ONCE: usize = 10;
/// The number of measurements after the first one.
const PARTS: u64 = 6;
/// The memory that may stay in use between free pages in each shim, in kB.
const MARGIN: u64 = 96;

/// Probes `pods` pods for `minutes`, and measures their shims.
pub fn soak(containerd: &Containerd, pods: usize, minutes: u64) -> Table {
    let mut table = Table::new(
        format!("{pods} pods, probed for {minutes} minutes"),
        &[
            "probes",
            "shims",
            "descriptors",
            "threads",
            "private memory (kB)",
            "largest shim (kB)",
            "mounts",
            "cgroups",
            "sockets",
        ],
    );
    let all: Vec<_> = (0..pods).map(|n| Pod::run(containerd, &format!("probed-{n}"))).collect();
    let containers: Vec<_> = all.iter().map(|pod| pod.start("main", &["sleep", "100000"])).collect();
    let probes = AtomicUsize::new(0);
    round(&containers, &probes, Instant::now());
    measure(containerd, &probes, &mut table);
    for _ in 0..PARTS.min(minutes.max(1)) {
        round(&containers, &probes, Instant::now() + Duration::from_secs(minutes * 60 / PARTS));
        measure(containerd, &probes, &mut table);
    }
    for name in ["shims", "descriptors", "threads", "mounts", "cgroups", "sockets"] {
        table.assert_flat(name, 0);
    }
    table.assert_flat("private memory (kB)", MARGIN * pods as u64);
    table.assert_flat("largest shim (kB)", MARGIN);
    thread::scope(|scope| {
        all.chunks(all.len().div_ceil(AT_ONCE).max(1)).for_each(|some| {
            scope.spawn(|| some.iter().for_each(Pod::clear));
        });
    });
    table
}

/// Probes each container at least once, and again until `end`.
fn round(containers: &[Container<'_>], probes: &AtomicUsize, end: Instant) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= containers.len() && Instant::now() >= end {
                        return;
                    }
                    let (container, fails) = (&containers[n % containers.len()], n % 3 == 2);
                    let out = container.exec(&[if fails { "false" } else { "true" }]);
                    assert_eq!(out.status.success(), !fails, "{out}");
                    probes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

fn measure(containerd: &Containerd, probes: &AtomicUsize, table: &mut Table) {
    settle();
    let shims: Vec<_> = containerd.shims().iter().map(|shim| procs::size(shim.pid)).collect();
    let descriptors: usize = shims.iter().map(|size| size.0).sum();
    let threads: usize = shims.iter().map(|size| size.1).sum();
    let memory = shims.iter().map(|size| size.2);
    let [mounts, cgroups, sockets] = [
        procs::mounts_below(containerd.dir()).len(),
        cgroup::directories(&containerd.reservation.cgroup()).len(),
        containerd.reservation.shim_sockets().len(),
    ];
    let counts = [probes.load(Ordering::Relaxed), shims.len(), descriptors, threads].map(|count| count as u64);
    let memory = [memory.clone().sum(), memory.max().unwrap_or(0)];
    table.add([&counts[..], &memory, &[mounts, cgroups, sockets].map(|count| count as u64)].concat());
}
