//! start: releases a created container's init and waits for its execve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_init::wire::{self, Message};

use crate::{
    Context, Error, Kind, Result,
    failure::{self, Names},
    spawn,
    state::{self, Container, Status},
};

/// Starts a container that `create` left waiting. `barrier` is what `create` gave back with
/// [`crate::create::Barrier::Inherited`]; without it the container's socket is used.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when it is not in the state "created"; the payload's own failure, like
/// `exec /run.sh: no such file or directory`.
pub fn start(container: &Container, barrier: Option<OwnedFd>) -> Result<()> {
    let channel = match barrier {
        Some(channel) => channel,
        None => connect(container)?,
    };
    release(channel.as_fd())?;
    outcome(container, channel.as_fd())
}

/// Releases init by what `create` gave back; what becomes of it, [`outcome`] tells.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when it has ended.
pub fn release(barrier: BorrowedFd<'_>) -> Result<()> {
    spawn::say(barrier, wire::START).map_err(|_| stopped())
}

/// Waits for a released init's execve. Does not block once `channel` is readable.
///
/// # Errors
/// The payload's own failure.
pub fn outcome(container: &Container, channel: BorrowedFd<'_>) -> Result<()> {
    match spawn::receive(channel)? {
        (Some(Message::Failure(failure)), _) => {
            let names = Names { program: &container.state().process.program, ..Names::default() };
            Err(failure::word(failure, None, &names))
        }
        (Some(_), _) => Err(Error::new(Kind::Internal, "the container's init said something else than how it went")),
        (None, _) => {
            log::debug!("init: closing the pipe to signal completion");
            Ok(())
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::FailedPrecondition, "cannot start a container that has stopped")
}

/// Only a container in the state "created" listens.
fn connect(container: &Container) -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
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
    let connect = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (_dir, path) = state::short_path(container.dir())?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connect().with_context(|| format!("connect to {}", container.dir().join(state::START).display()))
}
