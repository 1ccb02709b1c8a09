//! Acts on the exit of a process. One small task watches each process.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, MutexGuard, PoisonError},
};

use berth_runtime::Result;

use super::{Container, ignore_not_found};
use crate::{
    oom::Oom,
    reap::{self, Exit},
};

/// The exit status of a process that SIGKILL killed.
const KILLED: u32 = 128 + libc::SIGKILL.unsigned_abs();

impl Container {
    /// Watches init.
    pub(super) fn watch_init(self: &Arc<Self>, pidfd: Arc<OwnedFd>, pid: i32) {
        let container = self.clone();
        tokio::spawn(async move {
            let exit = reap::wait_exit(&pidfd).await;
            container.context.pool.children.unregister(pid);
            container.after_init_exit(exit).await;
        });
    }

    /// Watches an exec.
    pub(super) fn watch_exec(self: &Arc<Self>, exec: &str, pidfd: Arc<OwnedFd>, pid: i32) {
        let (container, exec) = (self.clone(), exec.to_owned());
        tokio::spawn(async move {
            let exit = reap::wait_exit(&pidfd).await;
            container.context.pool.children.unregister(pid);
            container.report_oom();
            let _ = container.transition(|state| Ok(state.exec_exited(&exec, exit)));
        });
    }

    /// Kills and reaps a process whose stdio could not be attached. No event is published for it.
    pub(super) fn kill_and_reap(self: &Arc<Self>, pidfd: Arc<OwnedFd>, pid: i32) {
        let container = self.clone();
        tokio::spawn(async move {
            let _ = berth_runtime::send_signal(pidfd.as_fd(), libc::SIGKILL);
            reap::wait_exit(&pidfd).await;
            container.context.pool.children.unregister(pid);
        });
    }

    /// Runs between the exit of init and its event: kills the rest of the container and publishes OOM kills. It takes
    /// no slot of the pool, since a change that holds a slot may wait for this exit.
    async fn after_init_exit(&self, exit: Exit) {
        let frozen = self.state().init_exited(exit);
        // The kernel kills a pid namespace with its init (pid_namespaces(7)), so mostly nothing is left to kill.
        if let Ok(handle) = self.handle()
            && (frozen || !handle.private_pid_namespace())
        {
            if !handle.private_pid_namespace() {
                self.kill_execs();
            }
            if let Err(e) = self.context.pool.run_urgent(move || kill_rest(&handle, frozen)).await {
                log::warn!("container {}: kill the rest after the exit of init: {e}", self.id);
            }
        }
        match &*self.oom() {
            Some(oom) if exit.status == KILLED => oom.report_at_end(),
            Some(oom) => oom.report(),
            None => {}
        }
        let _ = self.transition(|state| Ok(state.init_cleaned_up()));
    }

    /// Kills the execs through their pidfds. The exit of init is published after theirs, and an exec that was moved out
    /// of the cgroup is not killed with the cgroup.
    fn kill_execs(&self) {
        let pidfds: Vec<_> = self.state().exec_pidfds().collect();
        for pidfd in pidfds {
            match berth_runtime::send_signal(pidfd.as_fd(), libc::SIGKILL) {
                Err(e) if e.errno() != Some(libc::ESRCH) => log::warn!("container {}: kill an exec: {e}", self.id),
                _ => {}
            }
        }
    }

    /// Publishes OOM kills that are not published yet: they come before the exit that they caused.
    fn report_oom(&self) {
        if let Some(oom) = &*self.oom() {
            oom.report();
        }
    }

    pub(super) fn oom(&self) -> MutexGuard<'_, Option<Oom>> {
        self.oom.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill_rest(handle: &berth_runtime::state::Container, frozen: bool) -> Result<()> {
    if frozen {
        // On cgroup v1 a frozen process cannot even die.
        ignore_not_found(handle.cgroup().thaw()).unwrap_or_else(|e| log::warn!("thaw {}: {e}", handle.id()));
    }
    if !handle.private_pid_namespace() {
        // Without a pid namespace nothing else ends the other processes.
        ignore_not_found(berth_runtime::kill::kill_all(handle, libc::SIGKILL))?;
    }
    Ok(())
}
