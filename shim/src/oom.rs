//! Publishes an event when the kernel has killed a process of a container for want of memory.
//!
//! Each container has one watch. It is read when the kernel signals a change and again before an exit is published, so
//! that the OOM event comes before the exit. The runtime counts the kills; each is published once.

use std::{
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_proto::events::TaskOOM;
use berth_runtime::{Result, cgroup::Cgroup, events::OomWatch};
use tokio::{io::Interest, task::AbortHandle};

use crate::{
    carry::{self, Adopter, Keeper},
    publish::Publisher,
    watch,
};

/// The OOM watch of one container. Dropping it ends the watch.
#[derive(Debug)]
pub struct Oom {
    source: Arc<OomSource>,
    task: AbortHandle,
}

#[derive(Debug)]
struct OomSource {
    id: String,
    watch: Mutex<OomWatch>,
    publisher: Publisher,
}

impl Oom {
    /// Watches the container `id`. Returns `None`, with a line in the log, if the descriptor cannot be watched.
    pub fn watch(id: &str, watch: OomWatch, publisher: &Publisher) -> Option<Self> {
        let polled = watch.as_fd().try_clone_to_owned().and_then(|fd| watch::watch(fd, Interest::READABLE));
        let polled = polled.map_err(|e| log::warn!("container {id}: OOM events: {e}")).ok()?;
        let source = Arc::new(OomSource { id: id.to_owned(), watch: Mutex::new(watch), publisher: publisher.clone() });
        let task = tokio::spawn({
            let source = source.clone();
            async move {
                while let Ok(mut guard) = polled.readable().await {
                    source.report();
                    guard.clear_ready();
                }
            }
        });
        Some(Self { source, task: task.abort_handle() })
    }

    /// Writes the watch down.
    ///
    /// # Errors
    /// A descriptor cannot be examined.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<carry::Oom> {
        let watch = self.source.watch();
        let ([fd, counter], count) = watch.parts();
        Ok(carry::Oom { fds: [keeper.keep(fd)?, keeper.keep(counter)?], count })
    }

    /// Goes on with the watch of the container `id`. A kill that came meanwhile is read at once.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(
        oom: carry::Oom,
        adopter: &mut Adopter,
        id: &str,
        cgroup: &Cgroup,
        publisher: &Publisher,
    ) -> Result<Option<Self>> {
        let carry::Oom { fds: [fd, counter], count } = oom;
        let watch = OomWatch::from_parts([adopter.take(fd)?, adopter.take(counter)?], &count, cgroup);
        let adopted = Self::watch(id, watch, publisher);
        adopted.iter().for_each(Self::report);
        Ok(adopted)
    }

    /// Publishes the kills that are not published yet. Never blocks.
    pub fn report(&self) {
        self.source.report();
    }

    /// As [`report`](Self::report), after the exit of an init that SIGKILL killed: the count may have gone with the
    /// cgroup.
    pub fn report_at_end(&self) {
        self.source.report();
        if self.source.watch().lost() > 0 {
            self.source.publish();
        }
    }
}

impl Drop for Oom {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OomSource {
    fn report(&self) {
        match self.watch().drain() {
            Ok(0) => {}
            Ok(_) => self.publish(),
            Err(e) => log::warn!("container {}: OOM events: {e}", self.id),
        }
    }

    fn publish(&self) {
        self.publisher.send(TaskOOM { container_id: self.id.clone(), ..Default::default() });
    }

    fn watch(&self) -> MutexGuard<'_, OomWatch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
