//! Runs a runtime on each cgroup version that this machine can offer. On a v1 machine the v2 run is in a mount
//! namespace where the v2 hierarchy covers the v1 ones.

use crate::{cgroup, runtime::Runtime};

/// A v2 hierarchy without controllers suffices for tests of processes.
const UNIFIED: &str = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";

impl Runtime {
    /// Returns a runtime for each cgroup version, with the name of the version.
    pub fn in_each_cgroup_version(name: &str) -> Vec<(&'static str, Self)> {
        if cgroup::is_v2() {
            return vec![("cgroup v2", Self::new(name))];
        }
        let mut unified = Self::new(name);
        unified.before = ["unshare", "-m", "sh", "-c", UNIFIED].map(str::to_owned).to_vec();
        vec![("cgroup v1", Self::new(name)), ("cgroup v2", unified)]
    }
}
