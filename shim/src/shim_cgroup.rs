//! The cgroup of the shim itself (option `ShimCgroup`). The administrator makes it beforehand, so that the memory and
//! CPU time of shims are counted there. The runtime makes the cgroups of containers.

use std::path::{Component, Path, PathBuf};

use berth_runtime::{Context, Error, Kind, Result};

/// Moves this process into `cgroup` in each mounted hierarchy that has it.
///
/// # Errors
/// The path contains `..`, no hierarchy has the cgroup, or the kernel refuses the move.
pub fn join(cgroup: &str) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let relative = relative(cgroup)?;
    let mut joined = false;
    for directory in hierarchies(&mounts).iter().map(|mount| mount.join(&relative)).filter(|dir| dir.is_dir()) {
        let file = directory.join("cgroup.procs");
        std::fs::write(&file, "0").with_context(|| format!("ShimCgroup: write {}", file.display()))?;
        joined = true;
    }
    if joined { Ok(()) } else { Err(Error::new(Kind::NotFound, format!("ShimCgroup {cgroup:?}: no such cgroup"))) }
}

fn relative(cgroup: &str) -> Result<PathBuf> {
    let path = Path::new(cgroup.trim_start_matches('/'));
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && path != Path::new("") {
        Ok(path.to_owned())
    } else {
        Err(Error::invalid(format!("ShimCgroup {cgroup:?}: not a plain path below the root")))
    }
}

/// The mount points of cgroup file systems in the lines of proc(5)'s mountinfo. Those have no blanks in their names.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let parse = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let kind = source.split(' ').next()?;
        matches!(kind, "cgroup" | "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cgroup_hierarchies_are_listed() {
        let mounts = "25 1 8:1 / / rw - ext4 /dev/sda rw\n\
            30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
            33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 25 0:30 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n";
        let want = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu,cpuacct"].map(PathBuf::from);
        assert_eq!(hierarchies(mounts), want);
    }

    #[test]
    fn a_shim_cgroup_path_with_dots_is_refused() {
        assert_eq!(relative("/a/b").unwrap(), Path::new("a/b"));
        for bad in ["", "/", "a/../b", "../a", "/./../x"] {
            assert!(relative(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_shim_cgroup_is_named() {
        let e = join("/berth-test/there/is/none").unwrap_err();
        assert_eq!(e.to_string(), "ShimCgroup \"/berth-test/there/is/none\": no such cgroup");
    }
}
