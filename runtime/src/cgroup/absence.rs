//! A process outside of its cgroup for a moment, so that it can make one process more than the cgroup allows.
//!
//! An exec must work in a container that has as many processes as it may have, to see to that. A fork is refused there,
//! and a migration is not: so the process that makes the other one is moved out, and the other one is moved in.

use std::{fs, path::Path};

use super::{
    add,
    dir::Dir,
    host::{host, own_line},
};
use crate::error::{Context, Result};

/// A process that is out of its cgroup for a moment: where it belongs.
pub struct Absence {
    home: Vec<Dir>,
}

/// Moves process `pid` to the caller's own cgroup in the hierarchies that limit the number of processes.
///
/// # Errors
/// The caller may not move it.
pub fn step_out(pid: i32) -> Result<Absence> {
    let what = "a process more than the cgroup allows: move the one that makes it";
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context(what)?;
    let mut home = Vec::new();
    for (names, path) in text.lines().filter_map(own_line) {
        if !(names.is_empty() || names.contains(&"pids")) {
            continue;
        }
        let Some(mount) = host()?.mounts().iter().find(|mount| mount.controllers == names) else { continue };
        home.push(Dir::open(&mount.dir_of(Path::new(path)))?);
        add(&Dir::open(&mount.own_dir())?, pid).context(what)?;
    }
    Ok(Absence { home })
}

impl Absence {
    /// Puts process `pid` where the other one was.
    ///
    /// # Errors
    /// The cgroup is gone, or takes no process of its own any more.
    pub fn end(&self, pid: i32) -> Result<()> {
        self.home.iter().try_for_each(|dir| add(dir, pid))
    }
}
