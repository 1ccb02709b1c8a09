//! [`Delegation`]: a cgroup that belongs to an unprivileged user, in every hierarchy that can be delegated.

use crate::cgroup;
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

/// The files that belong to the user in a delegated cgroup (cgroups(7), "Delegation"), and v1's cpuset files, without
/// which no process can enter.
const FILES: [&str; 6] =
    ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks", "cpuset.cpus", "cpuset.mems"];

/// Two cgroup directories of one user, removed on drop: the delegated one, and below it one to call a runtime from. On
/// v2 a container without a path becomes a sibling of its caller, on v1 a child.
pub struct Delegation {
    path: String,
    dirs: Vec<PathBuf>,
}

impl Delegation {
    /// Delegates the cgroup `path`, below one of the test's own, to user `uid`.
    pub fn new(path: &str, uid: u32) -> Self {
        let mut delegation = Self { path: path.to_owned(), dirs: Vec::new() };
        for hierarchy in cgroup::hierarchies() {
            if !cgroup::is_v2() && hierarchy.join("cgroup.controllers").exists() {
                // The v2 hierarchy beside v1 cannot be delegated: to move a process there takes write access to the
                // root, where all processes are.
                continue;
            }
            let mut dir = hierarchy.clone();
            for part in path.trim_start_matches('/').split('/').chain(["caller"]) {
                enable(&dir);
                dir.push(part);
                if fs::create_dir(&dir).is_ok() {
                    delegation.dirs.push(dir.clone());
                }
                inherit(&dir);
            }
            for dir in [dir.parent().unwrap(), &dir] {
                chown(dir, Some(uid), Some(uid)).unwrap();
                for file in FILES.map(|file| dir.join(file)).iter().filter(|file| file.exists()) {
                    chown(file, Some(uid), Some(uid)).unwrap();
                }
            }
        }
        delegation
    }

    /// Returns the path in every hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the words that run a program, which follows them, from inside of the delegated cgroup.
    pub fn inside(&self) -> Vec<String> {
        let enter = |dir: &PathBuf| format!("echo $$ > {}/cgroup.procs", dir.display());
        let callers = self.dirs.iter().filter(|dir| dir.ends_with("caller"));
        let lines: Vec<_> = callers.map(enter).chain(["exec \"$@\"".to_owned()]).collect();
        ["sh", "-ec", &lines.join("\n"), "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Delegation {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Enables every controller for the children of `dir`, on v2.
fn enable(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace().filter(|_| cgroup::is_v2()) {
        fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
    }
}

/// Copies the CPUs and memory nodes of the parent, on v1. A process cannot enter a cpuset without them.
fn inherit(dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !cgroup::is_v2()
            && let Ok(list) = fs::read_to_string(dir.parent().unwrap().join(file))
        {
            fs::write(dir.join(file), list).unwrap();
        }
    }
}
