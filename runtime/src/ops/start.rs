//! start: releases a created container's init, waits for its execve, and runs the hooks that follow it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_init::wire::{self, Message};

use crate::{
    Error, Kind, Result,
    container::{
        start_socket,
        state::{Container, Status},
    },
    leaves::{hooks, seccomp::agent},
    ops::{delete, kill},
    spawn::{
        self,
        failure::{self, Names},
    },
};

/// Starts a container that `create` left waiting. `barrier` is what `create` gave back with
/// [`crate::ops::create::Barrier::Inherited`]; without it the container's socket is used.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when it is not in the state "created"; the payload's own failure, like
/// `exec /run.sh: no such file or directory`. A hook that fails ends the container, and nothing of it is left
/// (runtime.md, "Lifecycle", steps 7 and 9).
pub fn start(container: &Container, barrier: Option<OwnedFd>) -> Result<()> {
    let channel = match barrier {
        Some(channel) => channel,
        None => connect(container)?,
    };
    release(channel.as_fd())?;
    let (error, by_hook) = match heard(container, channel.as_fd())? {
        Some(failed) => failed,
        None => match poststart(container) {
            Ok(()) => return Ok(()),
            Err(e) => (e, true),
        },
    };
    if by_hook && let Err(e) = delete::delete(container.clone(), true) {
        log::warn!("container {}: {e}", container.id());
    }
    Err(error)
}

/// Releases init by what `create` gave back; what becomes of it, [`outcome`] tells.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when it has ended.
pub fn release(barrier: BorrowedFd<'_>) -> Result<()> {
    spawn::send_byte(barrier, wire::START).map_err(|_| stopped())
}

/// Waits for a released init's execve. Does not block once `channel` is readable, unless the container
/// [has an agent](has_agent).
///
/// # Errors
/// The payload's own failure.
pub fn outcome(container: &Container, channel: BorrowedFd<'_>) -> Result<()> {
    heard(container, channel)?.map_or(Ok(()), |(error, _)| Err(error))
}

/// The payload's failure, and whether it was a hook's; `None` when it was executed.
fn heard(container: &Container, channel: BorrowedFd<'_>) -> Result<Option<(Error, bool)>> {
    let mut said = spawn::receive(channel)?;
    if let ((Some(Message::SeccompListener(number)), _), Some(listener)) = (&said, &container.state().process.listener)
    {
        let (init, state) = (container.pidfd()?, container.state());
        let about = (state.oci_state(), "created", state.pid);
        agent::send(listener, about, (state.pid, init.as_fd(), *number))?;
        spawn::send_byte(channel, wire::AGENT_READY)?;
        said = spawn::receive(channel)?;
    }
    match said {
        (Some(Message::Failure(failure)), output) if hooks::is_hook(failure) => {
            let list = &container.state().hooks.start_container;
            Ok(Some((hooks::to_error("startContainer", list, failure, output), true)))
        }
        (Some(Message::Failure(failure)), _) => {
            let names = Names { program: &container.state().process.program, ..Names::default() };
            Ok(Some((failure::to_error(failure, None, &names), false)))
        }
        (Some(_), _) => Err(Error::new(Kind::Internal, "the container's init said something else than how it went")),
        (None, _) => {
            log::debug!("init: closing the pipe to signal completion");
            Ok(None)
        }
    }
}

/// The container's filter notifies somebody, to whom the way may block.
pub fn has_agent(container: &Container) -> bool {
    container.state().process.listener.is_some()
}

/// There are hooks to run once the payload has been executed.
pub fn has_poststart(container: &Container) -> bool {
    !container.state().hooks.poststart.is_empty()
}

/// Runs the hooks that follow the payload's execve. Blocks for as long as they take. One that fails ends the container:
/// its processes are killed, and it is to be deleted.
///
/// # Errors
/// Names the hook.
pub fn poststart(container: &Container) -> Result<()> {
    let state = container.state();
    hooks::poststart(&state.hooks, state.oci_state(), state.pid).inspect_err(|_| {
        match kill::kill_all(container, libc::SIGKILL) {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => log::warn!("container {}: {e}", container.id()),
        }
    })
}

fn stopped() -> Error {
    Error::new(Kind::FailedPrecondition, "cannot start a container that has stopped")
}

/// Only a container in the state "created" listens.
fn connect(container: &Container) -> Result<OwnedFd> {
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(stopped()),
        Status::Running | Status::Paused | Status::Pausing => {
            return Err(Error::new(Kind::FailedPrecondition, "cannot start an already running container"));
        }
        Status::Creating => {
            return Err(Error::new(Kind::FailedPrecondition, "cannot start a container that is being created"));
        }
    }
    start_socket::connect(container.dir())
}
