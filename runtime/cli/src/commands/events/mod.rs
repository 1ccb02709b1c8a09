//! `events`: prints the resource usage of a container, once or at intervals, and each OOM kill in it. The output is one
//! JSON object a line, as go-runc reads it.

mod stats;

use std::{
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use berth_runtime::{
    Context, Error, Kind, Result,
    events::{self, OomWatch},
    state::{Container, Status},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::Value;

use super::load;
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Usage},
};

/// The arguments of `events`.
#[derive(Debug, Default)]
pub struct EventsArgs {
    id: String,
    /// Nanoseconds; `None` is [`INTERVAL`].
    interval: Option<i64>,
    stats: bool,
}

/// The command.
pub static COMMAND: Command<EventsArgs> = Command {
    usage: Usage {
        name: "events",
        summary: "print resource usage and out-of-memory kills of a container",
        operands: "<container-id>",
        description: "The output is one JSON object a line: \"stats\" at each interval, and \"oom\" for each
process of the container that the kernel kills because memory is short. The
command ends when the container ends.",
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::duration(&["interval"], "time between two lines of statistics", |args: &mut EventsArgs, ns| {
            args.interval = Some(ns)
        })
        .or("5s"),
        Binding::switch(&["stats"], "print the statistics of this moment and exit", |args, on| args.stats = on),
    ],
    operands: |args, operands| args.id = operands.one(),
    run,
};

/// The default of `--interval`.
const INTERVAL: Duration = Duration::from_secs(5);

/// cgroup v1 announces a shortage of memory before the kernel kills and counts the kill. The count is read again for this
/// long after an announcement.
const SUSPICION: Duration = Duration::from_secs(1);

/// The time between two readings of the count during [`SUSPICION`].
const PAUSE: Duration = Duration::from_millis(10);

fn run(globals: &Globals, args: EventsArgs) -> Outcome {
    let container = load(globals, &args.id)?;
    let interval = match args.interval {
        None => INTERVAL,
        Some(ns) => Duration::from_nanos(
            u64::try_from(ns)
                .ok()
                .filter(|ns| *ns > 0)
                .ok_or_else(|| Error::invalid("duration interval must be greater than 0"))?,
        ),
    };
    if container.status()? == Status::Stopped {
        let text = format!("container with id {} is not running", container.id());
        return Err(Error::new(Kind::FailedPrecondition, text).into());
    }
    if args.stats {
        Event::stats(&container)?.print()?;
        return Ok(0);
    }
    follow(&container, interval)?;
    Ok(0)
}

/// Prints events until init has ended and the cgroup is empty.
fn follow(container: &Container, interval: Duration) -> Result<()> {
    let mut oom = events::oom_watch(container)?;
    let init = container.pidfd()?;
    let mut init = Some(init.as_fd());
    let mut next = Instant::now() + interval;
    let mut suspicion = None;
    loop {
        let now = Instant::now();
        suspicion = suspicion.filter(|until| *until > now);
        let announced = wait(oom.as_fd(), init, suspicion.map_or(next, |_| next.min(now + PAUSE)))?;
        if print_kills(container, &mut oom)? > 0 {
            suspicion = None;
        } else if announced {
            suspicion = Some(Instant::now() + SUSPICION);
        }
        if init.is_some_and(ended) {
            // The pidfd of a process that has ended stays readable, so it is not polled again.
            init = None;
        }
        if init.is_none() && container.cgroup().pids().map_or(true, |pids| pids.is_empty()) {
            // The kernel may have counted the kill that ended init after the last reading.
            return print_kills(container, &mut oom).map(drop);
        }
        if Instant::now() >= next {
            next += interval;
            match Event::stats(container) {
                Ok(event) => event.print()?,
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => log::error!("{e}"),
            }
        }
    }
}

/// Prints one line for each OOM kill since the last call; returns their number.
fn print_kills(container: &Container, oom: &mut OomWatch) -> Result<u64> {
    let kills = oom.drain()?;
    for _ in 0..kills {
        Event { kind: "oom", id: container.id(), data: None }.print()?;
    }
    Ok(kills)
}

/// Waits until the OOM watch is readable, init has ended, or the time is `until`. Returns whether the watch is readable.
fn wait(oom: BorrowedFd<'_>, init: Option<BorrowedFd<'_>>, until: Instant) -> Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let left =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let mut fds: Vec<PollFd<'_>> =
        [Some(oom), init].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&left)) {
        Ok(_) => Ok(fds.first().is_some_and(|oom| !oom.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e).context("poll"),
    }
}

fn ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// A line of the output. `type` and `id` come first, as in runc's output.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl<'a> Event<'a> {
    fn stats(container: &'a Container) -> Result<Self> {
        let data =
            stats::to_json(&berth_runtime::stats::stats(container)?, &berth_runtime::stats::placement(container)?);
        Ok(Self { kind: "stats", id: container.id(), data: Some(data) })
    }

    /// Writes the line. A closed pipe is an error, which ends the command.
    fn print(&self) -> Result<()> {
        let line = serde_json::to_string(self).map_err(|e| Error::new(Kind::Internal, format!("encode event: {e}")))?;
        std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).context("write the standard output")
    }
}
