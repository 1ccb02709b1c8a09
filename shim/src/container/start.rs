//! Start of init, which releases the barrier, and of an exec, which makes the process. Both return when the process has
//! called execve(2). So a program that cannot be executed is an error of Start, and no exit is published for it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use berth_runtime::{
    Context, Result, Stdio,
    exec::{Execed, Options},
    start,
};
use oci_spec::runtime::Process as Spec;
use tokio::{io::Interest, time::timeout};

use super::{Container, state::NewProcess};
use crate::{
    abort::Abort,
    console,
    error::{exec_failed, shutting_down, start_failed},
    io::{self, Prepared, uri::StdioRequest},
    process::ExecSpec,
    watch::watch,
};

/// The time that init has to be reaped after a failed start.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

impl Container {
    /// Starts init if `exec` is empty, else the exec; returns its pid.
    ///
    /// # Errors
    /// The process does not exist, was started before, or cannot be executed.
    pub async fn start(self: &Arc<Self>, exec: &str) -> Result<u32> {
        if exec.is_empty() { self.start_init().await } else { self.start_exec(exec).await }
    }

    async fn start_init(self: &Arc<Self>) -> Result<u32> {
        let _op = self.op_lock.write().await;
        let restore = self.restore().take();
        if let Some(restore) = restore {
            return self.start_from_images(*restore).await;
        }
        let barrier = self.state().starting()?;
        let result = self.release(barrier).await;
        self.transition(|state| Ok(if result.is_ok() { state.started() } else { state.start_failed() }))?;
        if let Err(e) = result {
            // Init is about to exit. The client deletes a container that it could not start, so the exit comes before
            // the answer.
            let waiter = self.waiter("")?;
            let _ = timeout(EXIT_TIMEOUT, waiter.exit()).await;
            return Err(start_failed(e));
        }
        self.pid("")
    }

    /// Releases init and waits on the event loop for the result of its execve(2); no step here blocks. Then runs the
    /// poststart hooks.
    async fn release(&self, barrier: OwnedFd) -> Result<()> {
        let handle = self.handle()?;
        start::release(barrier.as_fd())?;
        let watch = watch(barrier.as_fd(), Interest::READABLE).context("watch init's channel")?;
        // The channel becomes readable by init's message or by its end alone.
        let readable = watch.readable();
        let ready = match start::timeout(&handle) {
            Some(limit) => timeout(limit, readable).await,
            None => Ok(readable.await),
        };
        if let Ok(ready) = ready {
            let _ready = ready.context("poll init's channel")?;
        } else {
            return self.context.pool.run_urgent(move || Err(start::too_slow(&handle))).await;
        }
        if start::has_agent(&handle) {
            let (handle, channel) = (handle.clone(), barrier.try_clone().context("dup init's channel")?);
            let spawning = self.context.pool.children.begin_spawn();
            self.context.pool.run(&spawning, move || start::outcome(&handle, channel.as_fd())).await?;
        } else {
            start::outcome(&handle, barrier.as_fd())?;
        }
        if !start::has_poststart(&handle) {
            return Ok(());
        }
        let spawning = self.context.pool.children.begin_spawn();
        self.context.pool.run(&spawning, move || start::poststart(&handle)).await
    }

    async fn start_exec(self: &Arc<Self>, exec: &str) -> Result<u32> {
        let abort = Arc::new(Abort::new().map_err(exec_failed)?);
        let (spec, request) = self.state().exec_opening(exec, abort.clone())?;
        match self.make_exec(exec, spec, request, &abort).await {
            Ok((pid, watched)) => {
                self.watch_exec(exec, watched, pid);
                Ok(pid.cast_unsigned())
            }
            Err(e) => {
                self.transition(|state| Ok(state.exec_start_failed(exec)))?;
                Err(exec_failed(if abort.signal().is_some() { abort.error() } else { e }))
            }
        }
    }

    /// Makes the process, records it and publishes the event.
    async fn make_exec(
        self: &Arc<Self>,
        exec: &str,
        spec: ExecSpec,
        request: StdioRequest,
        abort: &Arc<Abort>,
    ) -> Result<(i32, Arc<OwnedFd>)> {
        let mut spec = spec.process;
        spec.set_terminal(Some(request.terminal));
        // The operation lock is taken last. So a client that does not open its fifos, and execs that wait for a slot,
        // do not delay a Pause or a Delete.
        let ready = async {
            let prepared = self.open(exec, request).await?;
            let slot = self.exec_slots.acquire().await.map_err(|_| shutting_down())?;
            Ok::<_, berth_runtime::Error>((prepared, slot, self.op_lock.read().await))
        };
        let (mut prepared, _slot, _op) = tokio::select! {
            biased;
            () = abort.sent() => return Err(abort.error()),
            ready = ready => ready?,
        };
        self.state().exec_starting(exec)?;
        if let Some(size) = self.state().process(exec)?.initial_size {
            spec.set_console_size(console::spec(size));
        }
        let (stdio, handle, aborted) = (prepared.take_child(), self.handle()?, abort.clone());
        let spawning = self.context.pool.children.begin_spawn();
        let run = move || execute(&handle, &spec, stdio, &aborted);
        let Execed { pid, pidfd, console } = self.context.pool.run(&spawning, run).await?;
        self.context.pool.children.register(&spawning, pid);
        drop(spawning);
        let pidfd = Arc::new(pidfd);
        let io = match prepared.attach(console) {
            Ok(io) => io,
            Err(e) => {
                self.kill_and_reap(pidfd, pid);
                return Err(e);
            }
        };
        let new = NewProcess { pid, pidfd: pidfd.clone(), io };
        self.transition(|state| {
            let events = state.exec_started(exec, new);
            if let Some(signal) = abort.signal() {
                // The signal came after the process was made.
                let _ = berth_runtime::send_signal(pidfd.as_fd(), signal);
            }
            Ok(events)
        })?;
        Ok((pid, pidfd))
    }

    /// Opens the stdio of an exec. It runs as a task, so an aborted start does not cancel it: a logging program that
    /// was just started must get its owner.
    async fn open(self: &Arc<Self>, exec: &str, request: StdioRequest) -> Result<Prepared> {
        let (container, owner) = (self.clone(), self.stdio_owner(exec));
        let opening = async move { io::prepare(&request, &owner, &container.context.pool).await };
        tokio::spawn(opening).await.map_err(|_| shutting_down())?
    }
}

fn execute(handle: &berth_runtime::state::Container, spec: &Spec, stdio: Stdio, abort: &Abort) -> Result<Execed> {
    berth_runtime::exec::exec(
        handle,
        Options {
            process: spec,
            stdio,
            pid_file: None,
            preserve_fds: 0,
            ignore_paused: false,
            abort: Some(abort.fd()),
            cgroup: None,
        },
    )
}
