//! Start: of init (the barrier is released) and of an exec (the process is made). The verb returns when execve has
//! happened, so a program that cannot be executed is an error here and never an exit.

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
    sys,
    watch::watch,
};

/// How long an init that could not be started may take to be collected.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

impl Container {
    /// Starts init for the empty id, else an exec; gives its pid.
    ///
    /// # Errors
    /// No such process, it was started before, or it cannot be executed.
    pub async fn start(self: &Arc<Self>, exec: &str) -> Result<u32> {
        if exec.is_empty() { self.start_init().await } else { self.start_exec(exec).await }
    }

    async fn start_init(&self) -> Result<u32> {
        let _op = self.op_lock.write().await;
        let barrier = self.state().starting()?;
        let result = self.release(barrier).await;
        self.transition(|state| Ok(if result.is_ok() { state.started() } else { state.start_failed() }))?;
        if let Err(e) = result {
            // Init is on its way out, and a client deletes what it could not start: let it find that stopped.
            let waiter = self.waiter("")?;
            let _ = timeout(EXIT_TIMEOUT, waiter.exit()).await;
            return Err(start_failed(e));
        }
        self.pid("")
    }

    /// Releases init and waits on the loop for what becomes of it: nothing here can block. Then come poststart hooks.
    async fn release(&self, barrier: OwnedFd) -> Result<()> {
        let handle = self.handle()?;
        start::release(barrier.as_fd())?;
        let watch = watch(barrier.as_fd(), Interest::READABLE).context("watch init's channel")?;
        // Only what init says, or its end, makes it readable.
        let _ready = watch.readable().await.context("poll init's channel")?;
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
        match self.make_exec(exec, &spec, request, &abort).await {
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

    /// Makes the process, takes it into the record and announces it.
    async fn make_exec(
        self: &Arc<Self>,
        exec: &str,
        spec: &[u8],
        request: StdioRequest,
        abort: &Arc<Abort>,
    ) -> Result<(i32, Arc<OwnedFd>)> {
        let mut spec = berth_runtime::bundle::parse_process(spec)?;
        spec.set_terminal(Some(request.terminal));
        // Neither a client that does not come, nor execs that stand in each other's way, hold up a pause or a delete: the
        // turn is taken last.
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
                // It came too late to keep the process from being made.
                let _ = sys::signal(pidfd.as_fd(), signal);
            }
            Ok(events)
        })?;
        Ok((pid, pidfd))
    }

    /// Opens an exec's stdio. Once it has begun that goes on to its end, whoever waits: a logging program that was just
    /// started must find its owner.
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
