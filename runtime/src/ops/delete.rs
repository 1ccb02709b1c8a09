//! delete: everything that a container was, gone.
//!
//! Its processes come first, and they count as gone only when the kernel says so: init by its pidfd, the others by the
//! cgroup. What cannot be removed then does not stop the rest, and all errors are told. While anything is left the record
//! stays, so that the next delete finds it and goes on.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    Context, Error, Kind, Result,
    container::state::{self, Container, Status},
    leaves::{hooks, rdt::Group},
    ops::kill,
};

/// How long killed processes may take to go, as with runc.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a cgroup may take to go after that, at the least: a process that has ended is in it for a moment yet.
const AFTERMATH: Duration = Duration::from_millis(500);

/// Deletes a container that is stopped or was never started; with `force` any.
///
/// # Errors
/// [`Kind::FailedPrecondition`] for one that runs. A process that outlives SIGKILL, or all that cannot be removed; the
/// record stays then, for the next try.
pub fn delete(container: Container, force: bool) -> Result<()> {
    let over = match force {
        true => false,
        false => match container.status()? {
            // The kernel has ended what was in its pid namespace; elsewhere nobody else ends what init left behind.
            Status::Stopped => container.private_pid_namespace(),
            Status::Created | Status::Creating => false,
            status => {
                let text = format!("cannot delete container {} that is not stopped: {status}", container.id());
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
        },
    };
    let until = Instant::now() + PATIENCE;
    if !over {
        end(&container, until)?;
    }
    destroy(&container, until)
}

/// The crash path: ends and removes whatever is on record under this id, and returns init's pid if that is known. Of a
/// record that cannot be read what it says of its processes is ended, and it is removed. Waits `patience` at the most for
/// processes to end, and then a little for their cgroup to go.
///
/// # Errors
/// As [`delete`].
pub fn cleanup(root: &Path, id: &str, patience: Duration) -> Result<Option<i32>> {
    state::check_id(id)?;
    let until = Instant::now() + patience;
    let container = match Container::load(root, id) {
        Err(e) if e.kind() == Kind::NotFound => return remove_record(&root.join(id)).map(|()| None),
        Err(_) => match Container::salvage(root, id)? {
            None => return remove_record(&root.join(id)).map(|()| None),
            Some(container) => container,
        },
        Ok(container) => container,
    };
    end(&container, until)?;
    destroy(&container, until)?;
    Ok(Some(container.pid()).filter(|pid| *pid != 0))
}

/// Kills everything and waits until it is gone.
fn end(container: &Container, until: Instant) -> Result<()> {
    let init = kill::living(container)?;
    let mut sent = HashSet::new();
    let mut pause = Duration::from_micros(200);
    let mut reach = || kill::reach(container, init.as_ref().map(AsFd::as_fd), libc::SIGKILL, until, &mut sent);
    let mut reached = reach();
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
        reached = reach();
    }
}

/// Waits for the end of a process: its pidfd is readable when its last thread has exited, reaped or not (pidfd_open(2)).
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

/// Removes the cgroup and the group of resctrl, and when both are gone the record; then the poststop hooks run.
fn destroy(container: &Container, until: Instant) -> Result<()> {
    // Neither outlives the boot that they were made in, and what is there now by these names is somebody else's.
    if container.is_of_this_boot() {
        let patience = until.saturating_duration_since(Instant::now()).max(AFTERMATH);
        let cgroup = container.cgroup().delete_within(patience);
        let rdt = container.state().rdt.as_ref().map_or(Ok(()), Group::remove);
        Error::all(cgroup.err().into_iter().chain(rdt.err()))
            .with_context(|| format!("delete container {}", container.id()))?;
    }
    // poststop runs once: not for whoever finds the container gone already.
    let hooked = !container.state().hooks.poststop.is_empty() && container.dir().exists();
    remove_record(container.dir())?;
    if hooked {
        hooks::poststop(&container.state().hooks, container.state().oci_state());
    }
    Ok(())
}

/// Removes a state directory, the record itself last: while something is left it can be found.
fn remove_record(dir: &Path) -> Result<()> {
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
