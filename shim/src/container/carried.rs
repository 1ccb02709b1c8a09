//! A container in the handover document. Its locks are free then, so only its record and its OOM watch are written down.

use std::sync::{Arc, Mutex, PoisonError};

use berth_runtime::Result;
use tokio::sync::{RwLock, Semaphore};

use super::{Container, EXEC_SLOTS, state::State};
use crate::{
    carry::{self, Adopter, Keeper},
    context::ServerContext,
    oom::Oom,
};

impl Container {
    /// Writes the container down.
    ///
    /// # Errors
    /// A change is in flight; the message says which.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<carry::Container> {
        let Self {
            id,
            bundle,
            root,
            io_owner,
            context: _,
            op_lock,
            exec_slots: _,
            kills_in_flight,
            state,
            oom,
            restore,
        } = self;
        if op_lock.try_write().is_err() || kills_in_flight.try_write().is_err() {
            return Err(carry::busy(format!("container {id} is being changed")));
        }
        let _ = (state, oom);
        // The document has no images for Start to restore: the container is there for a moment.
        if restore.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(carry::busy(format!("container {id} waits for its Start, which restores it")));
        }
        Ok(carry::Container {
            id: id.clone(),
            bundle: bundle.clone(),
            root: root.clone(),
            io_owner: *io_owner,
            state: self.state().carry(keeper)?,
            oom: self.oom().as_ref().map(|oom| oom.carry(keeper)).transpose()?,
        })
    }

    /// Makes the container again, and watches its processes.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(
        container: carry::Container,
        adopter: &mut Adopter,
        context: &Arc<ServerContext>,
    ) -> Result<Arc<Self>> {
        let carry::Container { id, bundle, root, io_owner, state, oom } = container;
        let state = State::adopt(&id, state, adopter, &context.pool)?;
        let oom = match (oom, &state.handle) {
            (Some(oom), Some(handle)) => Oom::adopt(oom, adopter, &id, handle.cgroup(), &context.publisher)?,
            _ => None,
        };
        let (init, execs) = (state.init.pidfd().filter(|_| !state.has_exited()), state.running_execs());
        let init = init.map(|pidfd| (pidfd, state.init.pid));
        let container = Arc::new(Self {
            id,
            bundle,
            root,
            io_owner,
            context: context.clone(),
            op_lock: RwLock::default(),
            exec_slots: Semaphore::new(EXEC_SLOTS),
            kills_in_flight: RwLock::default(),
            state: Mutex::new(state),
            oom: Mutex::new(oom),
            restore: Mutex::default(),
        });
        let spawning = context.pool.children.begin_spawn();
        for (exec, pidfd, pid) in execs {
            context.pool.children.register(&spawning, pid);
            container.watch_exec(&exec, pidfd, pid);
        }
        if let Some((pidfd, pid)) = init {
            context.pool.children.register(&spawning, pid);
            container.watch_init(pidfd, pid);
        }
        Ok(container)
    }

    /// The pids of the container's children that are not reaped.
    pub fn children(&self) -> Vec<i32> {
        self.state().children().collect()
    }
}
