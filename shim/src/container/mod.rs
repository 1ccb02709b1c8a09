//! One container: its record, and the calls that change it or ask about it.
//!
//! Two locks. `state` is held for moments only, never over a wait: whoever reads (State, Connect, Wait, Pids, Stats)
//! or signals takes it alone and never waits for a change. `turn` gives the order of changes: create, start of init,
//! pause, resume, update and delete one at a time; starts of execs beside each other, but not beside those.
//!
//! Create is `create`, what happens at an end is `exit`, Delete is `delete`; which moves are allowed is `state`.

mod create;
mod delete;
mod exit;
mod start;
pub mod state;

use std::{
    collections::BTreeMap,
    fmt::Write,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_proto::{
    any, runc,
    task::{PidsResponse, ProcessInfo, StateResponse},
    wkt::Any,
};
use berth_runtime::{Error, Kind, Result};
use tokio::sync::{RwLock, Semaphore};

use self::state::State;
pub use self::{create::NewContainer, delete::Deleted};
use crate::{
    console,
    context::ServerContext,
    error::{finished, is_shortage, no_container, precondition},
    fd_reserve,
    io::uri::StdioRequest,
    oom::Oom,
    process::{ProcessPhase, Waiter},
    publish::Event,
    stats, sys,
};

/// The largest signal number.
const LAST_SIGNAL: u32 = 64;

/// The signals that end an exec which is being made. The others are for a program, and there is none yet.
const ABORTING_SIGNALS: [i32; 2] = [libc::SIGKILL, libc::SIGTERM];
/// How many execs of one container are made at a time. Its own processes can hold each of them up, and may not have the
/// pool to themselves.
const EXEC_SLOTS: usize = 8;

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    /// Where the runtime keeps its record: `<root>/<namespace>`.
    root: PathBuf,
    /// Owner of its stdio.
    io_owner: (u32, u32),
    context: Arc<ServerContext>,
    op_lock: RwLock<()>,
    /// For execs that are being made.
    exec_slots: Semaphore,
    /// Held for reading by each kill of init that is not answered yet.
    kills_in_flight: RwLock<()>,
    state: Mutex<State>,
    oom: Mutex<Option<Oom>>,
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// State.
    ///
    /// # Errors
    /// No such process.
    pub fn describe(&self, exec: &str) -> Result<StateResponse> {
        let state = self.state();
        let status = state.process_status(exec)?;
        let process = state.process(exec)?;
        let exit = process.exit();
        Ok(StateResponse {
            id: if exec.is_empty() { self.id.clone() } else { exec.to_owned() },
            exec_id: exec.to_owned(),
            bundle: self.bundle.display().to_string(),
            pid: process.pid.cast_unsigned(),
            status: status.into(),
            stdin: process.request.stdin.clone(),
            stdout: process.request.stdout.clone(),
            stderr: process.request.stderr.clone(),
            terminal: process.request.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(Into::into).into(),
            ..Default::default()
        })
    }

    /// The pid of a process, 0 before it exists.
    ///
    /// # Errors
    /// No such process.
    pub fn pid(&self, exec: &str) -> Result<u32> {
        Ok(self.state().process(exec)?.pid.cast_unsigned())
    }

    /// A way to wait for the end of a process.
    ///
    /// # Errors
    /// No such process.
    pub fn waiter(&self, exec: &str) -> Result<Waiter> {
        Ok(self.state().process(exec)?.waiter())
    }

    /// Pids: everything in the container's cgroup, and which of it is an exec.
    ///
    /// # Errors
    /// The container is gone.
    pub async fn pids(&self) -> Result<PidsResponse> {
        let handle = self.handle()?;
        let mut pids = match self.context.pool.run_urgent(move || berth_runtime::ps::ps(&handle)).await {
            Err(e) if e.kind() == Kind::NotFound && self.state().has_exited() => Vec::new(),
            pids => pids?,
        };
        let (execs, init): (BTreeMap<_, _>, i32) = {
            let state = self.state();
            (state.exec_pids().map(|(id, pid)| (pid, id.to_owned())).collect(), state.init.pid)
        };
        if pids.is_empty() {
            // A containerd that comes back takes an empty list for a shim that was left behind, deletes the container
            // and loses how it ended.
            pids.push(init);
        }
        let mut response = PidsResponse::default();
        for pid in pids {
            let mut info = ProcessInfo { pid: pid.cast_unsigned(), ..Default::default() };
            if let Some(exec_id) = execs.get(&pid) {
                let details = runc::ProcessDetails { exec_id: exec_id.clone(), ..Default::default() };
                info.info = any::pack(&details).ok().into();
            }
            response.processes.push(info);
        }
        Ok(response)
    }

    /// Stats: now. The cgroup stays until Delete, and in it what an init that has ended has used.
    ///
    /// Read on the loop: the files of a cgroup never block, they are as many and as long however many processes it has, and
    /// containerd asks for every container's each second, which would keep a thread of the pool in every shim for ever.
    ///
    /// # Errors
    /// The container or its cgroup is gone.
    pub fn metrics(&self) -> Result<Any> {
        let handle = self.handle()?;
        fd_reserve::with_spare_fds(|| stats::metrics(&handle))
    }

    /// Exec: reserves the id and keeps what to run.
    ///
    /// # Errors
    /// A malformed id or process, an id that is taken, a container that takes no execs.
    pub fn add_exec(&self, exec: &str, request: StdioRequest, spec: Option<&Any>) -> Result<()> {
        berth_runtime::state::check_id(exec).map_err(|e| e.context(format!("exec id {exec:?}")))?;
        let json = spec.map(|any| any.value.clone()).unwrap_or_default();
        berth_runtime::bundle::parse_process(&json).map_err(|e| e.context("exec spec"))?;
        self.transition(|state| Ok(vec![state.add_exec(exec, request, json)?]))
    }

    /// Kill. It needs no thread and no descriptor that is not there already: what ends a container must be possible when
    /// that container has taken all there is.
    ///
    /// # Errors
    /// No such signal; the process is over (not found) or not there yet.
    pub async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let number = i32::try_from(signal).ok().filter(|_| signal <= LAST_SIGNAL);
        let number =
            number.ok_or_else(|| Error::invalid(format!("signal {signal} is out of range 0..={LAST_SIGNAL}")))?;
        let target = {
            let state = self.state();
            // Under the lock: it ends what is being made, or finds what has been made meanwhile.
            if ABORTING_SIGNALS.contains(&number) && state.abort_exec(exec, number).is_some() {
                return Ok(());
            }
            state.signal_target(exec)?
        };
        if !exec.is_empty() {
            return send_signal(&target, number);
        }
        let handle = self.handle()?;
        // Beside any change: a stuck create or exec is ended by this.
        let _kill = self.kills_in_flight.read().await;
        if !all && number != libc::SIGKILL {
            return send_signal(&target, number);
        }
        let private = handle.private_pid_namespace();
        let killed = self.context.pool.run_urgent(move || {
            if all {
                berth_runtime::kill::kill_all(&handle, number)
            } else {
                berth_runtime::kill::kill(&handle, number)
            }
        });
        match killed.await {
            // The end of a pid namespace's init ends all that is in it.
            Err(e) if is_shortage(&e) && number == libc::SIGKILL && private => send_signal(&target, number),
            other => other,
        }
    }

    /// ResizePty. A process that does not exist yet begins with the size.
    ///
    /// # Errors
    /// A size that no terminal can have; the process is over.
    pub fn resize(&self, exec: &str, width: u32, height: u32) -> Result<()> {
        let size = console::size(width, height)?;
        let console = {
            let mut state = self.state();
            let process = state.process_mut(exec)?;
            if matches!(process.phase, ProcessPhase::Stopped) {
                return Err(precondition("cannot resize a stopped process"));
            }
            match &process.io {
                Some(io) => io.console(),
                None => {
                    process.initial_size = Some(size);
                    None
                }
            }
        };
        console.map_or(Ok(()), |console| console::resize(&console, size))
    }

    /// CloseIO for stdin: it ends when the client has closed its end, too.
    ///
    /// # Errors
    /// No such process.
    pub fn close_stdin(&self, exec: &str) -> Result<()> {
        let mut state = self.state();
        let process = state.process_mut(exec)?;
        match &process.io {
            Some(io) => io.close_stdin(),
            None => process.stdin_closed = true,
        }
        Ok(())
    }

    /// Pause.
    ///
    /// # Errors
    /// It is not running, or the freezer fails; then it runs on.
    pub async fn pause(&self) -> Result<()> {
        let _op = self.op_lock.write().await;
        self.state().pausing()?;
        let frozen = self.run_verb(berth_runtime::pause::pause).await;
        self.transition(|state| match &frozen {
            Ok(()) => Ok(state.paused().into_iter().collect()),
            Err(_) => {
                state.pause_failed();
                Ok(Vec::new())
            }
        })?;
        frozen
    }

    /// Resume.
    ///
    /// # Errors
    /// It is not paused, or the freezer fails.
    pub async fn resume(&self) -> Result<()> {
        let _op = self.op_lock.write().await;
        self.state().resuming()?;
        self.run_verb(berth_runtime::pause::resume).await?;
        self.transition(|state| Ok(state.resumed().into_iter().collect()))
    }

    /// Update: `resources` is the JSON of `linux.resources`.
    ///
    /// # Errors
    /// Malformed resources, a container that is over, a limit the kernel refuses.
    pub async fn update(&self, resources: Option<&Any>) -> Result<()> {
        let json = resources.map(|any| any.value.as_slice()).unwrap_or_default();
        let resources = berth_runtime::bundle::parse_resources(json).map_err(|e| e.context("resources"))?;
        let _op = self.op_lock.write().await;
        self.state().updatable()?;
        self.run_verb(move |handle| {
            berth_runtime::update::update(handle, &resources, berth_runtime::rdt::Update::default())
        })
        .await
    }

    /// A few lines for the log.
    pub fn dump(&self) -> String {
        let state = self.state();
        let mut text = format!("  container {}: {}, op lock {}\n", self.id, state.phase().name(), self.op_lock_state());
        for (id, process) in state.processes() {
            let id = if id.is_empty() { "init" } else { id };
            let _ = writeln!(text, "    {id}: pid {}, {:?}, exit {:?}", process.pid, process.status(), process.exit());
        }
        text
    }

    fn op_lock_state(&self) -> &'static str {
        if self.op_lock.try_write().is_ok() { "free" } else { "taken" }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a move and queues its events before anyone can make the next one.
    fn transition(&self, step: impl FnOnce(&mut State) -> Result<Vec<Event>>) -> Result<()> {
        let mut state = self.state();
        for event in step(&mut state)? {
            self.context.publisher.send(event);
        }
        self.context.pool.idle_trim.poke();
        Ok(())
    }

    fn handle(&self) -> Result<Arc<berth_runtime::state::Container>> {
        self.state().handle.clone().ok_or_else(|| no_container(&self.id))
    }

    /// Runs a verb that changes something on the pool.
    async fn run_verb<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&berth_runtime::state::Container) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let handle = self.handle()?;
        let spawning = self.context.pool.children.begin_spawn();
        self.context.pool.run(&spawning, move || verb(&handle)).await
    }
}

/// A signal to a process that is held by its pidfd.
fn send_signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    sys::signal(pidfd.as_fd(), signal).map_err(|e| match e.errno() {
        Some(libc::ESRCH) => finished(),
        _ => e,
    })
}

/// What is gone is gone, however the kernel puts it.
fn ignore_not_found(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}
