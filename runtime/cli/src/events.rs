//! `events`: what a container uses, now or every so often, and when the kernel kills in it for want of memory. One
//! JSON object a line, as go-runc reads them.

use std::{
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use berth_runtime::{
    Context, Error, Kind, Result,
    events::{self, OomWatch},
    state::{Container, Status},
    stats,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::Value;

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
    usage::usage,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "events",
    summary: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
    operands: "<container-id>

Where \"<container-id>\" is the name of the container.",
    about:
        "Prints one JSON object a line: \"stats\" at each interval, \"oom\" when the kernel has killed a process of the
container for want of memory. Ends when the container does.",
    flags: &[
        Flag::value(&["interval"], Takes::Duration, "time between statistics").or("5s"),
        Flag::switch(&["stats"], "print the statistics once"),
    ],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

/// What `--interval` is when it is not given.
const INTERVAL: Duration = Duration::from_secs(5);

/// v1 tells of want of memory before it kills and counts: for so long the count is asked again,
const SUSPICION: Duration = Duration::from_secs(1);

/// and so often.
const PAUSE: Duration = Duration::from_millis(10);

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let interval = match parsed.int("interval") {
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
    if parsed.on("stats") {
        Event::stats(&container)?.print()?;
        return Ok(0);
    }
    follow(&container, interval)?;
    Ok(0)
}

/// Until init has ended and nothing is left in the cgroup.
fn follow(container: &Container, interval: Duration) -> Result<()> {
    let mut oom = events::oom_watch(container)?;
    let init = container.pidfd()?;
    let mut init = Some(init.as_fd());
    let mut next = Instant::now() + interval;
    let mut suspicion = None;
    loop {
        let now = Instant::now();
        suspicion = suspicion.filter(|until| *until > now);
        let told = wait(oom.as_fd(), init, suspicion.map_or(next, |_| next.min(now + PAUSE)))?;
        if tell_kills(container, &mut oom)? > 0 {
            suspicion = None;
        } else if told {
            suspicion = Some(Instant::now() + SUSPICION);
        }
        if init.is_some_and(ended) {
            // Not asked again: a pidfd of the dead stays readable.
            init = None;
        }
        if init.is_none() && container.cgroup().pids().map_or(true, |pids| pids.is_empty()) {
            // The kill that ended init may have been counted after it was told of.
            return tell_kills(container, &mut oom).map(drop);
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

/// One line for each process that the kernel has killed since the last call; how many.
fn tell_kills(container: &Container, oom: &mut OomWatch) -> Result<u64> {
    let kills = oom.drain()?;
    for _ in 0..kills {
        Event { kind: "oom", id: container.id(), data: None }.print()?;
    }
    Ok(kills)
}

/// Until there may be an OOM kill (true), init has ended, or it is `until`.
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

/// A line of output. Readers look for its first two fields in this order.
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
        let data = usage(&stats::stats(container)?, &stats::placement(container)?);
        Ok(Self { kind: "stats", id: container.id(), data: Some(data) })
    }

    /// A reader that is gone ends the command.
    fn print(&self) -> Result<()> {
        let line = serde_json::to_string(self).map_err(|e| Error::new(Kind::Internal, format!("encode event: {e}")))?;
        std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).context("write the standard output")
    }
}
