//! `run`: makes a container and starts it. In the foreground it waits for the end of the container and deletes it.

use std::os::fd::AsFd;

use berth_runtime::{
    Context, Kind, Result,
    create::{Barrier, Created},
    delete, start,
};

use super::{
    NOT_EXECUTED, failed,
    launch::{self, CreateArgs, Launched, launch, undo},
};
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Program, Usage},
    sd_notify::{Manager, Relay},
    signals::Signals,
    stdio::{Attachment, Proxies},
};

/// The arguments of `run`.
#[derive(Debug, Default)]
pub struct RunArgs {
    create: CreateArgs,
    waiting: Waiting,
    at_exit: AtExit,
}

/// The arguments of `run` and `restore` that say who waits for the container's process.
#[derive(Debug, Default)]
pub struct Waiting {
    detach: bool,
    no_subreaper: bool,
}

impl AsMut<Waiting> for RunArgs {
    fn as_mut(&mut self) -> &mut Waiting {
        &mut self.waiting
    }
}

impl Waiting {
    /// Makes this process the reaper of the container's orphans, and takes its signals if it waits.
    ///
    /// # Errors
    /// As prctl(2) and signalfd(2).
    pub fn prepare(&self) -> Result<(Attachment, Option<Signals>)> {
        if !self.no_subreaper {
            // prctl(2) takes any value but 0 as "on"; rustix spells the value as a pid.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
        }
        if self.detach {
            return Ok((Attachment::Detached, None));
        }
        Ok((Attachment::Foreground, Some(Signals::take()?)))
    }
}

/// `--detach`
pub const fn detach<A: AsMut<Waiting>>(help: &'static str) -> Binding<A> {
    Binding::switch(&["detach", "d"], help, |args, on| args.as_mut().detach = on)
}

/// `--no-subreaper`
pub const fn no_subreaper<A: AsMut<Waiting>>() -> Binding<A> {
    Binding::switch(&["no-subreaper"], "do not adopt and reap orphans of the container", |args, on| {
        args.as_mut().no_subreaper = on;
    })
}

/// The fate of a container whose process has ended in the foreground.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtExit {
    /// It is deleted.
    #[default]
    Delete,
    /// `--keep`
    Keep,
}

impl AsMut<CreateArgs> for RunArgs {
    fn as_mut(&mut self) -> &mut CreateArgs {
        &mut self.create
    }
}

/// The command.
pub static COMMAND: Command<RunArgs> = Command {
    usage: Usage {
        name: "run",
        summary: "make a container from a bundle and run its process",
        operands: launch::OPERANDS,
        description: "A bundle is a directory that holds a root filesystem and a config.json, which
describes the process. The command passes signals on to the process and exits
with its status.",
        program: Program::Sealed,
        ..Usage::DEFAULT
    },
    flags: &[
        launch::bundle(),
        launch::console_socket(),
        launch::pidfd_socket(),
        detach("return as soon as the process runs"),
        Binding::switch(&["keep"], "leave the stopped container to the command delete", |args: &mut RunArgs, on| {
            args.at_exit = if on { AtExit::Keep } else { AtExit::Delete };
        }),
        launch::pid_file(),
        no_subreaper(),
        launch::no_pivot(),
        launch::no_new_keyring(),
        launch::preserve_fds(),
    ],
    operands: |args, operands| args.create.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: RunArgs) -> Outcome {
    try_run(globals, &args).map_err(|e| failed(globals, "run", e))
}

fn try_run(globals: &Globals, args: &RunArgs) -> Result<i32> {
    let (attachment, signals) = args.waiting.prepare()?;
    let Launched { mut created, proxies, manager } = launch(globals, &args.create, attachment, Barrier::Inherited)?;
    let relay = match start(&mut created, manager) {
        Ok(relay) => relay,
        Err(e) => {
            undo(created);
            proxies.drain();
            return match (e.kind(), attachment) {
                (Kind::NotExecuted, Attachment::Foreground) => Ok(NOT_EXECUTED),
                _ => Err(e),
            };
        }
    };
    match (signals, relay) {
        (Some(signals), relay) => wait(created, proxies, &signals, relay, args.at_exit),
        (None, Some(relay)) => {
            relay.until_ready(created.container.pid(), created.pidfd.as_fd())?;
            Ok(0)
        }
        (None, None) => Ok(0),
    }
}

/// Starts the container. Its notification socket is bound before its process runs.
fn start(created: &mut Created, manager: Option<Manager>) -> Result<Option<Relay>> {
    let relay = manager.map(|manager| Relay::bind(manager, created.container.dir())).transpose()?;
    start::start(&created.container, created.barrier.take())?;
    Ok(relay)
}

/// Waits for the end of the process and for the last output; returns the exit status.
///
/// # Errors
/// As [`Signals::forward`].
pub fn wait(
    created: Created,
    proxies: Proxies,
    signals: &Signals,
    mut relay: Option<Relay>,
    at_exit: AtExit,
) -> Result<i32> {
    let process = (created.container.pid(), created.pidfd.as_fd());
    let status = signals.forward(process, &proxies, relay.as_mut());
    // The container is deleted before the proxies are drained: without a pid namespace of its own it may have left
    // processes that hold the pipes open, and the deletion ends them. If the wait has failed, the process may still run, so
    // the deletion is forced.
    let deleted = match (&status, at_exit) {
        (Err(_), _) => delete::force_delete(&created.container),
        (Ok(_), AtExit::Keep) => Ok(()),
        (Ok(_), AtExit::Delete) => delete::delete(&created.container),
    };
    // Another process may have deleted it.
    if let Err(e) = deleted
        && e.kind() != Kind::NotFound
    {
        log::warn!("{e}");
    }
    proxies.drain();
    relay.map_or(Ok(()), Relay::finish)?;
    status
}
