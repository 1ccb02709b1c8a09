//! [`Reservation`]: a number that no other running test has, and the names, addresses and directories that follow from
//! it.

use crate::{
    cgroup,
    leak::{self, Marks},
    procs,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The environment variable with the number that the parent process holds.
const HELD: &str = "BERTH_RESERVATION";

/// A number that is unique among the tests running on this machine, and a directory. The kernel releases the lock with
/// the process, so the number of a killed test goes to the next test, which first clears its traces.
pub struct Reservation {
    number: u8,
    dir: PathBuf,
    sockets: Mutex<BTreeSet<PathBuf>>,
    _lock: Option<File>,
}

impl Reservation {
    /// Takes the first free number, or the number that a parent process holds and named in `BERTH_RESERVATION`.
    pub fn take() -> Self {
        if let Ok(number) = std::env::var(HELD) {
            return Self::new(number.parse().expect("a number in BERTH_RESERVATION"), None);
        }
        let locks = std::env::temp_dir().join("berth-slots");
        fs::create_dir_all(&locks).expect("make the directory of the locks");
        for number in 0..=250 {
            let lock = File::create(locks.join(number.to_string())).expect("make a lock file");
            if lock.try_lock().is_ok() {
                return Self::new(number, Some(lock));
            }
        }
        panic!("no free reservation: are 250 tests running?");
    }

    /// Returns the variable and the value by which a child process uses this reservation.
    pub fn lend(&self) -> (&'static str, String) {
        (HELD, self.number.to_string())
    }

    fn new(number: u8, lock: Option<File>) -> Self {
        let dir = std::env::temp_dir().join(format!("berth-lab-{number}"));
        let reservation = Self { number, dir, sockets: Mutex::default(), _lock: lock };
        reservation.clear();
        fs::create_dir_all(&reservation.dir).expect("make the directory of the reservation");
        reservation
    }

    /// Returns the directory. Its path is short enough for sockets in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a prefix for names of containers and networks.
    pub fn tag(&self) -> String {
        format!("berth-lab-{}", self.number)
    }

    /// Records that a shim serves the pod or container `id` of containerd's `namespace`. The shim's socket lies in the
    /// machine-wide directory and is named by the SHA-256 of containerd's address, the namespace and the id.
    pub fn expect_shim(&self, namespace: &str, id: &str) {
        let name = self.dir.join("c.sock").join(namespace).join(id);
        let hash = Sha256::digest(name.as_os_str().as_encoded_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.sockets.lock().expect("lock").insert(Path::new("/run/containerd/s").join(hash));
    }

    /// Returns the existing sockets of the recorded shims, with or without a listener.
    pub fn shim_sockets(&self) -> Vec<PathBuf> {
        self.sockets.lock().expect("lock").iter().filter(|path| path.exists()).cloned().collect()
    }

    /// Returns the parent of all cgroups of this reservation, as an absolute path inside each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.tag())
    }

    /// Returns the name of a bridge device (at most 15 bytes).
    pub fn bridge(&self) -> String {
        format!("berthlab{}", self.number)
    }

    /// Returns a network of 254 addresses in a private range that is rarely routed.
    pub fn subnet(&self) -> String {
        format!("10.213.{}.0/24", self.number)
    }

    /// Returns everything on the host that belongs to this reservation, one line each: processes, cgroups, mounts, shim
    /// sockets, state directories, bundles and network namespaces. Children of the test itself are left out, since they
    /// end with it.
    pub fn traces(&self) -> BTreeSet<String> {
        let marks = Marks { cgroup: &self.tag(), variable: None, dirs: &[&self.dir] };
        let me = std::process::id().cast_signed();
        let mut processes = marks.processes();
        processes.extend(procs::mentioning(&self.dir).into_iter().filter(|process| procs::alive(process.pid)));
        let processes = processes.iter().filter(|process| process.parent != me && process.pid != me);
        let others = marks.traces().into_iter().filter(|trace| !trace.starts_with("process "));
        let mut traces: BTreeSet<_> = others.chain(processes.map(leak::line_of)).collect();
        traces.extend(self.shim_sockets().iter().map(|path| format!("socket {}", path.display())));
        traces.extend(leak::states(&self.dir).iter().map(|path| format!("state {}", path.display())));
        let state = self.dir.join("state");
        let pods = state.join("io.containerd.sandbox.controller.v1.shim");
        for bundles in [state.join("io.containerd.runtime.v2.task"), pods, self.dir.join("runc")] {
            for namespace in fs::read_dir(bundles).into_iter().flatten().flatten() {
                let entries = fs::read_dir(namespace.path()).into_iter().flatten().flatten();
                traces.extend(entries.map(|entry| format!("directory {}", entry.path().display())));
            }
        }
        let netns = fs::read_dir(state.join("netns")).into_iter().flatten().flatten();
        traces.extend(netns.map(|entry| format!("netns {}", entry.path().display())));
        traces
    }

    /// Kills every process of this reservation and removes its mounts, cgroups, bridge and files.
    pub fn clear(&self) {
        procs::kill_mentioning(&self.dir);
        cgroup::kill_and_remove(&self.cgroup());
        procs::kill_mentioning(&self.dir);
        procs::unmount_below(&self.dir);
        let bridge = self.bridge();
        if Path::new("/sys/class/net").join(&bridge).exists() {
            let gone = std::process::Command::new("ip").args(["link", "delete", &bridge]).output();
            assert!(gone.is_ok_and(|o| o.status.success()), "ip link delete {bridge}");
        }
        for socket in self.shim_sockets() {
            fs::remove_file(&socket).ok();
        }
        for state in leak::states(&self.dir) {
            fs::remove_dir_all(&state).ok();
        }
        for left in fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten() {
            if left.file_name().to_string_lossy().starts_with(&format!("{}-", self.tag())) {
                fs::remove_file(left.path()).ok();
            }
        }
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).unwrap_or_else(|e| panic!("remove {}: {e}", self.dir.display()));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.clear();
    }
}
