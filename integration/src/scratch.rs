//! [`Scratch`]: a temporary directory of one test.

use crate::{cgroup, procs};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory of its own below the system's temporary directory, removed on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the directory. `name` is a part of its name, as a hint for a reader.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("berth-test-{}-{}-{name}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().canonicalize().unwrap().join(unique);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("mkdir {}: {e}", path.display()));
        Self(path)
    }

    /// Returns the path, with all links resolved.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes everything that a killed test process left under names with its pid: its [`Scratch`] directories, the
/// processes that name them, and the cgroups `berth-test-PID-…`.
pub fn clear_after(pid: i32) {
    let marks = [pid.to_string(), procs::name_of(pid)].map(|name| format!("berth-test-{name}-"));
    let marked = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let ours = |name: &str| marks.iter().any(|mark| name.starts_with(mark));
        entries.filter(|entry| ours(&entry.file_name().to_string_lossy())).map(|e| e.path()).collect()
    };
    let scratches = marked(&std::env::temp_dir());
    scratches.iter().for_each(|dir| procs::kill_mentioning(dir));
    for hierarchy in cgroup::hierarchies() {
        let names =
            marked(&hierarchy).into_iter().filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        names.for_each(|name| cgroup::kill_and_remove(&name));
    }
    for dir in scratches {
        procs::unmount_below(&dir);
        fs::remove_dir_all(&dir).unwrap_or_else(|e| panic!("remove {}: {e}", dir.display()));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The leak check reports a mount that was left here. A removal must never go through it.
        if !crate::mounts::of_process(std::process::id()).iter().any(|m| Path::new(&m.point).starts_with(&self.0)) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
