//! The operation start: releases the init of a created container, waits for its execve(2), and runs the poststart
//! hooks.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use berth_init::wire;
use oci_spec::runtime::Hook;

use crate::{
    Context, Error, Kind, Result,
    container::{
        start_socket,
        state::{Container, Status},
    },
    leaves::hooks,
    ops::{delete, kill},
    spawn::{
        self,
        converse::{Answers, End, Peer, converse},
        failure::{self, Names},
    },
};

/// Starts a created container. `barrier` is the channel that `create` returned with
/// [`crate::ops::create::Barrier::Inherited`]. Without it the container's socket is used.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless the status is "created", also if another process starts the container first. The
/// payload's own failure, such as `exec /run.sh: no such file or directory`. If a hook fails, the container is killed and
/// deleted (runtime.md, "Lifecycle", steps 7 and 9).
pub fn start(container: &Container, barrier: Option<OwnedFd>) -> Result<()> {
    match barrier {
        Some(channel) => start_over(container, &channel),
        None => connect(container)
            .and_then(|channel| start_over(container, &channel))
            .map_err(|e| if e.kind() == Kind::FailedPrecondition { too_late(container, e) } else { e }),
    }
}

fn start_over(container: &Container, channel: &OwnedFd) -> Result<()> {
    if let Err(e) = release(channel.as_fd()) {
        // An init that has exited may have sent its failure before. One that lives waits for the start.
        let ended = e.kind() == Kind::FailedPrecondition;
        let failed = if ended { wait_for_result(container, channel.as_fd()).ok().flatten() } else { None };
        return Err(failed.map_or(e, |(failure, _)| failure));
    }
    let (error, by_hook) = match outcome_or_kill(container, channel.as_fd())? {
        Some(failed) => failed,
        None => match poststart(container) {
            Ok(()) => return Ok(()),
            Err(e) => (e, true),
        },
    };
    if by_hook && let Err(e) = delete::force_delete(container) {
        log::warn!("container {}: {e}", container.id());
    }
    Err(error)
}

/// Releases init through the channel that `create` returned. [`outcome`] then waits for the result.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if init has exited.
pub fn release(barrier: BorrowedFd<'_>) -> Result<()> {
    match spawn::send_byte(barrier, wire::START) {
        Err(e) if matches!(e.errno(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => Err(stopped()),
        other => other.context("release the container's process"),
    }
}

/// Waits for the execve(2) of a released init. Does not block once `channel` is readable, unless the container [has an
/// agent](has_agent).
///
/// # Errors
/// The payload's own failure.
pub fn outcome(container: &Container, channel: BorrowedFd<'_>) -> Result<()> {
    outcome_or_kill(container, channel)?.map_or(Ok(()), |(error, _)| Err(error))
}

/// Returns the longest time from [`release`] to [`outcome`]. `None` if a startContainer hook has no timeout.
pub fn timeout(container: &Container) -> Option<Duration> {
    let seconds = |hook: &Hook| hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    spawn::timeout_with(container.state().hooks.start_container.iter().map(|h| seconds(h).map(Duration::from_secs)))
}

/// Kills an init that has not executed the payload within [`timeout`], and returns the error.
pub fn too_slow(container: &Container) -> Error {
    kill_processes(container);
    spawn::too_slow()
}

/// As [`wait_for_result`]. Kills the container if the conversation with init fails: it would otherwise go on later.
fn outcome_or_kill(container: &Container, channel: BorrowedFd<'_>) -> Result<Option<(Error, bool)>> {
    wait_for_result(container, channel).inspect_err(|_| kill_processes(container))
}

fn kill_processes(container: &Container) {
    match kill::kill_all(container, libc::SIGKILL) {
        Ok(()) => {}
        Err(e) if e.kind() == Kind::NotFound => {}
        Err(e) => log::warn!("container {}: {e}", container.id()),
    }
}

/// Returns the payload's failure, and true if a hook caused it. Returns `None` after a successful execve(2).
fn wait_for_result(container: &Container, channel: BorrowedFd<'_>) -> Result<Option<(Error, bool)>> {
    let state = container.state();
    let answers = Answers {
        state: state.oci_state(),
        status: "created",
        init: Some(state.pid),
        listener: state.process.listener.as_ref(),
        setup: None,
    };
    match converse(&mut Peer::Released(container, channel, timeout(container)), answers)? {
        End::Failed(failure, output) if hooks::is_hook(failure) => {
            Ok(Some((hooks::to_error("startContainer", &state.hooks.start_container, failure, output), true)))
        }
        End::Failed(failure, _) => {
            let names = Names { program: &state.process.program, ..Names::default() };
            Ok(Some((failure::to_error(failure, None, &names), false)))
        }
        End::Ready | End::Closed => {
            log::debug!("start: init {} has executed the payload", container.pid());
            Ok(None)
        }
        // init has ended, or another start came first; that one's container must live on.
        End::Unheard => Ok(Some((stopped(), false))),
    }
}

/// Returns true if the container's seccomp filter notifies an agent. Sending to the agent may block.
pub fn has_agent(container: &Container) -> bool {
    container.state().process.listener.is_some()
}

/// Returns true if the container has poststart hooks.
pub fn has_poststart(container: &Container) -> bool {
    !container.state().hooks.poststart.is_empty()
}

/// Runs the poststart hooks, and waits for them. If one fails, all processes of the container are killed, and the
/// caller must delete it.
///
/// # Errors
/// The error of the first hook that fails.
pub fn poststart(container: &Container) -> Result<()> {
    let state = container.state();
    hooks::poststart(&state.hooks, state.oci_state(), state.pid).inspect_err(|_| kill_processes(container))
}

fn stopped() -> Error {
    refusal("cannot start a container that has stopped")
}

fn refusal(text: &'static str) -> Error {
    Error::new(Kind::FailedPrecondition, text)
}

/// Connects to the waiting init. Only a container with the status "created" has one.
fn connect(container: &Container) -> Result<OwnedFd> {
    check_status(container)?;
    start_socket::connect(container.dir()).map_err(|e| match e.errno() {
        Some(libc::ECONNREFUSED | libc::ENOENT) => stopped(),
        _ => e,
    })
}

fn check_status(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Created => Ok(()),
        Status::Stopped => Err(stopped()),
        Status::Running | Status::Paused | Status::Pausing => Err(refusal("cannot start an already running container")),
        Status::Creating => Err(refusal("cannot start a container that is being created")),
    }
}

/// The error of a start that init has not heard of, or `error`: if init lives, another process has started it.
fn too_late(container: &Container, error: Error) -> Error {
    check_status(container).err().unwrap_or(error)
}
