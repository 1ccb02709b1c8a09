//! The execs of a container: their part of the record and their moves.

use std::{mem, os::fd::OwnedFd, sync::Arc};

use berth_proto::events::{TaskExecAdded, TaskExecStarted};
use berth_runtime::{Error, Kind, Result};

use super::{NewProcess, Phase, State, exit_event};
use crate::{
    abort::Abort,
    error::{no_process, precondition},
    io::uri::StdioRequest,
    process::{ExecSpec, Process, ProcessPhase, Waiter},
    publish::Event,
    reap::Exit,
};

/// The maximal number of execs of a container that are not deleted.
pub(super) const MAX_EXECS: usize = 4096;
/// The maximal size in bytes of the process specifications of a container. Each is kept from Exec to Start.
pub(super) const MAX_SPEC_BYTES: usize = 32 << 20;

impl State {
    /// Exec reserves an id; returns the event.
    ///
    /// # Errors
    /// The id is taken; the container is neither created nor running; or it has too many execs (EAGAIN).
    pub fn add_exec(&mut self, exec: &str, request: StdioRequest, spec: ExecSpec) -> Result<Event> {
        self.check_takes_execs()?;
        if self.execs.contains_key(exec) {
            return Err(Error::new(Kind::AlreadyExists, format!("id {exec:?} already exists")));
        }
        let too_many = |what: String| Error::from_errno(libc::EAGAIN).context(format!("exec {exec:?}: {what}"));
        if self.execs.len() >= MAX_EXECS {
            return Err(too_many(format!("container {:?} has {MAX_EXECS} execs that are not deleted", self.id)));
        }
        let kept = self.execs.values().map(|process| process.spec_bytes()).sum::<usize>();
        if kept + spec.bytes() > MAX_SPEC_BYTES {
            return Err(too_many(format!(
                "container {:?} has execs with {kept} bytes of specifications to start",
                self.id
            )));
        }
        self.execs.insert(exec.to_owned(), Process::new(request, Some(spec)));
        let added = TaskExecAdded { container_id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        Ok(added.into())
    }

    /// Start of an exec begins: its stdio is opened. From now on `abort` can end the start. Returns the specification
    /// and the stdio that Exec gave.
    ///
    /// # Errors
    /// The exec does not exist or was started before, or the container takes no execs.
    pub fn exec_opening(&mut self, exec: &str, abort: Arc<Abort>) -> Result<(ExecSpec, StdioRequest)> {
        self.process(exec)?;
        self.check_takes_execs()?;
        let process = self.process_mut(exec)?;
        match mem::replace(&mut process.phase, ProcessPhase::Opening) {
            ProcessPhase::Added { spec: Some(spec) } => {
                process.abort = Some(abort);
                Ok((spec, process.request.clone()))
            }
            other => {
                process.phase = other;
                Err(precondition(format!("process {exec:?} was started before")))
            }
        }
    }

    /// The process of an exec is about to be made. From now on the container cannot stop before the exec.
    ///
    /// # Errors
    /// The exec was deleted, or the container takes no more execs.
    pub fn exec_starting(&mut self, exec: &str) -> Result<()> {
        self.process(exec)?;
        self.check_takes_execs()?;
        self.process_mut(exec)?.phase = ProcessPhase::Starting;
        Ok(())
    }

    /// Start of an exec has succeeded.
    pub fn exec_started(&mut self, exec: &str, new: NewProcess) -> Vec<Event> {
        let Some(process) = self.execs.get_mut(exec) else { return Vec::new() };
        process.abort = None;
        process.set_running(new.pid, new.pidfd, new.io);
        let (container_id, exec_id) = (self.id.clone(), exec.to_owned());
        let pid = process.pid.cast_unsigned();
        vec![TaskExecStarted { container_id, exec_id, pid, ..Default::default() }.into()]
    }

    /// Start of an exec has failed. Its waiters are released, and no exit event is published for it.
    pub fn exec_start_failed(&mut self, exec: &str) -> Vec<Event> {
        let Some(process) = self.execs.get_mut(exec) else { return Vec::new() };
        let signal = process.abort.take().and_then(|abort| abort.signal());
        process.set_stopped(signal.map_or_else(Exit::unknown, Exit::killed));
        self.announce_exit().into_iter().collect()
    }

    /// An exec was reaped.
    pub fn exec_exited(&mut self, exec: &str, exit: Exit) -> Vec<Event> {
        let Some(process) = self.execs.get_mut(exec) else { return Vec::new() };
        process.set_stopped(exit);
        let mut events = vec![exit_event(&self.id, exec, process)];
        events.extend(self.announce_exit());
        events
    }

    /// Removes an exec from the record.
    ///
    /// # Errors
    /// The exec does not exist, or it runs.
    pub fn take_exec(&mut self, exec: &str) -> Result<Process> {
        let process = self.process(exec)?;
        if process.holds_container() || process.is_starting() {
            return Err(precondition(format!("cannot delete a running process {exec:?}")));
        }
        let mut process = self.execs.remove(exec).ok_or_else(|| no_process(&self.id, exec))?;
        if process.exit().is_none() {
            process.set_stopped(Exit { status: 0, ..Exit::unknown() });
        }
        Ok(process)
    }

    /// Aborts an exec that is being started. The waiter that it returns reports the end of the start or, if the start
    /// was quicker, the exit of the process. Returns `None` in any other phase.
    pub fn abort_exec(&self, exec: &str, signal: i32) -> Option<Waiter> {
        let process = self.execs.get(exec).filter(|process| process.is_starting())?;
        process.abort.as_ref()?.send(signal);
        Some(process.waiter())
    }

    /// The exec ids and pids of the execs that run.
    pub fn exec_pids(&self) -> impl Iterator<Item = (&str, i32)> {
        self.execs
            .iter()
            .filter(|(_, p)| matches!(p.phase, ProcessPhase::Running { .. }))
            .map(|(id, p)| (id.as_str(), p.pid))
    }

    /// The pidfds of the execs that run.
    pub fn exec_pidfds(&self) -> impl Iterator<Item = Arc<OwnedFd>> {
        self.execs.values().filter_map(Process::pidfd)
    }

    fn check_takes_execs(&self) -> Result<()> {
        match self.phase {
            // A container that Start restores from a checkpoint has no process before.
            Phase::Created { .. } | Phase::Starting | Phase::Running
                if self.init_exit.is_none() && self.init.pid != 0 =>
            {
                Ok(())
            }
            _ => Err(self.wrong_phase("exec in")),
        }
    }
}
