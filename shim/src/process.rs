//! One process of a container, init or exec: its stdio, its life, its waiters. Plain data and descriptors.
//!
//! ```text
//! Added ──> Opening ──> Starting ──> Running ──> Stopped
//!   └───────────┴───────────┴──────────────────────^        deleted before it ran, or could not be executed
//! ```
//! Which of these moves is allowed when is the container's decision (`container::state`).

use std::{os::fd::OwnedFd, sync::Arc};

use berth_proto::{task::Status, wkt::Timestamp};
use rustix::termios::Winsize;
use tokio::sync::watch;

use crate::{
    abort::Abort,
    console,
    io::{Io, uri::StdioRequest},
    reap::Exit,
};

/// Where a process is in its life.
#[derive(Debug)]
pub enum ProcessPhase {
    /// Asked for; `spec` is the JSON `process` object of an exec, checked, and empty for init.
    Added {
        /// JSON.
        spec: Vec<u8>,
    },
    /// Its stdio is being opened, which may wait for a client. Nobody waits for this process meanwhile.
    Opening,
    /// Being made.
    Starting,
    /// It exists (for init: perhaps still waiting for Start).
    Running {
        /// Names it for as long as it is not collected.
        pidfd: Arc<OwnedFd>,
    },
    /// It is over.
    Stopped,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// The stdio that the client asked for.
    pub request: StdioRequest,
    /// Where it is in its life.
    pub phase: ProcessPhase,
    /// Its id in the shim's pid namespace; 0 before it exists, kept after its end.
    pub pid: i32,
    /// Its stdio, from when it exists until it is deleted.
    pub io: Option<Arc<Io>>,
    /// CloseIO came before there was a stdin to close.
    pub stdin_closed: bool,
    /// Ends it while it is being made.
    pub abort: Option<Arc<Abort>>,
    /// ResizePty came before there was a terminal.
    pub initial_size: Option<Winsize>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// One that is asked for.
    pub fn new(request: StdioRequest, spec: Vec<u8>) -> Self {
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

    /// It exists now.
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

    /// It is over: everyone who waits is told, and an end that was recorded once stays as it is.
    pub fn set_stopped(&mut self, exit: Exit) {
        self.phase = ProcessPhase::Stopped;
        self.exit.send_if_modified(|known| known.is_none() && known.replace(exit).is_none());
        if let Some(io) = &self.io {
            io.process_exited();
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// A way to wait for its end, for any number of waiters; it outlives the process's record.
    pub fn waiter(&self) -> Waiter {
        Waiter(self.exit.subscribe())
    }

    /// How many bytes of its spec are kept.
    pub fn spec_bytes(&self) -> usize {
        match &self.phase {
            ProcessPhase::Added { spec } => spec.len(),
            _ => 0,
        }
    }

    /// Its start has begun, and it does not exist yet.
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, ProcessPhase::Opening | ProcessPhase::Starting)
    }

    /// The pidfd of a process that exists and is not over.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        match &self.phase {
            ProcessPhase::Running { pidfd } => Some(pidfd.clone()),
            _ => None,
        }
    }

    /// It is being made, or exists: its container may not end before it.
    pub fn holds_container(&self) -> bool {
        matches!(self.phase, ProcessPhase::Starting | ProcessPhase::Running { .. })
    }

    /// What State says of it when its container is neither pausing nor paused.
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
    /// The end, at once if it was before. A process that is deleted without having run ends as unknown.
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
    fn an_end_is_set_once_and_every_waiter_hears_it() {
        let mut process = Process::new(StdioRequest::default(), vec![]);
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
    fn a_process_that_is_forgotten_releases_its_waiters() {
        let process = Process::new(StdioRequest::default(), vec![]);
        let waiter = process.waiter();
        drop(process);
        assert_eq!(runtime().block_on(waiter.exit()).status, 255);
    }
}
