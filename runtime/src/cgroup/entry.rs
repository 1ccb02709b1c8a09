//! How a new process comes into the cgroup without the wait that a migration costs.
//!
//! Writing another process's pid to `cgroup.procs` makes the kernel stop all forks of the machine and wait for an RCU
//! grace period first: 10 ms where it was measured (6.18), 20 times what all else of a container's birth takes. Two ways
//! do not wait: to be born there (CLONE_INTO_CGROUP, 5.7, the v2 hierarchy only), and on v1 to write oneself, one's own
//! thread alone, to `tasks` (5.5): 0.1 ms for all hierarchies together.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use super::{
    Cgroup,
    dir::{Dir, gone, opened_for_writing},
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
pub(super) fn entry(cgroup: &Cgroup, init: Option<&str>) -> Result<Entry> {
    let mut entry = Entry { born_in: None, join: Vec::with_capacity(cgroup.places.len()) };
    for place in &cgroup.places {
        let opened = |dir: &Path| -> Result<_> {
            if place.controllers.is_empty() {
                Ok((Some(Dir::open(dir)?.into_fd()), None))
            } else {
                Ok((None, Some(opened_for_writing(&dir.join("tasks"))?)))
            }
        };
        let (born_in, join) = match (opened(&place.dir), init) {
            (Err(e), Some(init)) if gone(&e) => opened(&path_of(&place.controllers, init)?)?,
            (opened, _) => opened?,
        };
        entry.born_in = born_in.or(entry.born_in);
        entry.join.extend(join);
    }
    Ok(entry)
}

/// See [`Cgroup::of_process`].
pub(super) fn of_process(process: &str) -> Result<OwnedFd> {
    Dir::open(&path_of(&[], process)?).map(Dir::into_fd)
}

/// Where the container's init is now in the hierarchy of these v1 controllers, or of v2 where there are none. `init` is its
/// directory in /proc, of a thread that lives: on v1 one that has ended is shown in the root.
pub(super) fn path_of(controllers: &[String], init: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("{init}/cgroup")).context("read the cgroup of the container's init")?;
    let own = text.lines().filter_map(own_line).find(|(names, _)| names.iter().eq(controllers));
    let mount = host()?.mounts().iter().find(|m| m.controllers == controllers);
    let (Some((_, path)), Some(mount)) = (own, mount) else {
        let hierarchy = if controllers.is_empty() { "v2".to_owned() } else { controllers.join(",") };
        let text = format!("the container's init is in no cgroup of the {hierarchy} hierarchy");
        return Err(Error::unsupported(text));
    };
    // Seen from a cgroup namespace of ours, one outside of it begins like this.
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        let text = format!("the cgroup of the container's init, {path}, is not in ours");
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    Ok(mount.dir_of(Path::new(path)))
}
