//! What is true of one container, and which moves are allowed. Pure: no call in here waits, blocks or asks the kernel.
//!
//! ```text
//! Creating ──> Created ──> Starting ──> Running <──> Pausing ──> Paused      (Resume: Paused ──> Running)
//!                 │            │           │                       │
//!                 └────────────┴─────── init is collected ─────────┘ ──> Stopped ──> Deleted
//! ```
//! The order of events is made here, too: each move returns the events it causes, and the caller queues them before it
//! lets go of the lock. An end is never announced while the start of the same process is still to be: an exec's watcher
//! begins after `exec_started`, and init's end waits for `started`. Init's end is the last of its container: it waits
//! until no exec is being made or exists, and none may be started once init is collected.

use std::{collections::BTreeMap, mem, os::fd::OwnedFd, sync::Arc};

use berth_proto::{
    events::{TaskExecAdded, TaskExecStarted, TaskExit, TaskPaused, TaskResumed, TaskStart},
    task::Status,
};
use berth_runtime::{Error, Kind, Result, state};

use crate::{
    abort::Abort,
    error::{finished, no_container, no_process, precondition},
    io::{Io, uri::Request},
    process::{Life, Process, Waiter},
    publish::Event,
    reap::Exit,
};

/// How many execs a container may have that nobody has deleted.
const EXECS: usize = 4096;
/// How much memory their specs may take, in bytes. A spec is kept until its exec is started.
const SPECS: usize = 32 << 20;

/// Where a container is in its life.
#[derive(Debug)]
pub enum Phase {
    /// Its id is taken, nothing else is sure.
    Creating,
    /// Init waits behind the barrier. `None` once a start has used it up and failed.
    Created {
        /// Released by Start.
        barrier: Option<OwnedFd>,
    },
    /// The barrier is being released.
    Starting,
    /// Init executes.
    Running,
    /// The freezer is at work.
    Pausing,
    /// Frozen.
    Paused,
    /// Init has ended, and the world has been told.
    Stopped,
    /// Nothing is left but this.
    Deleted,
}

/// A process that the runtime has made.
#[derive(Debug)]
pub struct Born {
    /// Its id.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Arc<OwnedFd>,
    /// Its stdio.
    pub io: Arc<Io>,
}

/// The container's record.
#[derive(Debug)]
pub struct State {
    id: String,
    phase: Phase,
    /// The first process.
    pub init: Process,
    /// The others, by exec id; a tree, since a table keeps the size that it once had.
    execs: BTreeMap<String, Process>,
    /// Init was collected: how it ended, kept back until it may be announced.
    collected: Option<Exit>,
    /// What has to happen between init's end and its announcement has happened.
    settled: bool,
    /// The runtime's record, while there is something of the container in the kernel.
    pub handle: Option<Arc<state::Container>>,
    /// The rootfs mounts are ours to undo.
    pub mounted: bool,
}

impl State {
    /// A container whose create has begun.
    pub fn new(id: &str, request: Request) -> Self {
        Self {
            id: id.to_owned(),
            phase: Phase::Creating,
            init: Process::new(request, Vec::new()),
            execs: BTreeMap::new(),
            collected: None,
            settled: false,
            handle: None,
            mounted: false,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What State says of init.
    ///
    /// # Errors
    /// The create has not ended yet.
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

    /// What State says of a process: while the container is frozen, so are all in it.
    ///
    /// # Errors
    /// No such process.
    pub fn process_status(&self, exec: &str) -> Result<Status> {
        let container = self.status()?;
        let process = self.process(exec)?;
        Ok(match (exec, container) {
            ("", status) => status,
            (_, Status::PAUSED | Status::PAUSING) if process.is_live() => container,
            _ => process.status(),
        })
    }

    /// Init for the empty id, else an exec.
    ///
    /// # Errors
    /// No such process, or the container is not there yet or any more.
    pub fn process(&self, exec: &str) -> Result<&Process> {
        if matches!(self.phase, Phase::Creating | Phase::Deleted) {
            return Err(no_container(&self.id));
        }
        if exec.is_empty() { Ok(&self.init) } else { self.execs.get(exec).ok_or_else(|| no_process(&self.id, exec)) }
    }

    /// The same, to change it.
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

    /// Exec ids and the ids of their processes, of those that exist.
    pub fn exec_pids(&self) -> impl Iterator<Item = (&str, i32)> {
        self.execs.iter().filter(|(_, p)| matches!(p.life, Life::Running { .. })).map(|(id, p)| (id.as_str(), p.pid))
    }

    /// The pidfds of the execs that exist and are not over.
    pub fn exec_pidfds(&self) -> impl Iterator<Item = Arc<OwnedFd>> {
        self.execs.values().filter_map(Process::pidfd)
    }

    /// All processes, init first, for the dump.
    pub fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        std::iter::once(("", &self.init)).chain(self.execs.iter().map(|(id, p)| (id.as_str(), p)))
    }

    /// Create has made the container.
    pub fn created(&mut self, born: Born, barrier: Option<OwnedFd>) {
        self.init.run(born.pid, born.pidfd, born.io);
        self.phase = Phase::Created { barrier };
    }

    /// Start of init begins; gives the barrier.
    ///
    /// # Errors
    /// It is started already, or over.
    pub fn starting(&mut self) -> Result<OwnedFd> {
        let barrier = match &mut self.phase {
            Phase::Created { barrier } if self.collected.is_none() => barrier.take(),
            _ => None,
        };
        let barrier = barrier.ok_or_else(|| self.refuse("start"))?;
        self.phase = Phase::Starting;
        Ok(barrier)
    }

    /// Start of init has ended.
    pub fn started(&mut self, executes: bool) -> Vec<Event> {
        let mut events = Vec::new();
        self.phase = if executes {
            let start =
                TaskStart { container_id: self.id.clone(), pid: self.init.pid.cast_unsigned(), ..Default::default() };
            events.push(start.into());
            Phase::Running
        } else {
            Phase::Created { barrier: None }
        };
        events.extend(self.announce());
        events
    }

    /// Exec reserves an id.
    ///
    /// # Errors
    /// The id is taken; the container is not created or running; it has too many already (EAGAIN).
    pub fn add_exec(&mut self, exec: &str, request: Request, spec: Vec<u8>) -> Result<Event> {
        self.open_for_execs()?;
        if self.execs.contains_key(exec) {
            return Err(Error::new(Kind::AlreadyExists, format!("id {exec:?} already exists")));
        }
        let too_much = |what: String| Error::from_errno(libc::EAGAIN).context(format!("exec {exec:?}: {what}"));
        if self.execs.len() >= EXECS {
            return Err(too_much(format!("container {:?} has {EXECS} execs that nobody has deleted", self.id)));
        }
        let kept = self.execs.values().map(|process| process.kept()).sum::<usize>();
        if kept + spec.len() > SPECS {
            return Err(too_much(format!("container {:?} has execs of {kept} bytes to start", self.id)));
        }
        self.execs.insert(exec.to_owned(), Process::new(request, spec));
        let added = TaskExecAdded { container_id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        Ok(added.into())
    }

    /// Start of an exec begins with its stdio, and `abort` can end it from now on; gives what was asked for.
    ///
    /// # Errors
    /// No such exec, it is started already, or the container takes none.
    pub fn exec_opening(&mut self, exec: &str, abort: Arc<Abort>) -> Result<(Vec<u8>, Request)> {
        self.process(exec)?;
        self.open_for_execs()?;
        let process = self.process_mut(exec)?;
        match mem::replace(&mut process.life, Life::Opening) {
            Life::Added { spec } => {
                process.abort = Some(abort);
                Ok((spec, process.request.clone()))
            }
            other => {
                process.life = other;
                Err(precondition(format!("process {exec:?} was started before")))
            }
        }
    }

    /// The exec is going to be made: from now on the container cannot end before it.
    ///
    /// # Errors
    /// It is gone, or the container takes none any more.
    pub fn exec_starting(&mut self, exec: &str) -> Result<()> {
        self.process(exec)?;
        self.open_for_execs()?;
        self.process_mut(exec)?.life = Life::Starting;
        Ok(())
    }

    /// Start of an exec has ended. `None`: it could not be executed; its waiters are released, and no exit is announced.
    pub fn exec_started(&mut self, exec: &str, born: Option<Born>) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(process) = self.execs.get_mut(exec) else { return events };
        let killed = process.abort.take().and_then(|abort| abort.signal());
        match born {
            Some(born) => {
                process.run(born.pid, born.pidfd, born.io);
                let (container_id, exec_id) = (self.id.clone(), exec.to_owned());
                let pid = process.pid.cast_unsigned();
                events.push(TaskExecStarted { container_id, exec_id, pid, ..Default::default() }.into());
            }
            None => {
                process.stop(killed.map_or_else(Exit::unknown, Exit::killed));
                events.extend(self.announce());
            }
        }
        events
    }

    /// An exec was collected.
    pub fn exec_exited(&mut self, exec: &str, exit: Exit) -> Vec<Event> {
        let Some(process) = self.execs.get_mut(exec) else { return Vec::new() };
        process.stop(exit);
        let mut events = vec![exit_event(&self.id, exec, process)];
        events.extend(self.announce());
        events
    }

    /// Init was collected: no exec may start any more. Says whether the container was frozen.
    pub fn init_exited(&mut self, exit: Exit) -> bool {
        self.collected.get_or_insert(exit);
        matches!(self.phase, Phase::Pausing | Phase::Paused)
    }

    /// What had to happen after init's end has happened.
    pub fn init_settled(&mut self) -> Vec<Event> {
        self.settled = true;
        self.announce().into_iter().collect()
    }

    /// Init has ended, announced or not.
    pub fn is_over(&self) -> bool {
        self.collected.is_some()
    }

    /// Pause begins.
    ///
    /// # Errors
    /// It is not running.
    pub fn pausing(&mut self) -> Result<()> {
        match self.phase {
            Phase::Running if self.collected.is_none() => {
                self.phase = Phase::Pausing;
                Ok(())
            }
            _ => Err(self.refuse("pause")),
        }
    }

    /// Pause has ended. A container whose init ended meanwhile stays what it became.
    pub fn paused(&mut self, frozen: bool) -> Option<Event> {
        if !matches!(self.phase, Phase::Pausing) {
            return None;
        }
        self.phase = if frozen { Phase::Paused } else { Phase::Running };
        frozen.then(|| TaskPaused { container_id: self.id.clone(), ..Default::default() }.into())
    }

    /// Resume may begin.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resuming(&self) -> Result<()> {
        if matches!(self.phase, Phase::Paused) { Ok(()) } else { Err(self.refuse("resume")) }
    }

    /// Resume has succeeded.
    pub fn resumed(&mut self) -> Option<Event> {
        if !matches!(self.phase, Phase::Paused) {
            return None;
        }
        self.phase = Phase::Running;
        Some(TaskResumed { container_id: self.id.clone(), ..Default::default() }.into())
    }

    /// Its limits may be changed.
    ///
    /// # Errors
    /// It is over, or not there yet.
    pub fn updatable(&self) -> Result<()> {
        match self.phase {
            Phase::Created { .. } | Phase::Running | Phase::Paused if self.collected.is_none() => Ok(()),
            _ => Err(self.refuse("update")),
        }
    }

    /// Delete may begin: the container is over, or it was never started.
    ///
    /// # Errors
    /// It runs, or another delete was quicker.
    pub fn deletable(&self) -> Result<()> {
        match self.phase {
            Phase::Created { .. } | Phase::Stopped => Ok(()),
            _ => Err(self.refuse("delete")),
        }
    }

    /// Nothing is left of it; gives the execs that nobody deleted.
    pub fn deleted(&mut self) -> Vec<Process> {
        self.phase = Phase::Deleted;
        mem::take(&mut self.execs).into_values().collect()
    }

    /// Takes an exec out of the record.
    ///
    /// # Errors
    /// No such exec, or it runs.
    pub fn take_exec(&mut self, exec: &str) -> Result<Process> {
        let process = self.process(exec)?;
        if process.is_live() || process.is_being_made() {
            return Err(precondition(format!("cannot delete a running process {exec:?}")));
        }
        let mut process = self.execs.remove(exec).ok_or_else(|| no_process(&self.id, exec))?;
        if process.exit().is_none() {
            process.stop(Exit { status: 0, ..Exit::unknown() });
        }
        Ok(process)
    }

    /// Ends an exec whose start has begun and which does not exist yet; gives a way to wait for its end, or for its start to
    /// have been quicker. `None`: it is in another state.
    pub fn abort(&self, exec: &str, signal: i32) -> Option<Waiter> {
        let process = self.execs.get(exec).filter(|process| process.is_being_made())?;
        process.abort.as_ref()?.send(signal);
        Some(process.waiter())
    }

    /// The pidfd of the process that a signal is for.
    ///
    /// # Errors
    /// It is over (not found), or not there yet.
    pub fn target(&self, exec: &str) -> Result<Arc<OwnedFd>> {
        let process = self.process(exec)?;
        match &process.life {
            Life::Running { .. } if exec.is_empty() && self.collected.is_some() => Err(finished()),
            Life::Running { pidfd } => Ok(pidfd.clone()),
            Life::Stopped => Err(finished()),
            Life::Added { .. } | Life::Opening | Life::Starting => Err(precondition("process not created")),
        }
    }

    fn open_for_execs(&self) -> Result<()> {
        match self.phase {
            Phase::Created { .. } | Phase::Starting | Phase::Running if self.collected.is_none() => Ok(()),
            _ => Err(self.refuse("exec in")),
        }
    }

    /// Announces init's end if nothing stands before it.
    fn announce(&mut self) -> Option<Event> {
        let exit = self.collected.filter(|_| self.settled)?;
        if matches!(self.phase, Phase::Starting | Phase::Stopped | Phase::Deleted)
            || self.execs.values().any(Process::is_live)
        {
            return None;
        }
        self.phase = Phase::Stopped;
        self.init.stop(exit);
        Some(exit_event(&self.id, &self.id, &self.init))
    }

    fn refuse(&self, what: &str) -> Error {
        let state = match self.phase {
            Phase::Creating | Phase::Deleted => return no_container(&self.id),
            _ if self.collected.is_some() => "stopped",
            Phase::Created { .. } => "created",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Pausing => "pausing",
            Phase::Paused => "paused",
            Phase::Stopped => "stopped",
        };
        precondition(format!("cannot {what} a {state} container"))
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
