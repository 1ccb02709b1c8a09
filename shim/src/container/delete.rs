//! Delete of an exec, and of a container.

use std::time::Duration;

use berth_proto::{events::TaskDelete, task::DeleteResponse};
use berth_runtime::{Error, Kind, Result};
use tokio::time::timeout;

use super::{Container, ignore_not_found, state::Phase};
use crate::{mount, process::Process, reap::Exit};

/// The time that Delete waits for output of an exited process when its children still hold the pipe. containerd handles
/// an exit event within ten seconds, one event at a time.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that a killed process has to be reaped.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A deleted container, and its execs, whose streams are still open.
#[derive(Debug)]
pub struct Deleted {
    response: DeleteResponse,
    execs: Vec<Process>,
}

impl Deleted {
    /// Closes the streams of the execs that no Delete call named; returns the answer to Delete.
    pub async fn close_execs(self) -> DeleteResponse {
        for process in &self.execs {
            close_stdio(process, Duration::ZERO).await;
        }
        self.response
    }
}

impl Container {
    /// Deletes an exec: its record and its streams. An exec that is being started is killed first.
    ///
    /// # Errors
    /// The exec does not exist or still runs.
    pub async fn delete_exec(&self, exec: &str) -> Result<DeleteResponse> {
        let ended = self.state().abort_exec(exec, libc::SIGKILL);
        if let Some(ended) = ended
            && timeout(KILL_TIMEOUT, ended.exit()).await.is_err()
        {
            return Err(Error::new(Kind::Internal, format!("exec {exec:?}, is being started and does not die")));
        }
        let process = self.state().take_exec(exec)?;
        close_stdio(&process, OUTPUT_TIMEOUT).await;
        Ok(response(&process))
    }

    /// Deletes the container: its processes, cgroup, mounts and record.
    ///
    /// # Errors
    /// The container runs or is deleted already. Or a part of it cannot be removed; the call can then be repeated.
    pub async fn delete(&self) -> Result<Deleted> {
        // A container in its Create may wait for a client for long. It is refused without waiting for the operation
        // lock.
        self.state().status()?;
        let _op = self.op_lock.write().await;
        self.state().deletable()?;
        // containerd 1.6 disconnects once Delete is answered, so the Kill that came before must get its answer first.
        drop(self.kills_in_flight.write().await);
        self.kill_unstarted().await?;
        let io = self.state().init.io.clone();
        if let Some(io) = &io
            && !io.drained(OUTPUT_TIMEOUT).await
        {
            log::warn!("container {}: output is cut off: a process still holds its pipe", self.id);
        }
        self.remove().await?;
        if let Some(io) = io {
            io.close().await;
        }
        self.oom().take();
        let (execs, response) = {
            let mut state = self.state();
            let execs = state.deleted();
            let response = response(&state.init);
            self.context.publisher.send(event(&self.id, &response));
            (execs, response)
        };
        Ok(Deleted { response, execs })
    }

    /// Kills an init that was never started, and waits until its exit is published.
    async fn kill_unstarted(&self) -> Result<()> {
        let waiter = {
            let state = self.state();
            match state.phase() {
                Phase::Created { .. } => state.init.waiter(),
                _ => return Ok(()),
            }
        };
        if self.end_unrestored()? {
            return Ok(());
        }
        let handle = self.handle()?;
        ignore_not_found(
            self.context.pool.run_urgent(move || berth_runtime::kill::kill(&handle, libc::SIGKILL)).await,
        )?;
        match timeout(KILL_TIMEOUT, waiter.exit()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Internal, format!("container {:?} does not die", self.id))),
        }
    }

    /// Removes the runtime's record and the cgroup, then the mounts. Each finished step is recorded, so that a repeated
    /// call goes on where this one failed.
    async fn remove(&self) -> Result<()> {
        self.context.pool.idle_trim.poke();
        let (handle, mounted) = {
            let state = self.state();
            (state.handle.clone(), state.mounted)
        };
        if let Some(handle) = handle {
            // Hooks are programs. Without a thread, hooks would run on the event loop and stop it, so this work may be
            // refused.
            let hooked = !handle.state().hooks.poststop.is_empty();
            let spawning = self.context.pool.children.begin_spawn();
            let delete = move || ignore_not_found(berth_runtime::delete::delete(&handle));
            if hooked {
                self.context.pool.run(&spawning, delete).await?;
            } else {
                self.context.pool.run_urgent(delete).await?;
            }
            drop(spawning);
            self.state().handle = None;
        }
        if mounted {
            let rootfs = self.rootfs();
            self.context.pool.run_urgent(move || mount::unmount_recursive(&rootfs)).await?;
            self.state().mounted = false;
        }
        Ok(())
    }
}

async fn close_stdio(process: &Process, drain: Duration) {
    if let Some(io) = &process.io {
        io.drained(drain).await;
        io.close().await;
    }
}

fn response(process: &Process) -> DeleteResponse {
    let exit = process.exit().unwrap_or_else(Exit::unknown);
    DeleteResponse {
        pid: process.pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: Some(exit.into()).into(),
        ..Default::default()
    }
}

fn event(id: &str, response: &DeleteResponse) -> TaskDelete {
    TaskDelete {
        container_id: id.to_owned(),
        pid: response.pid,
        exit_status: response.exit_status,
        exited_at: response.exited_at.clone(),
        ..Default::default()
    }
}
