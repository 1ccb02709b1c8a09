//! What is left behind: everything outside of a process's memory that belongs to one slot, as a list that can be compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::slot::Slot;
use crate::{cgroup, procs};

/// How long cleaning up may take. containerd tries a shim that does not answer for some seconds; one that containerd
/// started and, killed before it could say Create, does not remember, gives up by itself after a minute.
const SETTLE: Duration = Duration::from_secs(300);

/// The traces of one slot at one moment, each as one line that says what it is.
pub struct Snapshot {
    traces: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at mounts, cgroups, processes, shim sockets, state directories and network namespaces of `slot`.
    pub fn take(slot: &Slot) -> Self {
        let mut traces = BTreeSet::new();
        let dir = slot.dir();
        traces.extend(procs::mounts_below(dir).iter().map(|point| format!("mount {}", point.display())));
        traces.extend(cgroup::directories(&slot.cgroup()).iter().map(|path| format!("cgroup {}", path.display())));
        let mut pids: Vec<i32> = procs::mentioning(dir).into_iter().map(|process| process.pid).collect();
        pids.extend(cgroup::processes(&slot.cgroup()));
        let me = std::process::id().cast_signed();
        for process in pids.into_iter().filter(|pid| procs::alive(*pid)).filter_map(procs::one) {
            // Clients of the test itself end with it.
            if process.parent != me {
                traces.insert(format!("process {} {}", process.pid, process.line));
            }
        }
        traces.extend(slot.shim_sockets().iter().map(|path| format!("socket {}", path.display())));
        traces.extend(states(dir).iter().map(|path| format!("state {}", path.display())));
        let state = dir.join("state");
        for bundles in [state.join("io.containerd.runtime.v2.task"), dir.join("runc")] {
            for namespace in fs::read_dir(bundles).into_iter().flatten().flatten() {
                let entries = fs::read_dir(namespace.path()).into_iter().flatten().flatten();
                traces.extend(entries.map(|entry| format!("directory {}", entry.path().display())));
            }
        }
        let netns = fs::read_dir(state.join("netns")).into_iter().flatten().flatten();
        traces.extend(netns.map(|entry| format!("netns {}", entry.path().display())));
        Self { traces }
    }

    /// Panics when `slot` still has more (or less) than this after a bound; names the difference.
    ///
    /// The parent cgroup itself may have come: it is made once and removed with the slot.
    pub fn assert_same(&self, slot: &Slot) {
        let end = Instant::now() + SETTLE;
        loop {
            let now = Self::take(slot);
            let parent = slot.cgroup();
            let more: Vec<_> = now.traces.difference(&self.traces).filter(|trace| !trace.ends_with(&parent)).collect();
            let less: Vec<_> = self.traces.difference(&now.traces).collect();
            if more.is_empty() && less.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind: {more:#?}; missing: {less:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The runtimes' state directories of containers whose bundles are below `dir`: a file in them names it.
pub fn states(dir: &Path) -> Vec<PathBuf> {
    let dir = format!("{}/", dir.display());
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let mentions =
        |path: &Path| path.is_file() && fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&dir));
    let roots = ["/run/containerd/berth", "/run/containerd/runc", "/run/berth", "/run/runc"].map(Path::new);
    let namespaces: Vec<_> = roots.iter().flat_map(|root| list(root)).collect();
    let containers = namespaces.iter().flat_map(|namespace| list(namespace));
    namespaces.iter().cloned().chain(containers).filter(|path| list(path).iter().any(|file| mentions(file))).collect()
}
