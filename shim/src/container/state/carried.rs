//! The record of a container in the handover document.

use std::sync::Arc;

use berth_runtime::Result;

use super::{Phase, State};
use crate::{
    carry::{self, Adopter, Keeper},
    pool::Pool,
    process::Process,
    reap::Exit,
};

impl State {
    /// Writes the record down.
    ///
    /// # Errors
    /// A move is in flight: the container is being created, started, frozen or deleted, an exec is being started, or the
    /// work after the exit of init is not done.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<carry::State> {
        let Self { id, phase, init, execs, init_exit, cleaned_up, handle, mounted } = self;
        if init_exit.is_some() && !cleaned_up {
            return Err(carry::busy(format!("container {id}: the exit of init is being handled")));
        }
        let phase = match phase {
            Phase::Created { barrier } => carry::Phase::Created(keeper.keep_some(barrier.as_ref())?),
            Phase::Running => carry::Phase::Running,
            Phase::Paused => carry::Phase::Paused,
            Phase::Stopped => carry::Phase::Stopped,
            Phase::Creating | Phase::Starting | Phase::Pausing | Phase::Deleted => {
                return Err(carry::busy(format!("container {id} is {}", phase.name())));
            }
        };
        let mut carried = Vec::with_capacity(execs.len());
        for (exec, process) in execs {
            let process = process.carry(keeper).map_err(|e| e.context(format!("exec {exec} of container {id}")))?;
            carried.push((exec.clone(), process));
        }
        Ok(carry::State {
            phase,
            init: init.carry(keeper).map_err(|e| e.context(format!("container {id}")))?,
            execs: carried,
            init_exit: init_exit.map(Exit::carry),
            cleaned_up: *cleaned_up,
            record: handle.as_deref().cloned(),
            mounted: *mounted,
        })
    }

    /// Makes the record again.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(id: &str, state: carry::State, adopter: &mut Adopter, pool: &Pool) -> Result<Self> {
        let carry::State { phase, init, execs, init_exit, cleaned_up, record, mounted } = state;
        let mut adopted = Self {
            id: id.to_owned(),
            phase: match phase {
                carry::Phase::Created(barrier) => {
                    Phase::Created { barrier: barrier.map(|fd| adopter.take(fd)).transpose()? }
                }
                carry::Phase::Running => Phase::Running,
                carry::Phase::Paused => Phase::Paused,
                carry::Phase::Stopped => Phase::Stopped,
            },
            init: Process::adopt(init, adopter, pool)?,
            execs: std::collections::BTreeMap::new(),
            init_exit: init_exit.map(Exit::adopt),
            cleaned_up,
            handle: record.map(Arc::new),
            mounted,
        };
        for (exec, process) in execs {
            adopted.execs.insert(exec, Process::adopt(process, adopter, pool)?);
        }
        Ok(adopted)
    }

    /// The exec ids, pidfds and pids of the execs that run.
    pub fn running_execs(&self) -> Vec<(String, Arc<std::os::fd::OwnedFd>, i32)> {
        let running = |(id, process): (&String, &Process)| Some((id.clone(), process.pidfd()?, process.pid));
        self.execs.iter().filter_map(running).collect()
    }

    /// The pids of the container's children that are not reaped: of init, execs and logging programs.
    pub fn children(&self) -> impl Iterator<Item = i32> {
        let init = (self.init_exit.is_none() && self.init.pidfd().is_some()).then_some(self.init.pid);
        let execs = self.execs.values().filter(|process| process.pidfd().is_some()).map(|process| process.pid);
        let loggers = self.processes().filter_map(|(_, process)| process.io.as_ref()?.logger_pid());
        init.into_iter().chain(execs).chain(loggers)
    }
}
