//! Where the runtime's blocking verbs run: tokio's blocking pool, with a bound on those that change something.
//!
//! A change can hang (a dead network filesystem, a stuck hook). Bounding the changes leaves threads for the reads, so
//! Pids answers whatever else hangs; State and Stats need no thread.

use std::sync::Arc;

use berth_runtime::Result;
use tokio::sync::Semaphore;

use crate::memory::Rest;
use crate::reap::{Children, Flight, cut_off};

/// How many changes may run at once, over all containers of the shim.
const CHANGES: usize = 16;

/// The pool, and the ledger of the children that work on it makes.
#[derive(Debug)]
pub struct Pool {
    changes: Semaphore,
    /// The shim's children.
    pub children: Arc<Children>,
    /// Told of every change. Reads use little, and containerd asks for the metrics of all containers every second.
    pub rest: Rest,
}

impl Default for Pool {
    fn default() -> Self {
        Self { changes: Semaphore::new(CHANGES), children: Arc::default(), rest: Rest::default() }
    }
}

impl Pool {
    /// Runs work that changes something and may make processes, which is why it is done in a flight.
    ///
    /// # Errors
    /// Those of the work; or the shim is ending.
    pub async fn change<T: Send + 'static>(
        &self,
        _flight: &Flight,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = self.changes.acquire().await.map_err(|_| cut_off())?;
        self.rest.disturb();
        tokio::task::spawn_blocking(work).await.map_err(|_| cut_off())?
    }

    /// Runs work that only reads, or that must never wait behind a change: a signal.
    ///
    /// # Errors
    /// Those of the work; or the shim is ending.
    pub async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(|_| cut_off())?
    }
}
