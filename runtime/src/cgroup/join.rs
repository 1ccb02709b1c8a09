//! How processes get into the cgroup.
//!
//! A write of another process's pid to `cgroup.procs` makes the kernel wait for all forks of the host and for an RCU grace
//! period: 10 ms where it was measured (Linux 6.18), 20 times the cost of everything else in a create. Two ways do not wait.
//! On v2 the child is cloned into the cgroup (CLONE_INTO_CGROUP, Linux 5.7). On v1 the child writes its own thread to
//! `tasks` (Linux 5.5), 0.1 ms for all hierarchies together.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    dir::{Dir, gone, open_for_writing},
    host::{host, own_line},
    location::{Cgroup, Driver, Place},
    rootless::is_denied,
    systemd::scope,
};
use crate::error::{Context, Error, Kind, Result};

/// The fds by which a child joins the cgroup in all hierarchies. The child is cloned into `clone_into`. Its first act is to
/// write `"0"` to each of `tasks`: it has one thread then, and no cgroup namespace of its own, whose root would be the
/// parent's cgroup otherwise.
#[derive(Debug)]
pub struct JoinFds {
    /// The v2 directory for CLONE_INTO_CGROUP, also that of a hybrid host.
    pub clone_into: Option<OwnedFd>,
    /// The v1 `tasks` files, open for writing. The kernel checks the rights of the process that opened them.
    pub tasks: Vec<OwnedFd>,
}

impl Cgroup {
    /// Opens the cgroup for a child that joins it. An exec passes `init`, the directory of the container's init in /proc:
    /// in a hierarchy where the container's cgroup is gone, the child joins that of init.
    ///
    /// # Errors
    /// A directory cannot be opened.
    pub fn join_fds(&self, init: Option<&str>) -> Result<JoinFds> {
        let mut fds = JoinFds { clone_into: None, tasks: Vec::with_capacity(self.places.len()) };
        for place in &self.places {
            let open = |dir: &Path| -> Result<_> {
                if place.is_v2() {
                    Ok((Some(Dir::open(dir)?.into_fd()), None))
                } else {
                    Ok((None, Some(open_for_writing(&dir.join("tasks"))?)))
                }
            };
            let (clone_into, tasks) = match (open(&place.dir), init) {
                (Err(e), Some(init)) if gone(&e) => open(&dir_of_process(&place.controllers, init)?)?,
                (opened, _) => opened?,
            };
            fds.clone_into = clone_into.or(fds.clone_into);
            fds.tasks.extend(tasks);
        }
        Ok(fds)
    }

    /// Opens the v2 cgroup that a process is in now, for CLONE_INTO_CGROUP. `process` is its directory in /proc.
    ///
    /// # Errors
    /// The process is gone, or its cgroup is outside the caller's cgroup namespace.
    pub fn of_process(process: &str) -> Result<OwnedFd> {
        Dir::open(&dir_of_process(&[], process)?).map(Dir::into_fd)
    }

    /// Moves the calling process into the cgroup. It must have one thread.
    ///
    /// An exec passes `init`, the directory of the container's init in /proc: where the container's cgroup is gone or takes
    /// no more processes, the caller joins that of init, and where a rootless caller may not join, it stays outside. runc
    /// does the same.
    ///
    /// # Errors
    /// The kernel refuses the move.
    pub fn join(&self, init: Option<&str>) -> Result<()> {
        for place in &self.places {
            let joined = match (join_place(place, &place.dir), init) {
                // Gone; or a v2 cgroup that has controllers enabled for its children (EBUSY), or is threaded (EOPNOTSUPP).
                (Err(e), Some(init)) if gone(&e) || matches!(e.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
                    join_place(place, &dir_of_process(&place.controllers, init)?)
                }
                (joined, _) => joined,
            };
            match joined {
                Err(e) if init.is_some() && self.rootless && is_denied(&e) => {}
                other => other.context("unable to apply cgroup configuration")?,
            }
        }
        Ok(())
    }

    /// Asks the user's systemd to move process `pid` into the cgroup, if it is not there. An exec of an unprivileged caller
    /// may not join a scope by itself.
    ///
    /// # Errors
    /// Those of systemd.
    pub fn attach_pid(&self, pid: i32) -> Result<()> {
        match &self.driver {
            Driver::Systemd(unit) if self.rootless && !self.pids()?.contains(&pid) => scope::attach(unit, pid),
            _ => Ok(()),
        }
    }

    /// Moves process `pid`, which exists already, into the cgroup in every hierarchy. [`Cgroup::join_fds`] is far cheaper
    /// for a new process.
    ///
    /// # Errors
    /// The kernel refuses the move.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.places.iter().try_for_each(|place| add(&place.open()?, pid))
    }
}

/// Moves process `pid` into the cgroup `dir`. Retries on EINVAL, which v1 cpu returns for a process that the scheduler does
/// not know yet (TASK_NEW).
///
/// # Errors
/// Names the process.
pub(super) fn add(dir: &Dir, pid: i32) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..5 {
        last = dir.write("cgroup.procs", &pid.to_string());
        match &last {
            Err(e) if e.errno() == Some(libc::EINVAL) => std::thread::sleep(Duration::from_millis(30)),
            _ => break,
        }
    }
    last.with_context(|| format!("add process {pid} to cgroup"))
}

/// Moves the calling process. On v1 it writes its one thread to `tasks`, which does not wait for the forks of the host.
fn join_place(place: &Place, dir: &Path) -> Result<()> {
    Dir::open(dir)?.write(if place.is_v2() { "cgroup.procs" } else { "tasks" }, "0")
}

/// The directory of the cgroup that a process is in now, in the hierarchy of these v1 controllers, or of v2 for no
/// controllers. `process` is the directory of a living thread in /proc: on v1 an exited one is shown in the root.
fn dir_of_process(controllers: &[String], process: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("{process}/cgroup")).context("read the cgroup of the container's init")?;
    let own = text.lines().filter_map(own_line).find(|(names, _)| names.iter().eq(controllers));
    let mount = host()?.mounts().iter().find(|m| m.controllers == controllers);
    let (Some((_, path)), Some(mount)) = (own, mount) else {
        let hierarchy = if controllers.is_empty() { "v2".to_owned() } else { controllers.join(",") };
        let text = format!("the container's init is in no cgroup of the {hierarchy} hierarchy");
        return Err(Error::unsupported(text));
    };
    // The kernel shows a cgroup outside the reader's cgroup namespace with a leading "/..".
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        let text = format!("the cgroup of the container's init, {path}, is not in ours");
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    Ok(mount.dir_of(Path::new(path)))
}
