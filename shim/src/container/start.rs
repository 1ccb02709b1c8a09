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

use super::{Container, state::Born};
use crate::{
    abort::Abort,
    console,
    error::{exec_failed, start_failed},
    io::{self, Prepared, uri::Request},
    reap, sys,
    watch::watch,
};

/// How long an init that could not be started may take to be collected.
const DIE: Duration = Duration::from_secs(2);

impl Container {
    /// Starts init for the empty id, else an exec; gives its pid.
    ///
    /// # Errors
    /// No such process, it was started before, or it cannot be executed.
    pub async fn start(self: &Arc<Self>, exec: &str) -> Result<u32> {
        if exec.is_empty() { self.start_init().await } else { self.start_exec(exec).await }
    }

    async fn start_init(&self) -> Result<u32> {
        let _turn = self.turn.write().await;
        let barrier = self.state().starting()?;
        let result = self.release(barrier).await;
        self.change(|state| Ok(state.started(result.is_ok())))?;
        if let Err(e) = result {
            // Init is on its way out, and a client deletes what it could not start: let it find that stopped.
            let waiter = self.waiter("")?;
            let _ = timeout(DIE, waiter.exit()).await;
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
            let flight = self.sandbox.pool.children.flight();
            self.sandbox.pool.change(&flight, move || start::outcome(&handle, channel.as_fd())).await?;
        } else {
            start::outcome(&handle, barrier.as_fd())?;
        }
        if !start::has_poststart(&handle) {
            return Ok(());
        }
        let flight = self.sandbox.pool.children.flight();
        self.sandbox.pool.change(&flight, move || start::poststart(&handle)).await
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
                self.change(|state| Ok(state.exec_started(exec, None)))?;
                Err(exec_failed(if abort.signal().is_some() { abort.error() } else { e }))
            }
        }
    }

    /// Makes the process, takes it into the record and announces it.
    async fn make_exec(
        self: &Arc<Self>,
        exec: &str,
        spec: &[u8],
        request: Request,
        abort: &Arc<Abort>,
    ) -> Result<(i32, Arc<OwnedFd>)> {
        let mut spec = berth_runtime::bundle::parse_process(spec)?;
        spec.set_terminal(Some(request.terminal));
        // Neither a client that does not come, nor execs that stand in each other's way, hold up a pause or a delete: the
        // turn is taken last.
        let ready = async {
            let prepared = self.open(exec, request).await?;
            let place = self.places.acquire().await.map_err(|_| reap::cut_off())?;
            Ok::<_, berth_runtime::Error>((prepared, place, self.turn.read().await))
        };
        let (mut prepared, _place, _turn) = tokio::select! {
            biased;
            () = abort.sent() => return Err(abort.error()),
            ready = ready => ready?,
        };
        self.state().exec_starting(exec)?;
        if let Some(size) = self.state().process(exec)?.size {
            spec.set_console_size(console::spec(size));
        }
        let (stdio, handle, aborted) = (prepared.take_child(), self.handle()?, abort.clone());
        let flight = self.sandbox.pool.children.flight();
        let run = move || execute(&handle, &spec, stdio, &aborted);
        let Execed { pid, pidfd, console } = self.sandbox.pool.change(&flight, run).await?;
        self.sandbox.pool.children.adopt(&flight, pid);
        drop(flight);
        let pidfd = Arc::new(pidfd);
        let io = match prepared.begin(console) {
            Ok(io) => io,
            Err(e) => {
                self.watch_undone(pidfd, pid);
                return Err(e);
            }
        };
        let born = Born { pid, pidfd: pidfd.clone(), io };
        self.change(|state| {
            let events = state.exec_started(exec, Some(born));
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
    async fn open(self: &Arc<Self>, exec: &str, request: Request) -> Result<Prepared> {
        let (container, identity) = (self.clone(), self.identity(exec));
        let opening = async move { io::prepare(&request, &identity, &container.sandbox.pool).await };
        tokio::spawn(opening).await.map_err(|_| reap::cut_off())?
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
