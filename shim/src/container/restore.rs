//! Restore: Create takes the images, and Start makes the container of them, as containerd unpacks the root file system
//! between the two.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
};

use berth_proto::task::CreateTaskRequest;
use berth_runtime::{
    Error, Result,
    checkpoint::CommonOptions,
    create::Created,
    restore::{self, Options},
};

use super::{
    Container,
    create::{Job, event},
};
use crate::{
    error::{create_failed, start_failed},
    io,
    options::TaskOptions,
    reap::Exit,
};

/// CRIU's own directory in the bundle, without a path in the options; and its log, which a failure leaves there.
const WORK: &str = "criu-work";
const LOG: &str = "restore.log";
const KEPT_LOG: &str = "criu-restore.log";

/// The images and the job for Start.
#[derive(Debug)]
pub struct Restore {
    images: PathBuf,
    job: Job,
}

impl Container {
    /// Answers Create for a container that Start restores: nothing of it exists but its mounts.
    pub(super) async fn create_from_images(&self, request: CreateTaskRequest, options: TaskOptions) -> Result<u32> {
        self.check_has_own_namespaces()?;
        let _op = self.op_lock.write().await;
        let job = self.job(&request, options);
        let spawning = self.context.pool.children.begin_spawn();
        let prepare = move || job.prepare().map(|mounted| (job, mounted));
        let (job, mounted) = self.context.pool.run(&spawning, prepare).await.map_err(create_failed)?;
        let images = PathBuf::from(&request.checkpoint);
        *self.restore() = Some(Box::new(Restore { images, job }));
        self.transition(|state| {
            state.mounted = mounted;
            state.created_without_process();
            Ok(vec![event(request, 0).into()])
        })?;
        Ok(0)
    }

    /// Answers Start of a container that Create took images for. The operation lock is held.
    pub(super) async fn start_from_images(self: &Arc<Self>, restore: Restore) -> Result<u32> {
        self.state().restoring()?;
        match self.make_from_images(restore).await {
            Ok(pid) => Ok(pid.cast_unsigned()),
            Err(e) => {
                self.transition(|state| Ok(state.start_failed()))?;
                Err(start_failed(e))
            }
        }
    }

    async fn make_from_images(self: &Arc<Self>, restore: Restore) -> Result<i32> {
        let request = self.state().init.request.clone();
        let mut prepared = io::prepare(&request, &self.stdio_owner(""), &self.context.pool).await?;
        let Restore { images, mut job } = restore;
        job.stdio = prepared.take_child();
        let spawning = self.context.pool.children.begin_spawn();
        let created = self.context.pool.run(&spawning, move || make(job, &images)).await?;
        self.context.pool.children.register(&spawning, created.container.pid());
        drop(spawning);
        let (new, handle, _) = match self.attach(created, prepared) {
            Ok(attached) => attached,
            Err(e) => {
                self.undo(false).await;
                return Err(e);
            }
        };
        let (pid, pidfd) = (new.pid, new.pidfd.clone());
        self.transition(|state| {
            state.handle = Some(handle);
            Ok(state.restored(new))
        })?;
        self.watch_init(pidfd, pid);
        Ok(pid)
    }

    /// Ends a container that was never restored. Returns false if it is another one.
    pub(super) fn end_unrestored(&self) -> Result<bool> {
        if self.restore().take().is_none() && self.state().handle.is_some() {
            return Ok(false);
        }
        self.state().init_exited(Exit::killed(libc::SIGKILL));
        self.transition(|state| Ok(state.init_cleaned_up()))?;
        Ok(true)
    }

    /// The images that Start restores.
    pub(super) fn restore(&self) -> MutexGuard<'_, Option<Box<Restore>>> {
        self.restore.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Restores the container, with CRIU's log in the directory that the options name. A dump has decided about open
/// connections, sockets and locks, so that the restore allows them.
fn make(job: Job, images: &Path) -> Result<Created> {
    let (bundle, own) = (job.bundle.clone(), job.bundle.join(WORK));
    let work = job.options.criu_work_path.clone().unwrap_or_else(|| own.clone());
    let common = CommonOptions {
        work: Some(&work),
        tcp_established: true,
        ext_unix_sockets: true,
        file_locks: true,
        ..CommonOptions::default()
    };
    let options = Options { images, common, lsm_profile: None, lsm_mount_context: None };
    let made = job.make(|checked| restore::restore(checked, &options));
    let log = bundle.join(KEPT_LOG);
    let kept = made.is_err() && work == own && std::fs::rename(own.join(LOG), &log).is_ok();
    if work == own {
        let _ = std::fs::remove_dir_all(&own);
    }
    made.map_err(|e| if kept { Error::context(e, format!("restore failed, path= {}", log.display())) } else { e })
}
