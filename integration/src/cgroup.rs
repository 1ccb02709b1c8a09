//! Control groups as the host sees them. A path stands for its cgroup in every hierarchy of the machine, v1, v2 or
//! both.

use crate::{
    procs,
    wait::{LONG, until_true},
};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";

/// Returns whether only the v2 hierarchy is mounted.
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Returns the mount points of all hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![MOUNT.into()];
    }
    hierarchies_in(Path::new(MOUNT))
}

fn hierarchies_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("read the cgroup mounts").flatten();
    // Links such as cpu -> cpu,cpuacct name the same hierarchy twice.
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    dirs.filter(|dir| is_cgroup(dir)).collect()
}

/// Returns whether `dir` is in a cgroup filesystem. A plain directory may stand beside the hierarchies.
fn is_cgroup(dir: &Path) -> bool {
    /// CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC of statfs(2).
    const MAGIC: [i64; 2] = [0x0027_e0eb, 0x6367_7270];
    rustix::fs::statfs(dir).is_ok_and(|fs| MAGIC.contains(&fs.f_type))
}

/// Returns every cgroup directory at `path` (absolute inside a hierarchy) and below it, in all hierarchies, parents
/// first.
pub fn directories(path: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for hierarchy in hierarchies() {
        let mut todo = vec![hierarchy.join(path.trim_start_matches('/'))];
        while let Some(dir) = todo.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            todo.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
            found.push(dir);
        }
    }
    found
}

/// Returns the processes in `path` and below it, in all hierarchies.
pub fn processes(path: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = Vec::new();
    for dir in directories(path) {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != 0);
    pids
}

/// Reads a file of the cgroup `path` and trims it. `v1` is `controller/file` (such as `memory/memory.limit_in_bytes`),
/// `v2` is the name of the file on v2.
pub fn value(path: &str, v1: &str, v2: &str) -> String {
    let path = path.trim_start_matches('/');
    let file = if is_v2() {
        Path::new(MOUNT).join(path).join(v2)
    } else {
        let (controller, name) = v1.split_once('/').expect("controller/file");
        Path::new(MOUNT).join(controller).join(path).join(name)
    };
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display())).trim().to_owned()
}

/// Returns whether `path` is frozen in fact, and not only asked to freeze.
pub fn frozen(path: &str) -> bool {
    let state = value(path, "freezer/freezer.state", "cgroup.events");
    state == "FROZEN" || state.lines().any(|line| line == "frozen 1")
}

/// A cgroup outside of a container's own, in every hierarchy, as an administrator or an agent may make to move
/// processes there. Dropping it kills the processes in it.
pub struct OtherCgroup(String);

impl OtherCgroup {
    /// Makes the cgroup. Its parent may exist.
    pub fn new(path: &str) -> Self {
        for hierarchy in hierarchies() {
            let dir = hierarchy.join(path.trim_start_matches('/'));
            fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("mkdir {}: {e}", dir.display()));
            // A v1 cpuset begins without CPUs and memory nodes, and then takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above: Vec<_> = dir.ancestors().take_while(|above| above.join(file).exists()).collect();
                for pair in above.windows(2).rev() {
                    let [dir, parent] = pair else { continue };
                    if fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim().is_empty()) {
                        fs::write(dir.join(file), fs::read_to_string(parent.join(file)).unwrap()).unwrap();
                    }
                }
            }
        }
        Self(path.to_owned())
    }

    /// Moves a process into this cgroup, in every hierarchy.
    pub fn move_here(&self, pid: u32) {
        self.files("cgroup.procs").iter().for_each(|file| {
            fs::write(file, pid.to_string()).unwrap_or_else(|e| panic!("move {pid}: {}: {e}", file.display()));
        });
    }

    /// Freezes or thaws this cgroup by v1's freezer, which delays even SIGKILL. Returns false if there is no v1
    /// freezer.
    pub fn freeze(&self, frozen: bool) -> bool {
        let files = self.files("freezer.state");
        files.iter().for_each(|file| fs::write(file, if frozen { "FROZEN" } else { "THAWED" }).unwrap());
        !files.is_empty()
    }

    fn files(&self, name: &str) -> Vec<PathBuf> {
        directories(&self.0).into_iter().map(|dir| dir.join(name)).filter(|file| file.exists()).collect()
    }
}

impl Drop for OtherCgroup {
    fn drop(&mut self) {
        kill_and_remove(&self.0);
    }
}

/// Kills the processes in `path` and below it, frozen or not, and removes the directories.
pub fn kill_and_remove(path: &str) {
    until_true(&format!("cgroup {path} to go"), LONG, || {
        let dirs = directories(path);
        for dir in &dirs {
            // v1's freezer delays the end of a killed process. v2 ends frozen processes.
            fs::write(dir.join("freezer.state"), "THAWED").ok();
        }
        processes(path).into_iter().for_each(|pid| procs::kill(pid, Signal::KILL));
        dirs.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        directories(path).is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn plain_directory_is_not_a_hierarchy() {
        let scratch = Scratch::new("hierarchies");
        fs::create_dir(scratch.path().join("memory")).unwrap();
        assert_eq!(hierarchies_in(scratch.path()), Vec::<PathBuf>::new());
        assert!(!hierarchies().is_empty());
    }
}
