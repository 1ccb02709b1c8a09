//! The runtime in each kind of cgroups that this machine can show it: its own, and where that is v1 also v2 alone, in mount
//! namespaces in which the v2 hierarchy lies over the others.

use crate::{cgroup, runtime::Runtime};

/// A v2 hierarchy without controllers is enough for what is done to processes.
const UNIFIED: &str = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";

impl Runtime {
    /// One for each kind, which it tells.
    pub fn in_each_cgroup_version(name: &str) -> Vec<(&'static str, Self)> {
        if cgroup::unified() {
            return vec![("cgroup v2", Self::new(name))];
        }
        let mut unified = Self::new(name);
        unified.before = ["unshare", "-m", "sh", "-c", UNIFIED].map(str::to_owned).to_vec();
        vec![("cgroup v1", Self::new(name)), ("cgroup v2", unified)]
    }
}
