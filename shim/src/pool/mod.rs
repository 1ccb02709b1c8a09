//! Where the runtime's blocking verbs run: in threads that are made for them.
//!
//! Two kinds of work. What *changes* something can be refused for want of a thread. What is *urgent* (a signal, the end of
//! a container, a look at its processes) never is: without a thread it runs on the loop, where it holds up the other
//! calls for as long as it takes, and without descriptors it gets those of the [`reserve`]. State, Wait and Stats need
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
    memory::Rest,
    reap::{Children, Flight, cut_off},
    reserve,
};

/// How many changes run at once, over all containers of the shim: more at a time do not make any of them faster.
const CHANGES: usize = 16;
/// How long a change waits for the others, which may hang (a dead network filesystem, a stuck hook). Then it runs beside
/// them.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many threads there may be. A container gets no more than a few of them (`container::start`).
const THREADS: usize = 256;

/// The pool, and the ledger of the children that work on it makes.
#[derive(Debug)]
pub struct Pool {
    changes: Semaphore,
    workers: Workers,
    /// The shim's children.
    pub children: Arc<Children>,
    /// Told of every change. Reads use little, and containerd asks for the metrics of all containers every second.
    pub rest: Rest,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            changes: Semaphore::new(CHANGES),
            workers: Workers::new(THREADS),
            children: Arc::default(),
            rest: Rest::default(),
        }
    }
}

impl Pool {
    /// Runs work that changes something and may make processes, which is why it is done in a flight.
    ///
    /// # Errors
    /// Those of the work; EAGAIN when no thread is to be had; or the shim is ending.
    pub async fn change<T: Send + 'static>(
        &self,
        _flight: &Flight,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = match timeout(PATIENCE, self.changes.acquire()).await {
            Ok(permit) => Some(permit.map_err(|_| cut_off())?),
            Err(_) => None,
        };
        self.rest.disturb();
        let (job, result) = job(work);
        self.workers.submit(job).map_err(|(_, e)| Error::from(e)).context("start a thread")?;
        result.await.map_err(|_| cut_off())?
    }

    /// Runs work that must be done whatever is short, and that waits behind no change.
    ///
    /// # Errors
    /// Those of the work; or the shim is ending.
    pub async fn urgent<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (job, result) = job(|| reserve::around(work));
        if let Err((job, e)) = self.workers.submit(job) {
            log::warn!("start a thread: {e}: what is urgent is done without");
            job();
        }
        result.await.map_err(|_| cut_off())?
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
