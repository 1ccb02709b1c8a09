//! How a new process comes into the cgroup without the wait that a migration costs.
//!
//! Writing another process's pid to `cgroup.procs` makes the kernel stop all forks of the machine and wait for an RCU
//! grace period first: 10 ms where it was measured (6.18), 20 times what all else of a container's birth takes. Two ways
//! do not wait: to be born there (CLONE_INTO_CGROUP, 5.7, the v2 hierarchy only), and on v1 to write oneself, one's own
//! thread alone, to `tasks` (5.5): 0.1 ms for all hierarchies together.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Component, Path},
};

use super::{
    Cgroup,
    dir::{Dir, opened_for_writing},
    host::{host, own_line},
};
use crate::error::{Context, Error, Kind, Result};

/// The two ways in. A child uses both: it is cloned into `born_in`, and its first act is to write `"0"` to each of
/// `join`, while it has one thread and before it makes a cgroup namespace, whose root would else be its parent's cgroup.
#[derive(Debug)]
pub struct Entry {
    /// The v2 directory, for CLONE_INTO_CGROUP; on a v1 machine that of the hybrid v2 hierarchy, if there is one.
    pub born_in: Option<OwnedFd>,
    /// The v1 `tasks` files, open for writing; none on v2. The kernel checks the rights of who opened them.
    pub join: Vec<OwnedFd>,
}

/// See [`Cgroup::entry`].
pub(super) fn entry(cgroup: &Cgroup) -> Result<Entry> {
    let mut entry = Entry { born_in: None, join: Vec::with_capacity(cgroup.places.len()) };
    for place in &cgroup.places {
        if place.controllers.is_empty() {
            entry.born_in = Some(Dir::open(&place.dir)?.into_fd());
        } else {
            entry.join.push(opened_for_writing(&place.dir.join("tasks"))?);
        }
    }
    Ok(entry)
}

/// See [`Cgroup::of_process`].
pub(super) fn of_process(pid: i32) -> Result<OwnedFd> {
    directory_of(pid).map(Dir::into_fd)
}

/// The same, to be written in.
pub(super) fn directory_of(pid: i32) -> Result<Dir> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read the cgroup of the container's init")?;
    let v2 = text.lines().filter_map(own_line).find(|(names, _)| names.is_empty());
    let mount = host()?.mounts().iter().find(|m| m.is_v2());
    let (Some((_, path)), Some(mount)) = (v2, mount) else {
        return Err(Error::unsupported("the container's init is in no cgroup of the v2 hierarchy"));
    };
    // Seen from a cgroup namespace of ours, one outside of it begins like this.
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        let text = format!("the cgroup of the container's init, {path}, is not in ours");
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    Dir::open(&mount.dir_of(Path::new(path)))
}
