//! The state of one container, and the moves that are allowed. It is pure: no function here waits, blocks or calls the
//! kernel.
//!
//! ```text
//! Creating ──> Created ──> Starting ──> Running <──> Pausing ──> Paused      (Resume: Paused ──> Running)
//!                 │            │           │                       │
//!                 └────────────┴─────── init is reaped ────────────┘ ──> Stopped ──> Deleted
//! ```
//! The state decides the order of events. Each move returns the events that it causes, and the caller queues them
//! before it releases the lock. The exit of a process is never published before its start: an exec is watched only
//! after `exec_started`, and the exit of init waits for `started`. The exit of init is the last one of its container:
//! it waits while an exec is being started or runs, and no exec can start once init is reaped. `execs` has the moves of
//! execs.

mod carried;
mod execs;

use std::{collections::BTreeMap, mem, os::fd::OwnedFd, sync::Arc};

use berth_proto::{
    events::{TaskExit, TaskPaused, TaskResumed, TaskStart},
    task::Status,
};
use berth_runtime::{Error, Result, state};

use crate::{
    error::{finished, no_container, no_process, precondition},
    io::{Io, uri::StdioRequest},
    process::{Process, ProcessPhase},
    publish::Event,
    reap::Exit,
};

/// The phase of a container.
#[derive(Debug)]
pub enum Phase {
    /// The id is taken; nothing else exists for certain.
    Creating,
    /// Init waits at the barrier. `barrier` is `None` after a start that failed.
    Created {
        /// Start releases init through it.
        barrier: Option<OwnedFd>,
    },
    /// Start is releasing the barrier.
    Starting,
    /// Init has executed its program.
    Running,
    /// Pause is freezing the cgroup.
    Pausing,
    /// The cgroup is frozen.
    Paused,
    /// Init has exited, and the exit is published.
    Stopped,
    /// Nothing but this record is left.
    Deleted,
}

impl Phase {
    /// The phase in one lower-case word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created { .. } => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// A process that the runtime has made.
#[derive(Debug)]
pub struct NewProcess {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Arc<OwnedFd>,
    /// Its stdio.
    pub io: Arc<Io>,
}

/// The record of a container.
#[derive(Debug)]
pub struct State {
    id: String,
    phase: Phase,
    /// The first process.
    pub init: Process,
    /// The other processes by exec id. It is a tree, since a hash table never shrinks.
    execs: BTreeMap<String, Process>,
    /// The exit of init, from when init is reaped.
    init_exit: Option<Exit>,
    /// The work between the exit of init and its event is done: the rest of the container is killed, OOM kills are
    /// published.
    cleaned_up: bool,
    /// The runtime's handle, while a part of the container exists in the kernel.
    pub handle: Option<Arc<state::Container>>,
    /// Delete must unmount the rootfs.
    pub mounted: bool,
}

impl State {
    /// Makes the record of a container that is being created.
    pub fn new(id: &str, request: StdioRequest) -> Self {
        Self {
            id: id.to_owned(),
            phase: Phase::Creating,
            init: Process::new(request, None),
            execs: BTreeMap::new(),
            init_exit: None,
            cleaned_up: false,
            handle: None,
            mounted: false,
        }
    }

    /// The phase.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The status of init for State.
    ///
    /// # Errors
    /// The container is not created yet, or is deleted.
    pub fn status(&self) -> Result<Status> {
        Ok(match self.phase {
            Phase::Creating | Phase::Deleted => return Err(no_container(&self.id)),
            Phase::Created { .. } | Phase::Starting => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Pausing => Status::PAUSING,
            Phase::Paused => Status::PAUSED,
            Phase::Stopped => Status::STOPPED,
        })
    }

    /// The status of a process for State. A frozen container shows all its live processes as paused.
    ///
    /// # Errors
    /// The process does not exist.
    pub fn process_status(&self, exec: &str) -> Result<Status> {
        let container = self.status()?;
        let process = self.process(exec)?;
        Ok(match (exec, container) {
            ("", status) => status,
            (_, Status::PAUSED | Status::PAUSING) if process.holds_container() => container,
            _ => process.status(),
        })
    }

    /// Init for an empty `exec`, else the exec.
    ///
    /// # Errors
    /// The process does not exist; or the container is not created yet, or is deleted.
    pub fn process(&self, exec: &str) -> Result<&Process> {
        if matches!(self.phase, Phase::Creating | Phase::Deleted) {
            return Err(no_container(&self.id));
        }
        if exec.is_empty() { Ok(&self.init) } else { self.execs.get(exec).ok_or_else(|| no_process(&self.id, exec)) }
    }

    /// As [`process`](Self::process), mutably.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn process_mut(&mut self, exec: &str) -> Result<&mut Process> {
        self.process(exec)?;
        if exec.is_empty() {
            Ok(&mut self.init)
        } else {
            self.execs.get_mut(exec).ok_or_else(|| no_process(&self.id, exec))
        }
    }

    /// All processes, init first, for the dump.
    pub fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        std::iter::once(("", &self.init)).chain(self.execs.iter().map(|(id, p)| (id.as_str(), p)))
    }

    /// Create has succeeded.
    pub fn created(&mut self, new: NewProcess, barrier: Option<OwnedFd>) {
        self.init.set_running(new.pid, new.pidfd, new.io);
        self.phase = Phase::Created { barrier };
    }

    /// Create has succeeded for a container that Start restores from images.
    pub fn created_without_process(&mut self) {
        self.phase = Phase::Created { barrier: None };
    }

    /// Start of a container without a process begins.
    ///
    /// # Errors
    /// The container is deleted, or has ended.
    pub fn restoring(&mut self) -> Result<()> {
        match self.phase {
            Phase::Created { barrier: None } if self.init_exit.is_none() => {
                self.phase = Phase::Starting;
                Ok(())
            }
            _ => Err(self.wrong_phase("start")),
        }
    }

    /// The restore has succeeded: init runs.
    pub fn restored(&mut self, new: NewProcess) -> Vec<Event> {
        self.init.set_running(new.pid, new.pidfd, new.io);
        self.started()
    }

    /// Start of init begins; returns the barrier.
    ///
    /// # Errors
    /// Init was started before, or has exited.
    pub fn starting(&mut self) -> Result<OwnedFd> {
        let barrier = match &mut self.phase {
            Phase::Created { barrier } if self.init_exit.is_none() => barrier.take(),
            _ => None,
        };
        let barrier = barrier.ok_or_else(|| self.wrong_phase("start"))?;
        self.phase = Phase::Starting;
        Ok(barrier)
    }

    /// Start of init has succeeded: init executes its program.
    pub fn started(&mut self) -> Vec<Event> {
        let pid = self.init.pid.cast_unsigned();
        let start = TaskStart { container_id: self.id.clone(), pid, ..Default::default() };
        self.phase = Phase::Running;
        std::iter::once(start.into()).chain(self.announce_exit()).collect()
    }

    /// Start of init has failed. The container can only be deleted now.
    pub fn start_failed(&mut self) -> Vec<Event> {
        self.phase = Phase::Created { barrier: None };
        self.announce_exit().into_iter().collect()
    }

    /// Init was reaped; no exec can start any more. Returns true if the container was frozen.
    pub fn init_exited(&mut self, exit: Exit) -> bool {
        self.init_exit.get_or_insert(exit);
        matches!(self.phase, Phase::Pausing | Phase::Paused)
    }

    /// The work after the exit of init is done.
    pub fn init_cleaned_up(&mut self) -> Vec<Event> {
        self.cleaned_up = true;
        self.announce_exit().into_iter().collect()
    }

    /// Init was reaped; its exit may not be published yet.
    pub fn has_exited(&self) -> bool {
        self.init_exit.is_some()
    }

    /// Checkpoint begins.
    ///
    /// # Errors
    /// The container is neither running nor paused.
    pub fn checkpointable(&self) -> Result<()> {
        match self.phase {
            Phase::Running | Phase::Paused if self.init_exit.is_none() => Ok(()),
            _ => Err(self.wrong_phase("checkpoint")),
        }
    }

    /// Pause begins.
    ///
    /// # Errors
    /// The container is not running.
    pub fn pausing(&mut self) -> Result<()> {
        match self.phase {
            Phase::Running if self.init_exit.is_none() => {
                self.phase = Phase::Pausing;
                Ok(())
            }
            _ => Err(self.wrong_phase("pause")),
        }
    }

    /// Pause has succeeded. A container whose init has exited meanwhile keeps its phase.
    pub fn paused(&mut self) -> Option<Event> {
        if !matches!(self.phase, Phase::Pausing) {
            return None;
        }
        self.phase = Phase::Paused;
        Some(TaskPaused { container_id: self.id.clone(), ..Default::default() }.into())
    }

    /// Pause has failed: the container runs on.
    pub fn pause_failed(&mut self) {
        if matches!(self.phase, Phase::Pausing) {
            self.phase = Phase::Running;
        }
    }

    /// Resume may begin.
    ///
    /// # Errors
    /// The container is not paused.
    pub fn resuming(&self) -> Result<()> {
        if matches!(self.phase, Phase::Paused) { Ok(()) } else { Err(self.wrong_phase("resume")) }
    }

    /// Resume has succeeded.
    pub fn resumed(&mut self) -> Option<Event> {
        if !matches!(self.phase, Phase::Paused) {
            return None;
        }
        self.phase = Phase::Running;
        Some(TaskResumed { container_id: self.id.clone(), ..Default::default() }.into())
    }

    /// Update may begin.
    ///
    /// # Errors
    /// The container has exited or is not created yet.
    pub fn updatable(&self) -> Result<()> {
        match self.phase {
            Phase::Created { .. } | Phase::Running | Phase::Paused if self.init_exit.is_none() => Ok(()),
            _ => Err(self.wrong_phase("update")),
        }
    }

    /// Delete may begin: the container has exited, or was never started.
    ///
    /// # Errors
    /// The container runs, or is deleted already.
    pub fn deletable(&self) -> Result<()> {
        match self.phase {
            Phase::Created { .. } | Phase::Stopped => Ok(()),
            _ => Err(self.wrong_phase("delete")),
        }
    }

    /// Delete has succeeded; returns the execs that no Delete call named.
    pub fn deleted(&mut self) -> Vec<Process> {
        self.phase = Phase::Deleted;
        mem::take(&mut self.execs).into_values().collect()
    }

    /// The pidfd for a signal.
    ///
    /// # Errors
    /// The process has exited (not found), or does not exist yet.
    pub fn signal_target(&self, exec: &str) -> Result<Arc<OwnedFd>> {
        let process = self.process(exec)?;
        match &process.phase {
            ProcessPhase::Running { .. } if exec.is_empty() && self.init_exit.is_some() => Err(finished()),
            ProcessPhase::Running { pidfd } => Ok(pidfd.clone()),
            ProcessPhase::Stopped => Err(finished()),
            ProcessPhase::Added { .. } | ProcessPhase::Opening | ProcessPhase::Starting => {
                Err(precondition("process not created"))
            }
        }
    }

    /// Publishes the exit of init unless something must come before it.
    fn announce_exit(&mut self) -> Option<Event> {
        let exit = self.init_exit.filter(|_| self.cleaned_up)?;
        if matches!(self.phase, Phase::Starting | Phase::Stopped | Phase::Deleted)
            || self.execs.values().any(Process::holds_container)
        {
            return None;
        }
        self.phase = Phase::Stopped;
        self.init.set_stopped(exit);
        Some(exit_event(&self.id, &self.id, &self.init))
    }

    fn wrong_phase(&self, what: &str) -> Error {
        let phase = match self.phase {
            Phase::Creating | Phase::Deleted => return no_container(&self.id),
            _ if self.init_exit.is_some() => Phase::Stopped.name(),
            _ => self.phase.name(),
        };
        precondition(format!("cannot {what} a {phase} container"))
    }
}

fn exit_event(container: &str, id: &str, process: &Process) -> Event {
    let exit = process.exit().unwrap_or_else(Exit::unknown);
    TaskExit {
        container_id: container.to_owned(),
        id: id.to_owned(),
        pid: process.pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: Some(exit.into()).into(),
        ..Default::default()
    }
    .into()
}

#[cfg(test)]
mod tests;
