//! The operation delete: removes all that belongs to a container.
//!
//! The processes end first. The kernel confirms that: by init's pidfd, and by an empty cgroup. Then an error in one
//! removal does not stop the others, and all errors are reported. state.json is removed last, and only if the cgroup
//! and the resctrl group are gone, so that another delete can go on.
//!
//! Of several deletes one is at work. It holds a lock on the state directory, and the others then find no container. A
//! delete that was slow must not meet a new container with the same id and cgroup.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FlockOperation, Mode, OFlags, flock, openat},
    io::Errno,
};

use crate::{
    Context, Error, Kind, Result,
    container::state::{self, Container, Status},
    leaves::{hooks, rdt::Group},
    ops::kill,
};

/// Longest time that killed processes may take to exit, as in runc.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the removal of a cgroup gets at least: a process stays in it for a moment after its exit.
const MIN_CGROUP_TIMEOUT: Duration = Duration::from_millis(500);

/// Deletes a container that is stopped or was never started.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if the container runs. [`Kind::NotFound`] if another call has deleted it meanwhile.
/// [`Kind::Internal`] if a process outlives SIGKILL. The errors of all removals that fail. After an error state.json
/// stays, so that delete can be repeated.
pub fn delete(container: &Container) -> Result<()> {
    match container.status()? {
        // The kernel has killed all processes of a private pid namespace. Otherwise init's children may still run.
        Status::Stopped if container.private_pid_namespace() => {
            let until = Instant::now() + EXIT_TIMEOUT;
            destroy(container, claim(container, until)?, until)
        }
        Status::Stopped | Status::Created | Status::Creating => force_delete(container),
        status => {
            let text = format!("cannot delete container {} that is not stopped: {status}", container.id());
            Err(Error::new(Kind::FailedPrecondition, text))
        }
    }
}

/// Kills all processes of a container and deletes it, whatever its status is.
///
/// # Errors
/// As [`delete`], without [`Kind::FailedPrecondition`].
pub fn force_delete(container: &Container) -> Result<()> {
    let until = Instant::now() + EXIT_TIMEOUT;
    let claimed = claim(container, until)?;
    end(container, until)?;
    destroy(container, claimed, until)
}

/// Cleans up after a crash: kills and removes the container with this id, and returns init's pid if it is known.
///
/// If state.json cannot be read whole, the processes that it names are killed, and it is removed. Waits at most
/// `timeout` for the processes, and then at least 0.5 s for their cgroup.
///
/// # Errors
/// As [`delete`].
pub fn cleanup(root: &Path, id: &str, timeout: Duration) -> Result<Option<i32>> {
    state::check_id(id)?;
    let until = Instant::now() + timeout;
    let container = match Container::load(root, id) {
        Err(e) if e.kind() == Kind::NotFound => return remove_state_dir(&root.join(id)).map(|()| None),
        Err(_) => match Container::salvage(root, id)? {
            None => return remove_state_dir(&root.join(id)).map(|()| None),
            Some(container) => container,
        },
        Ok(container) => container,
    };
    let pid = Some(container.pid()).filter(|pid| *pid != 0);
    let claimed = match claim(&container, until) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(pid),
        claimed => claimed?,
    };
    end(&container, until)?;
    destroy(&container, claimed, until)?;
    Ok(pid)
}

/// The lock on a state directory. `None` without a free file descriptor: a container must end also then.
type Claim = Option<OwnedFd>;

/// Takes the lock on the state directory, and waits for another delete.
///
/// # Errors
/// [`Kind::NotFound`] if the container has been deleted. [`Kind::FailedPrecondition`] if another delete goes on.
fn claim(container: &Container, until: Instant) -> Result<Claim> {
    let gone = || Error::new(Kind::NotFound, "container does not exist");
    let path = container.dir();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Err(gone()),
        Err(Errno::MFILE | Errno::NFILE) => return Ok(None),
        dir => dir.with_context(|| format!("open {}", path.display()))?,
    };
    let mut pause = Duration::from_micros(200);
    loop {
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(pause),
            Err(Errno::WOULDBLOCK) => {
                let text = format!("cannot delete container {}: another delete goes on", container.id());
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
            Err(e) => return Err(e).with_context(|| format!("lock {}", path.display())),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    // The directory may be that of a new container with the same id.
    match Container::load(path.parent().unwrap_or(path), container.id()) {
        Ok(now) if now.state().created != container.state().created => Err(gone()),
        Err(e) if e.kind() == Kind::NotFound => Err(gone()),
        // Salvage may have read a state that load refuses.
        _ => Ok(Some(dir)),
    }
}

/// Kills all processes and waits for their end.
fn end(container: &Container, until: Instant) -> Result<()> {
    let init = kill::open_init(container)?;
    let mut sent = HashSet::new();
    let mut pause = Duration::from_micros(200);
    let mut signal_all =
        || kill::signal_all(container, init.as_ref().map(AsFd::as_fd), libc::SIGKILL, until, &mut sent);
    let mut reached = signal_all();
    if let Some(init) = &init
        && !has_exited(init.as_fd(), until)?
    {
        let text = format!("container init still running: process {} outlives SIGKILL", container.pid());
        let still = Error::new(Kind::Internal, text);
        return Error::all(reached.err().into_iter().chain([still]));
    }
    loop {
        match reached {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            Ok(0) => return Ok(()),
            Err(e) if Instant::now() > until => return Err(e),
            Ok(_) if Instant::now() > until => {
                let pids = container.cgroup().pids().unwrap_or_default();
                let text = format!("processes {pids:?} of container {} outlive SIGKILL", container.id());
                return Err(Error::new(Kind::Internal, text));
            }
            _ => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
        reached = signal_all();
    }
}

/// Waits for the exit of a process. Its pidfd is readable when its last thread has exited, reaped or not
/// (pidfd_open(2)).
fn has_exited(pidfd: BorrowedFd<'_>, until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("wait for the container's init"),
        }
    }
}

/// Removes the cgroup and the resctrl group, then the state directory, and runs the poststop hooks.
///
/// If the cgroup cannot be removed, the state directory stays, as in runc: another delete would otherwise not find it.
fn destroy(container: &Container, claimed: Claim, until: Instant) -> Result<()> {
    // After a reboot both are gone, and groups with these names belong to other containers.
    if container.is_of_this_boot() {
        let timeout = until.saturating_duration_since(Instant::now()).max(MIN_CGROUP_TIMEOUT);
        let cgroup = container.cgroup().delete_within(timeout);
        let rdt = container.state().rdt.as_ref().map_or(Ok(()), Group::remove);
        Error::all(cgroup.err().into_iter().chain(rdt.err()))
            .with_context(|| format!("delete container {}", container.id()))?;
    }
    remove_state_dir(container.dir())?;
    drop(claimed);
    if !container.state().hooks.poststop.is_empty() {
        hooks::poststop(&container.state().hooks, container.state().oci_state());
    }
    Ok(())
}

/// Removes a state directory, state.json last: as long as other files are left, delete can be repeated.
fn remove_state_dir(dir: &Path) -> Result<()> {
    let removed = |done: std::io::Result<()>, path: &Path| match done {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::from(e).context(format!("remove {}", path.display()))),
        _ => Ok(()),
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("remove {}", dir.display())),
    };
    let mut errors = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let path = entry.path();
        if entry.file_name() == state::FILE {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let done = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        errors.extend(removed(done, &path).err());
    }
    Error::all(errors)?;
    let record = dir.join(state::FILE);
    removed(fs::remove_file(&record), &record)?;
    removed(fs::remove_dir(dir), dir)
}
