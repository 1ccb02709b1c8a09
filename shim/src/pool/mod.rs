//! Where the runtime's blocking verbs run: in threads that are made for them.
//!
//! Two kinds of work. What *changes* something can be refused for want of a thread. What is *urgent* (a signal, the end of
//! a container, a look at its processes) never is: without a thread it runs on the loop, where it holds up the other
//! calls for as long as it takes, and without descriptors it gets those of the [`fd_reserve`]. State, Wait and Stats need
//! neither.

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

/// How many changes run at once, over all containers of the shim: more at a time do not make any of them faster.
const MAX_CHANGES: usize = 16;
/// How long a change waits for the others, which may hang (a dead network filesystem, a stuck hook). Then it runs beside
/// them.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many threads there may be. A container gets no more than a few of them (`container::start`).
const MAX_THREADS: usize = 256;

/// The pool, and the ledger of the children that work on it makes.
#[derive(Debug)]
pub struct Pool {
    changes: Semaphore,
    workers: Workers,
    /// The shim's children.
    pub children: Arc<Children>,
    /// Told of every change. Reads use little, and containerd asks for the metrics of all containers every second.
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
    /// Runs work that changes something and may make processes, which is why it is done in a spawning.
    ///
    /// # Errors
    /// Those of the work; EAGAIN when no thread is to be had; or the shim is ending.
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

    /// Runs work that must be done whatever is short, and that waits behind no change.
    ///
    /// # Errors
    /// Those of the work; or the shim is ending.
    pub async fn run_urgent<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (job, result) = job(|| fd_reserve::with_spare_fds(work));
        if let Err((job, e)) = self.workers.submit(job) {
            log::warn!("start a thread: {e}: what is urgent is done without");
            job();
        }
        result.await.map_err(|_| shutting_down())?
    }
}

/// Work, and where its result will be.
fn job<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Job, oneshot::Receiver<T>) {
    let (result, receiver) = oneshot::channel();
    let job = move || {
        // Whoever asked may have gone.
        let _ = result.send(work());
    };
    (Box::new(job), receiver)
}
