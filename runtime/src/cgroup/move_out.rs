//! Moves a process out of a cgroup that is at its `pids.max`, so that the process can fork.
//!
//! An exec must work in a container that has reached its limit of processes, since it may be needed to find out why. The
//! kernel checks `pids.max` at a fork and not at a migration. So the parent of the new process is moved out, forks, and the
//! child is moved in.

use std::{fs, path::Path};

use super::{
    dir::Dir,
    host::{host, own_line},
    join::add,
};
use crate::error::{Context, Result};

/// A process was moved out of these cgroups.
pub struct MovedOut {
    from: Vec<Dir>,
}

/// Moves process `pid` to the caller's cgroup in the hierarchies that limit the number of processes.
///
/// # Errors
/// The caller may not move the process.
pub fn move_out(pid: i32) -> Result<MovedOut> {
    let what = "a process more than the cgroup allows: move the one that makes it";
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context(what)?;
    let mut from = Vec::new();
    for (names, path) in text.lines().filter_map(own_line) {
        if !(names.is_empty() || names.contains(&"pids")) {
            continue;
        }
        let Some(mount) = host()?.mounts().iter().find(|mount| mount.controllers == names) else { continue };
        from.push(Dir::open(&mount.dir_of(Path::new(path)))?);
        add(&Dir::open(&mount.own_dir())?, pid).context(what)?;
    }
    Ok(MovedOut { from })
}

impl MovedOut {
    /// Moves process `pid` into the cgroups that the other process was in.
    ///
    /// # Errors
    /// A cgroup is gone, or takes no more processes.
    pub fn move_in(&self, pid: i32) -> Result<()> {
        self.from.iter().try_for_each(|dir| add(dir, pid))
    }
}
