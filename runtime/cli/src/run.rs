//! `run`: makes a container, starts it, and unless detached waits for its end and removes it.

use std::os::fd::AsFd;

use berth_runtime::{
    Context, Kind, Result,
    create::{Barrier, Created},
    delete, start,
};

use super::{
    Globals, NOT_EXECUTED, Outcome,
    args::{Command, Count, Flag, Parsed},
    failed, launch,
    sd_notify::{Manager, Relay},
    signals::Signals,
    stdio::Streams,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "run",
    summary: "create and run a container",
    operands: "<container-id>

Where \"<container-id>\" is the name that the container shall have. No other
container on this host may have it.",
    about: "Makes a container from a bundle, a directory with a config.json and a root
filesystem, and runs the process that its config.json names. Signals are passed
on to it, and its exit status becomes that of this command.",
    flags: &[
        launch::BUNDLE,
        launch::CONSOLE_SOCKET,
        launch::PIDFD_SOCKET,
        Flag::switch(&["detach", "d"], "leave the container running and return"),
        Flag::switch(&["keep"], "do not delete the container when it has exited"),
        launch::PID_FILE,
        Flag::switch(&["no-subreaper"], "do not adopt and reap orphans of the container"),
        launch::NO_PIVOT,
        launch::NO_NEW_KEYRING,
        launch::PRESERVE_FDS,
    ],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    try_run(globals, parsed).map_err(|e| failed(globals, "run", e))
}

fn try_run(globals: &Globals, parsed: &Parsed) -> Result<i32> {
    let detached = parsed.on("detach");
    if !parsed.on("no-subreaper") {
        // Any value but none turns it on (prctl(2)); a pid is only how rustix spells it.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
    }
    let signals = if detached { None } else { Some(Signals::take()?) };
    let manager = Manager::of_environment()?;
    let (mut created, streams) = launch::create(globals, parsed, detached, manager.is_some(), Barrier::Inherited)?;
    let relay = match start(&mut created, manager) {
        Ok(relay) => relay,
        Err(e) => {
            launch::undo(created);
            streams.drain();
            return if e.kind() == Kind::NotExecuted && !detached { Ok(NOT_EXECUTED) } else { Err(e) };
        }
    };
    match (signals, relay) {
        (Some(signals), relay) => attend(created, streams, &signals, relay, parsed.on("keep")),
        (None, Some(relay)) => {
            relay.until_ready(created.container.pid(), created.pidfd.as_fd())?;
            Ok(0)
        }
        (None, None) => Ok(0),
    }
}

/// Starts the container, whose socket for the service manager is there before its process is.
fn start(created: &mut Created, manager: Option<Manager>) -> Result<Option<Relay>> {
    let relay = manager.map(|manager| Relay::bind(manager, created.container.dir())).transpose()?;
    start::start(&created.container, created.barrier.take())?;
    Ok(relay)
}

/// Waits for the end, and then for the last output.
fn attend(created: Created, streams: Streams, signals: &Signals, mut relay: Option<Relay>, keep: bool) -> Result<i32> {
    let process = (created.container.pid(), created.pidfd.as_fd());
    let status = signals.forward(process, &streams, relay.as_mut());
    // Before the last output: without a pid namespace of its own, the container may have left processes that hold
    // the pipes, and deleting it ends them.
    // One that has not ended as far as is known here is ended by force.
    let deleted = match status {
        Err(_) => delete::force_delete(&created.container),
        Ok(_) if keep => Ok(()),
        Ok(_) => delete::delete(&created.container),
    };
    if let Err(e) = deleted {
        log::warn!("{e}");
    }
    streams.drain();
    relay.map_or(Ok(()), Relay::finish)?;
    status
}
