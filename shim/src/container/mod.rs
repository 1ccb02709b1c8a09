//! One container: its state, and the calls that read or change it.
//!
//! There are two locks. `state` is held for moments and never over a wait. Calls that read (State, Connect, Wait, Pids,
//! Stats) and signals take `state` alone, so they never wait for a change. `op_lock` orders the changes: Create, Start
//! of init, Pause, Resume, Update and Delete take it for writing, one at a time; starts of execs take it for reading,
//! so they run beside each other but not beside those.
//!
//! `create`, `start` and `delete` are the RPCs of the same names, `exit` acts on the exit of a process, `state` decides
//! which moves are allowed.

mod carried;
mod checkpoint;
mod create;
mod delete;
mod exit;
mod restore;
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

pub use self::{create::NewContainer, delete::Deleted};
use self::{restore::Restore, state::State};
use crate::{
    console,
    context::ServerContext,
    error::{finished, is_shortage, no_container, precondition},
    fd_reserve,
    io::uri::StdioRequest,
    oom::Oom,
    process::{ExecSpec, ProcessPhase, Waiter},
    publish::Event,
    stats,
};

/// The largest signal number (signal(7)).
const LAST_SIGNAL: u32 = 64;

/// The signals that abort an exec which is being started. Other signals are meant for its program, which does not run
/// yet.
const ABORTING_SIGNALS: [i32; 2] = [libc::SIGKILL, libc::SIGTERM];
/// The number of execs of one container that are started at a time. A process of the container can delay each start (a
/// FUSE mount, a stopped process), and must not take all threads of the pool.
const EXEC_SLOTS: usize = 8;

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    /// The directory of the runtime's state: `<root>/<namespace>`.
    root: PathBuf,
    /// The uid and gid that own its stdio pipes.
    io_owner: (u32, u32),
    context: Arc<ServerContext>,
    op_lock: RwLock<()>,
    /// Limits the execs that are being started.
    exec_slots: Semaphore,
    /// Each Kill of init holds it for reading until it has an answer.
    kills_in_flight: RwLock<()>,
    state: Mutex<State>,
    oom: Mutex<Option<Oom>>,
    /// The images that Start restores; boxed, because few containers have them.
    restore: Mutex<Option<Box<Restore>>>,
}

impl Container {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Answers State.
    ///
    /// # Errors
    /// The process does not exist.
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

    /// The pid of a process, 0 while it does not exist.
    ///
    /// # Errors
    /// The process is not in the record.
    pub fn pid(&self, exec: &str) -> Result<u32> {
        Ok(self.state().process(exec)?.pid.cast_unsigned())
    }

    /// Returns a handle that waits for the exit of a process.
    ///
    /// # Errors
    /// The process does not exist.
    pub fn waiter(&self, exec: &str) -> Result<Waiter> {
        Ok(self.state().process(exec)?.waiter())
    }

    /// Answers Pids: all processes in the container's cgroup. Those of execs carry their exec id.
    ///
    /// # Errors
    /// The container is gone.
    pub async fn pids(&self) -> Result<PidsResponse> {
        let mut pids = match self.handle() {
            // Start restores it from a checkpoint: the shim stands for its process.
            Err(_) if self.restore().is_some() => vec![std::process::id().cast_signed()],
            handle => {
                let handle = handle?;
                match self.context.pool.run_urgent(move || berth_runtime::ps::ps(&handle)).await {
                    Err(e) if e.kind() == Kind::NotFound && self.state().has_exited() => Vec::new(),
                    pids => pids?,
                }
            }
        };
        let (execs, init): (BTreeMap<_, _>, i32) = {
            let state = self.state();
            (state.exec_pids().map(|(id, pid)| (pid, id.to_owned())).collect(), state.init.pid)
        };
        if pids.is_empty() {
            // A containerd that restarts takes a shim with an empty list for a leaked one (containerd
            // core/runtime/v2/shim_load.go): it deletes the container, and its exit status is lost.
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

    /// Answers Stats with the current numbers. The cgroup exists until Delete and keeps the usage of an init that has
    /// exited.
    ///
    /// The files are read on the event loop, not on the pool. Reads of cgroup files do not block, and their number and
    /// size do not grow with the processes. containerd asks for the metrics of all containers every second, so reads on
    /// the pool would keep a thread in every shim for ever.
    ///
    /// # Errors
    /// The container or its cgroup is gone.
    pub fn metrics(&self) -> Result<Any> {
        let handle = self.handle()?;
        fd_reserve::with_spare_fds(|| stats::metrics(&handle))
    }

    /// Answers Exec: reserves the id and keeps the process specification for Start.
    ///
    /// # Errors
    /// The id or the specification is invalid, the id is taken, or the container takes no execs.
    pub fn add_exec(&self, exec: &str, request: StdioRequest, spec: Option<&Any>) -> Result<()> {
        berth_runtime::state::check_id(exec).map_err(|e| e.context(format!("exec id {exec:?}")))?;
        let json = spec.map(|any| any.value.as_slice()).unwrap_or_default();
        let spec = ExecSpec::parse(json).map_err(|e| e.context("exec spec"))?;
        self.transition(|state| Ok(vec![state.add_exec(exec, request, spec)?]))
    }

    /// Answers Kill. It needs no new thread and no new descriptor, since a container that has used up both must still
    /// be killable.
    ///
    /// # Errors
    /// The signal number is invalid; the process has exited (not found) or does not exist yet.
    pub async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let number = i32::try_from(signal).ok().filter(|_| signal <= LAST_SIGNAL);
        let number =
            number.ok_or_else(|| Error::invalid(format!("signal {signal} is out of range 0..={LAST_SIGNAL}")))?;
        let target = {
            let state = self.state();
            // The lock makes this atomic: the signal aborts the start, or finds the process that the start has made
            // meanwhile.
            if ABORTING_SIGNALS.contains(&number) && state.abort_exec(exec, number).is_some() {
                return Ok(());
            }
            state.signal_target(exec)?
        };
        if !exec.is_empty() {
            return send_signal(&target, number);
        }
        let handle = self.handle()?;
        // Kill does not take the operation lock, so that it can end a Create or an exec that hangs.
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
            // The kernel kills all processes of a pid namespace when its init dies (pid_namespaces(7)), so one signal
            // is enough.
            Err(e) if is_shortage(&e) && number == libc::SIGKILL && private => send_signal(&target, number),
            other => other,
        }
    }

    /// Answers ResizePty. A process that does not exist yet gets the size when it starts.
    ///
    /// # Errors
    /// A dimension is above 65,535, or the process has exited.
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

    /// Answers CloseIO for stdin. The process sees the end of its input once the client has closed its end as well.
    ///
    /// # Errors
    /// The process does not exist.
    pub fn close_stdin(&self, exec: &str) -> Result<()> {
        let mut state = self.state();
        let process = state.process_mut(exec)?;
        match &process.io {
            Some(io) => io.close_stdin(),
            None => process.stdin_closed = true,
        }
        Ok(())
    }

    /// Answers Pause.
    ///
    /// # Errors
    /// The container is not running, or the freezer failed; the container runs on then.
    pub async fn pause(&self) -> Result<()> {
        let _op = self.op_lock.write().await;
        self.state().pausing()?;
        let frozen = self.run_operation(berth_runtime::pause::pause).await;
        self.transition(|state| match &frozen {
            Ok(()) => Ok(state.paused().into_iter().collect()),
            Err(_) => {
                state.pause_failed();
                Ok(Vec::new())
            }
        })?;
        frozen
    }

    /// Answers Resume.
    ///
    /// # Errors
    /// The container is not paused, or the freezer failed.
    pub async fn resume(&self) -> Result<()> {
        let _op = self.op_lock.write().await;
        self.state().resuming()?;
        self.run_operation(berth_runtime::pause::resume).await?;
        self.transition(|state| Ok(state.resumed().into_iter().collect()))
    }

    /// Answers Update. `resources` holds `linux.resources` as JSON.
    ///
    /// # Errors
    /// The JSON is invalid, the container has exited, or the kernel refuses a limit.
    pub async fn update(&self, resources: Option<&Any>) -> Result<()> {
        let json = resources.map(|any| any.value.as_slice()).unwrap_or_default();
        let resources = berth_runtime::bundle::parse_resources(json).map_err(|e| e.context("resources"))?;
        let _op = self.op_lock.write().await;
        self.state().updatable()?;
        self.run_operation(move |handle| {
            berth_runtime::update::update(handle, &resources, berth_runtime::rdt::Update::default())
        })
        .await
    }

    /// Describes the container in a few lines for the log.
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

    /// Makes a move of the state and queues its events under the same lock, so that events are in the order of the
    /// moves.
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

    /// Runs an operation of the runtime on the pool.
    async fn run_operation<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&berth_runtime::state::Container) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let handle = self.handle()?;
        let spawning = self.context.pool.children.begin_spawn();
        self.context.pool.run(&spawning, move || verb(&handle)).await
    }
}

/// Sends a signal through a pidfd.
fn send_signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    berth_runtime::send_signal(pidfd.as_fd(), signal).map_err(|e| match e.errno() {
        Some(libc::ESRCH) => finished(),
        _ => e,
    })
}

/// Takes "not found" for success, in teardown.
fn ignore_not_found(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}
