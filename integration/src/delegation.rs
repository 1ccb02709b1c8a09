//! [`Delegation`]: a cgroup that belongs to an ordinary user, in every hierarchy that can be given away.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use crate::cgroup;

/// What a user may write to in a cgroup that is his (cgroups(7), "Delegation"); on v1 the cpuset as well, with which a
/// cgroup begins.
const FILES: [&str; 6] =
    ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks", "cpuset.cpus", "cpuset.mems"];

/// Two directories of one user, removed on drop: what is given to him, and one in it to call a runtime from. On v2 a
/// container without a path of its own becomes a sibling of the caller, on v1 it is below the caller.
pub struct Delegation {
    path: String,
    dirs: Vec<PathBuf>,
}

impl Delegation {
    /// Gives the cgroup `path`, below one of the test's own, to user `uid`.
    pub fn new(path: &str, uid: u32) -> Self {
        let mut delegation = Self { path: path.to_owned(), dirs: Vec::new() };
        for hierarchy in cgroup::hierarchies() {
            if !cgroup::unified() && hierarchy.join("cgroup.controllers").exists() {
                // Beside v1 it is nobody's to give away: to enter takes a right to its root, where everybody is.
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

    /// Its path in every hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The words that have a program, which follows them, run from inside.
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

/// v2: what is below may have every controller.
fn enable(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace().filter(|_| cgroup::unified()) {
        fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
    }
}

/// v1: nobody can enter a cpuset before it has CPUs and memory.
fn inherit(dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !cgroup::unified()
            && let Ok(list) = fs::read_to_string(dir.parent().unwrap().join(file))
        {
            fs::write(dir.join(file), list).unwrap();
        }
    }
}
