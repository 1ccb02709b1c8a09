//! Threads for the blocking operations of the runtime.
//!
//! There are two kinds of work. A *change* is refused when no thread is available. *Urgent* work (a signal, the end of
//! a container, Pids) is never refused: without a thread it runs on the event loop, where other calls wait for it, and
//! without a free descriptor it uses those of the [`fd_reserve`]. State, Wait and Stats use no pool.

mod workers;

use std::{sync::Arc, time::Duration};

use berth_runtime::{Context, Error, Result};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use self::workers::{Job, Workers};
use crate::{
    error::shutting_down,
    fd_reserve,
    reap::{Children, SpawnGuard},
    trim::IdleTrim,
};

/// The number of changes that run at once, over all containers of the shim. More at a time would make none of them
/// faster.
const MAX_CHANGES: usize = 16;
/// The time that a change waits for a slot. The others may hang (a dead network file system, a stuck hook), so the
/// change then runs without a slot.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximal number of threads. A container gets no more than a few of them (`container::start`).
const MAX_THREADS: usize = 256;

/// The pool, and the table of the children that its work makes.
#[derive(Debug)]
pub struct Pool {
    changes: Semaphore,
    workers: Workers,
    /// The shim's children.
    pub children: Arc<Children>,
    /// Learns of every change. Reads do not count: they use little memory, and containerd reads all metrics every
    /// second.
    pub idle_trim: IdleTrim,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            changes: Semaphore::new(MAX_CHANGES),
            workers: Workers::new(MAX_THREADS),
            children: Arc::default(),
            idle_trim: IdleTrim::default(),
        }
    }
}

impl Pool {
    /// Reports whether work runs on a thread.
    pub fn is_busy(&self) -> bool {
        self.workers.is_busy()
    }

    /// Runs a change on a thread. The guard shows that the work may make processes.
    ///
    /// # Errors
    /// The work's own; EAGAIN if no thread is available; or the shim is shutting down.
    pub async fn run<T: Send + 'static>(
        &self,
        _flight: &SpawnGuard,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = match timeout(QUEUE_TIMEOUT, self.changes.acquire()).await {
            Ok(permit) => Some(permit.map_err(|_| shutting_down())?),
            Err(_) => None,
        };
        self.idle_trim.poke();
        let (job, result) = job(work);
        self.workers.submit(job).map_err(|(_, e)| Error::from(e)).context("start a thread")?;
        result.await.map_err(|_| shutting_down())?
    }

    /// Runs urgent work at once, on a thread or else on the event loop.
    ///
    /// # Errors
    /// The work's own; or the shim is shutting down.
    pub async fn run_urgent<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (job, result) = job(|| fd_reserve::with_spare_fds(work));
        if let Err((job, e)) = self.workers.submit(job) {
            log::warn!("start a thread: {e}: urgent work runs on the event loop");
            job();
        }
        result.await.map_err(|_| shutting_down())?
    }
}

/// Makes a job of `work`, and the channel that its result arrives on.
fn job<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Job, oneshot::Receiver<T>) {
    let (result, receiver) = oneshot::channel();
    let job = move || {
        // The receiver may be gone.
        let _ = result.send(work());
    };
    (Box::new(job), receiver)
}
