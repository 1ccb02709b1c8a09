//! One process of a container, init or exec: its stdio, its phase and its waiters. It is plain data and descriptors.
//!
//! ```text
//! Added ──> Opening ──> Starting ──> Running ──> Stopped
//!   └───────────┴───────────┴──────────────────────^        deleted before it ran, or could not be executed
//! ```
//! `container::state` decides which of these moves is allowed when.

use std::{os::fd::OwnedFd, sync::Arc};

use berth_proto::{task::Status, wkt::Timestamp};
use berth_runtime::Result;
use oci_spec::runtime::Process as Spec;
use rustix::termios::Winsize;
use tokio::sync::watch;

use crate::{
    abort::Abort,
    carry::{self, Adopter, Keeper},
    console,
    io::{Io, uri::StdioRequest},
    pool::Pool,
    reap::Exit,
};

/// The phase of a process.
#[derive(Debug)]
pub enum ProcessPhase {
    /// Exec has reserved it. Init has no specification here.
    Added {
        /// The specification, until Start.
        spec: Option<ExecSpec>,
    },
    /// Its stdio is being opened, which may wait for a client. The container can stop meanwhile.
    Opening,
    /// The runtime is making it.
    Starting,
    /// It exists. Init may still wait for Start.
    Running {
        /// Identifies the process until it is reaped.
        pidfd: Arc<OwnedFd>,
    },
    /// It has exited.
    Stopped,
}

/// The checked specification of an exec.
#[derive(Debug)]
pub struct ExecSpec {
    /// The `process` object.
    pub process: Box<Spec>,
    /// Its size in memory, bytes: the JSON, and the header of each string and of its block.
    bytes: usize,
}

impl ExecSpec {
    /// Parses and checks a `process` object in JSON.
    ///
    /// # Errors
    /// [`berth_runtime::Kind::InvalidArgument`] with the name of the field.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let process = Box::new(berth_runtime::bundle::parse_process(json)?);
        let strings = [process.args(), process.env()].into_iter().flatten().map(Vec::len).sum::<usize>();
        let bytes = size_of::<Spec>() + json.len() + strings * (size_of::<String>() + 2 * size_of::<usize>());
        Ok(Self { process, bytes })
    }

    /// Its size in memory, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn carry(&self) -> carry::ExecSpec {
        let Self { process, bytes } = self;
        carry::ExecSpec { process: process.clone(), bytes: *bytes }
    }

    fn adopt(spec: carry::ExecSpec) -> Self {
        let carry::ExecSpec { process, bytes } = spec;
        Self { process, bytes }
    }

    /// A specification that counts as `bytes`.
    #[cfg(test)]
    pub fn of_size(bytes: usize) -> Self {
        Self { process: Box::default(), bytes }
    }
}

/// A process of a container.
#[derive(Debug)]
pub struct Process {
    /// The stdio in the client's request.
    pub request: StdioRequest,
    /// The phase.
    pub phase: ProcessPhase,
    /// Its pid in the shim's pid namespace: 0 before it exists, kept after its exit.
    pub pid: i32,
    /// Its stdio, from its start to its Delete.
    pub io: Option<Arc<Io>>,
    /// CloseIO has come before stdin was open.
    pub stdin_closed: bool,
    /// Aborts the start, while it is being started.
    pub abort: Option<Arc<Abort>>,
    /// ResizePty has come before the terminal existed.
    pub initial_size: Option<Winsize>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// Writes the process down.
    ///
    /// # Errors
    /// Its start is in flight.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<carry::Process> {
        let Self { request, phase, pid, io, stdin_closed, abort: _, initial_size, exit } = self;
        Ok(carry::Process {
            request: request.carry(),
            phase: match phase {
                ProcessPhase::Added { spec } => carry::ProcessPhase::Added(spec.as_ref().map(ExecSpec::carry)),
                ProcessPhase::Running { pidfd } => carry::ProcessPhase::Running { pidfd: keeper.keep(pidfd)? },
                ProcessPhase::Stopped => carry::ProcessPhase::Stopped,
                ProcessPhase::Opening | ProcessPhase::Starting => {
                    return Err(carry::busy("a process is being started"));
                }
            },
            pid: *pid,
            io: io.as_ref().map(|io| io.carry(keeper)).transpose()?,
            stdin_closed: *stdin_closed,
            initial_size: initial_size.map(|size| (size.ws_col, size.ws_row)),
            exit: exit.borrow().map(Exit::carry),
        })
    }

    /// Makes the process again.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(process: carry::Process, adopter: &mut Adopter, pool: &Pool) -> Result<Self> {
        let carry::Process { request, phase, pid, io, stdin_closed, initial_size, exit } = process;
        Ok(Self {
            request: StdioRequest::adopt(request),
            phase: match phase {
                carry::ProcessPhase::Added(spec) => ProcessPhase::Added { spec: spec.map(ExecSpec::adopt) },
                carry::ProcessPhase::Running { pidfd } => ProcessPhase::Running { pidfd: adopter.share(pidfd)? },
                carry::ProcessPhase::Stopped => ProcessPhase::Stopped,
            },
            pid,
            io: io.map(|io| Io::adopt(io, adopter, pool)).transpose()?,
            stdin_closed,
            abort: None,
            initial_size: initial_size.map(|(ws_col, ws_row)| Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 }),
            exit: watch::Sender::new(exit.map(Exit::adopt)),
        })
    }

    /// Makes the record of a process that is asked for.
    pub fn new(request: StdioRequest, spec: Option<ExecSpec>) -> Self {
        Self {
            request,
            phase: ProcessPhase::Added { spec },
            pid: 0,
            io: None,
            stdin_closed: false,
            abort: None,
            initial_size: None,
            exit: watch::Sender::new(None),
        }
    }

    /// Records that the process exists.
    pub fn set_running(&mut self, pid: i32, pidfd: Arc<OwnedFd>, io: Arc<Io>) {
        if self.stdin_closed {
            io.close_stdin();
        }
        if let (Some(size), Some(console)) = (self.initial_size.take(), io.console())
            && let Err(e) = console::resize(&console, size)
        {
            log::warn!("{e}");
        }
        self.pid = pid;
        self.io = Some(io);
        self.phase = ProcessPhase::Running { pidfd };
    }

    /// Records the exit and wakes all waiters. A second exit does not replace the first.
    pub fn set_stopped(&mut self, exit: Exit) {
        self.phase = ProcessPhase::Stopped;
        self.exit.send_if_modified(|known| known.is_none() && known.replace(exit).is_none());
        if let Some(io) = &self.io {
            io.process_exited();
        }
    }

    /// The exit, once there is one.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Returns a handle that waits for the exit. Any number may wait, also after the record is gone.
    pub fn waiter(&self) -> Waiter {
        Waiter(self.exit.subscribe())
    }

    /// The size of the kept specification in bytes.
    pub fn spec_bytes(&self) -> usize {
        match &self.phase {
            ProcessPhase::Added { spec: Some(spec) } => spec.bytes,
            _ => 0,
        }
    }

    /// Reports whether its start has begun and it does not exist yet.
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, ProcessPhase::Opening | ProcessPhase::Starting)
    }

    /// The pidfd of a process that runs.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        match &self.phase {
            ProcessPhase::Running { pidfd } => Some(pidfd.clone()),
            _ => None,
        }
    }

    /// Reports whether its container must not stop before it: it is being made, or runs.
    pub fn holds_container(&self) -> bool {
        matches!(self.phase, ProcessPhase::Starting | ProcessPhase::Running { .. })
    }

    /// The status for State when the container is neither pausing nor paused.
    pub fn status(&self) -> Status {
        match self.phase {
            ProcessPhase::Added { .. } | ProcessPhase::Opening | ProcessPhase::Starting => Status::CREATED,
            ProcessPhase::Running { .. } => Status::RUNNING,
            ProcessPhase::Stopped => Status::STOPPED,
        }
    }
}

/// Waits for one process to end.
#[derive(Debug)]
pub struct Waiter(watch::Receiver<Option<Exit>>);

impl Waiter {
    /// Returns the exit, at once if the process has exited. The exit of a process that is deleted without having run is
    /// unknown (255).
    pub async fn exit(mut self) -> Exit {
        match self.0.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(Exit::unknown),
            Err(_) => Exit::unknown(),
        }
    }
}

impl From<Exit> for Timestamp {
    fn from(exit: Exit) -> Self {
        Self { seconds: exit.seconds, nanos: exit.nanoseconds, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runtime;

    #[test]
    fn an_exit_is_set_once_and_wakes_all_waiters() {
        let mut process = Process::new(StdioRequest::default(), None);
        let (early, late) = (process.waiter(), process.waiter());
        let first = Exit { status: 42, seconds: 1, nanoseconds: 2 };
        process.set_stopped(first);
        process.set_stopped(Exit { status: 137, seconds: 3, nanoseconds: 4 });
        assert_eq!(process.exit(), Some(first));
        let after = process.waiter();
        drop(process);
        runtime().block_on(async {
            for waiter in [early, late, after] {
                assert_eq!(waiter.exit().await, first);
            }
        });
    }

    #[test]
    fn dropping_a_process_releases_its_waiters() {
        let process = Process::new(StdioRequest::default(), None);
        let waiter = process.waiter();
        drop(process);
        assert_eq!(runtime().block_on(waiter.exit()).status, 255);
    }
}
