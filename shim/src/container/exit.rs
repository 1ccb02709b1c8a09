//! What happens when a process of the container ends. One small task watches each process; what it does when its
//! process is gone can be repeated by whoever finds the record halfway.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, MutexGuard, PoisonError},
};

use berth_runtime::Result;

use super::{Container, ignore_not_found};
use crate::{
    oom::Oom,
    reap::{self, Exit},
    sys,
};

/// The exit status of a process that SIGKILL ended.
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

    /// Kills and collects a process that exists but whose stdio could not be set up. Nobody hears of it.
    pub(super) fn kill_and_reap(self: &Arc<Self>, pidfd: Arc<OwnedFd>, pid: i32) {
        let container = self.clone();
        tokio::spawn(async move {
            let _ = sys::signal(pidfd.as_fd(), libc::SIGKILL);
            reap::wait_exit(&pidfd).await;
            container.context.pool.children.unregister(pid);
        });
    }

    /// Between init's end and its announcement: what is left of the container is killed, OOM kills are told. This is
    /// not bounded by the pool's limit on changes: it must not wait for what waits for it.
    async fn after_init_exit(&self, exit: Exit) {
        let frozen = self.state().init_exited(exit);
        // The kernel kills a pid namespace with its init, so mostly there is nothing to do.
        if let Ok(handle) = self.handle()
            && (frozen || !handle.private_pid_namespace())
        {
            if !handle.private_pid_namespace() {
                self.kill_execs();
            }
            if let Err(e) = self.context.pool.run_urgent(move || kill_rest(&handle, frozen)).await {
                log::warn!("container {}: after the end of init: {e}", self.id);
            }
        }
        match &*self.oom() {
            Some(oom) if exit.status == KILLED => oom.report_at_end(),
            Some(oom) => oom.report(),
            None => {}
        }
        let _ = self.transition(|state| Ok(state.init_cleaned_up()));
    }

    /// Kills the execs by their pidfds: init's end is announced after theirs, and the cgroup does not have one that somebody
    /// has moved out of it.
    fn kill_execs(&self) {
        let pidfds: Vec<_> = self.state().exec_pidfds().collect();
        for pidfd in pidfds {
            match sys::signal(pidfd.as_fd(), libc::SIGKILL) {
                Err(e) if e.errno() != Some(libc::ESRCH) => log::warn!("container {}: kill an exec: {e}", self.id),
                _ => {}
            }
        }
    }

    /// Tells of OOM kills that nobody was told of yet: they come before the exit they caused.
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
        // On v1 a frozen process cannot even die.
        ignore_not_found(handle.cgroup().thaw()).unwrap_or_else(|e| log::warn!("thaw {}: {e}", handle.id()));
    }
    if !handle.private_pid_namespace() {
        // Nothing else ends the others.
        ignore_not_found(berth_runtime::kill::kill_all(handle, libc::SIGKILL))?;
    }
    Ok(())
}
