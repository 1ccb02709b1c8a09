//! delete: everything that a container was, gone. Goes on after an error and returns the first one with the rest.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    Context, Error, Kind, Result, hooks, kill,
    rdt::Group,
    state::{self, Container, Status},
};

/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes a container that is stopped or was never started; with `force` any.
///
/// # Errors
/// [`Kind::FailedPrecondition`] for one that runs.
pub fn delete(container: Container, force: bool) -> Result<()> {
    match container.status()? {
        Status::Stopped => {}
        Status::Created | Status::Creating => end(&container)?,
        _ if force => end(&container)?,
        status => {
            let text = format!("cannot delete container {} that is not stopped: {status}", container.id());
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
    }
    destroy(&container)
}

/// The crash path: ends and removes whatever is on record under this id, and returns init's pid if that is known.
/// A record that cannot be read is removed all the same.
///
/// # Errors
/// When something could not be removed.
pub fn cleanup(root: &Path, id: &str) -> Result<Option<i32>> {
    state::check_id(id)?;
    match Container::load(root, id) {
        Ok(container) => {
            let pid = container.pid();
            end(&container)?;
            destroy(&container)?;
            Ok((pid != 0).then_some(pid))
        }
        Err(e) if e.kind() == Kind::NotFound => remove_dir(&root.join(id)).map(|()| None),
        Err(_) => remove_dir(&root.join(id)).map(|()| None),
    }
}

/// Kills everything and waits until it is gone. A frozen process does not die on v1 until it is thawed.
fn end(container: &Container) -> Result<()> {
    let init = container.pidfd();
    match kill::kill_all(container, libc::SIGKILL) {
        Ok(()) => {}
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    if let Ok(fd) = &init {
        wait_for_exit(fd.as_fd());
    }
    if !container.cgroup().is_any() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut nap = Duration::from_micros(200);
    loop {
        match container.cgroup().pids() {
            Ok(pids) if pids.is_empty() => return Ok(()),
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            Err(e) => return Err(e),
            Ok(pids) if Instant::now() > deadline => {
                let text = format!("processes {pids:?} of container {} outlive SIGKILL", container.id());
                return Err(Error::new(Kind::Internal, text));
            }
            Ok(_) => std::thread::sleep(nap),
        }
        nap = (nap * 2).min(Duration::from_millis(50));
    }
}

/// A pidfd is readable when its process has exited, reaped or not (pidfd_open(2)).
fn wait_for_exit(pidfd: std::os::fd::BorrowedFd<'_>) {
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
}

fn destroy(container: &Container) -> Result<()> {
    if !container.private_pid_namespace() {
        // Nobody else ends what init left behind.
        end(container)?;
    }
    // poststop runs once: not for whoever finds the container gone already.
    let hooked = !container.state().hooks.poststop.is_empty() && container.dir().exists();
    let cgroup = container.cgroup().delete();
    let rdt = container.state().rdt.as_ref().map_or(Ok(()), Group::remove);
    let dir = remove_dir(container.dir());
    if hooked {
        hooks::poststop(&container.state().hooks, container.state().told());
    }
    cgroup.and(rdt).and(dir)
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}
