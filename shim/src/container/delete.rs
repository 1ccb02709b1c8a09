//! Delete: of an exec (it is forgotten) and of a container (nothing of it is left).

use std::{sync::Arc, time::Duration};

use berth_proto::{events::TaskDelete, task::DeleteResponse};
use berth_runtime::{Error, Kind, Result};
use tokio::time::timeout;

use super::{Container, missing_is_fine, state::Phase};
use crate::{mount, process::Process, reap::Exit};

/// How long output may still come from a process that is gone, when one of its children holds the pipe. containerd
/// gives an event ten seconds in all, and does nothing else meanwhile.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a killed process may take to be collected.
const DIE: Duration = Duration::from_secs(10);

impl Container {
    /// Deletes the container for the empty id, else an exec.
    ///
    /// # Errors
    /// It runs; it is deleted already; something of it cannot be removed, and then the call can be repeated.
    pub async fn delete(self: &Arc<Self>, exec: &str) -> Result<DeleteResponse> {
        if exec.is_empty() { self.delete_container().await } else { self.delete_exec(exec).await }
    }

    async fn delete_exec(&self, exec: &str) -> Result<DeleteResponse> {
        let ended = self.state().abort(exec, libc::SIGKILL);
        if let Some(ended) = ended
            && timeout(DIE, ended.exit()).await.is_err()
        {
            return Err(Error::new(Kind::Internal, format!("exec {exec:?}, which is being started, does not die")));
        }
        let process = self.state().take_exec(exec)?;
        release(&process, DRAIN).await;
        Ok(response(&process))
    }

    async fn delete_container(self: &Arc<Self>) -> Result<DeleteResponse> {
        // What is still being created may wait for a client for long: the answer is known without waiting.
        self.state().status()?;
        let _turn = self.turn.write().await;
        self.state().deletable()?;
        // containerd 1.6 hangs up as soon as this is answered; the kill that led here must have its answer before.
        drop(self.kills.write().await);
        self.end_created().await?;
        let io = self.state().init.io.clone();
        if let Some(io) = &io
            && !io.drained(DRAIN).await
        {
            log::warn!("container {}: output is cut off, a process still holds it", self.id);
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
            self.sandbox.context.publisher.send(event(&self.id, &response));
            (execs, response)
        };
        self.sandbox.release(self);
        for process in execs {
            release(&process, Duration::ZERO).await;
        }
        Ok(response)
    }

    /// Kills an init that was never started, and waits for the end to be announced.
    async fn end_created(&self) -> Result<()> {
        let waiter = {
            let state = self.state();
            match state.phase() {
                Phase::Created { .. } => state.init.waiter(),
                _ => return Ok(()),
            }
        };
        let handle = self.handle()?;
        missing_is_fine(self.sandbox.pool.urgent(move || berth_runtime::kill::kill(&handle, libc::SIGKILL)).await)?;
        match timeout(DIE, waiter.exit()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Internal, format!("container {:?} does not die", self.id))),
        }
    }

    /// Removes the container's record and cgroup, then the mounts. Each step that is done is noted, so that a repeated
    /// call goes on where this one failed.
    async fn remove(&self) -> Result<()> {
        self.sandbox.pool.rest.disturb();
        let (handle, mounted) = {
            let state = self.state();
            (state.handle.clone(), state.mounted)
        };
        if let Some(handle) = handle {
            // Hooks are programs: without a thread for them a loop would stand still, and they could not be run.
            let hooked = !handle.state().hooks.poststop.is_empty();
            let flight = self.sandbox.pool.children.flight();
            let delete = move || missing_is_fine(berth_runtime::delete::delete((*handle).clone(), false));
            if hooked {
                self.sandbox.pool.change(&flight, delete).await?;
            } else {
                self.sandbox.pool.urgent(delete).await?;
            }
            drop(flight);
            self.state().handle = None;
        }
        if mounted {
            let rootfs = self.rootfs();
            self.sandbox.pool.urgent(move || mount::unmount_recursive(&rootfs)).await?;
            self.state().mounted = false;
        }
        Ok(())
    }
}

async fn release(process: &Process, drain: Duration) {
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
