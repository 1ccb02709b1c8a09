//! The pod: all containers of one group. containerd calls the group a sandbox when it is a Kubernetes pod.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_proto::task::{CreateTaskRequest, DeleteResponse};
use berth_runtime::{Error, Kind, Result};
use tokio::{sync::Notify, time::timeout};

use crate::{
    carry::{self, Adopter, Keeper},
    container::{Container, NewContainer},
    context::ServerContext,
    error::no_container,
};

/// The time that the server runs on without a container: before its first one, and after its last one.
const IDLE_LIMIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// A pod.
#[derive(Debug)]
pub struct Sandbox {
    /// Shared with all containers.
    pub context: Arc<ServerContext>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Notified at every create and release.
    changed: Notify,
}

impl Sandbox {
    /// Makes a pod without containers.
    pub fn new(context: ServerContext) -> Self {
        Self { context: Arc::new(context), containers: Mutex::default(), changed: Notify::new() }
    }

    /// Writes all containers down.
    ///
    /// # Errors
    /// A change is in flight; the message says which.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<Vec<carry::Container>> {
        // Both are taken apart, so that a new field with state does not compile before it is in the document too, or makes
        // the upgrade fail with an error.
        let Self { context, containers: _, changed: _ } = self;
        let ServerContext { namespace: _, id: _, publisher: _, shutdown: _, pool, pod: _, exe: _ } = &**context;
        self.check_can_be_carried()?;
        let containers = self.containers();
        let owned: BTreeSet<_> = containers.values().flat_map(|container| container.children()).collect();
        if pool.children.owned() != Some(owned) {
            return Err(carry::busy("a process is being made or ended"));
        }
        containers.values().map(|container| container.carry(keeper)).collect()
    }

    /// Checks for state that no document has.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] while the shim holds a pod.
    pub fn check_can_be_carried(&self) -> Result<()> {
        match self.context.pod.get() {
            None => Ok(()),
            Some(_) => Err(Error::unsupported("a pod whose namespaces the shim holds cannot be handed over")),
        }
    }

    /// Makes the containers again.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(&self, containers: Vec<carry::Container>, adopter: &mut Adopter) -> Result<()> {
        for container in containers {
            self.reserve(Container::adopt(container, adopter, &self.context)?)?;
        }
        Ok(())
    }

    /// The number of containers.
    pub fn count(&self) -> usize {
        self.containers().len()
    }

    /// Answers Create: reserves the id, creates the container and returns init's pid.
    ///
    /// # Errors
    /// The request is invalid, the id is taken, or the runtime failed. Nothing of the container is left then.
    pub async fn create(&self, request: CreateTaskRequest) -> Result<u32> {
        let new = NewContainer::parse(&self.context, request)?;
        let container = new.container().clone();
        self.reserve(container.clone())?;
        let created = new.create().await;
        if created.is_err() {
            self.release(&container);
        }
        created
    }

    /// Answers Delete: deletes the container if `exec` is empty, else the exec.
    ///
    /// # Errors
    /// As [`Container::delete`] and [`Container::delete_exec`].
    pub async fn delete(&self, container: &Arc<Container>, exec: &str) -> Result<DeleteResponse> {
        if !exec.is_empty() {
            return container.delete_exec(exec).await;
        }
        let deleted = container.delete().await?;
        self.release(container);
        Ok(deleted.close_execs().await)
    }

    /// Returns a container, which may still be in its Create.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers().get(id).cloned().ok_or_else(|| no_container(id))
    }

    /// Reserves the container's id: of two Creates with one id, one fails.
    fn reserve(&self, container: Arc<Container>) -> Result<()> {
        match self.containers().entry(container.id().to_owned()) {
            Entry::Occupied(taken) => {
                Err(Error::new(Kind::AlreadyExists, format!("container {:?} already exists", taken.key())))
            }
            Entry::Vacant(free) => {
                free.insert(container);
                self.changed.notify_one();
                Ok(())
            }
        }
    }

    /// Frees the id, unless a newer container has it.
    fn release(&self, container: &Arc<Container>) {
        if let Entry::Occupied(entry) = self.containers().entry(container.id().to_owned())
            && Arc::ptr_eq(entry.get(), container)
        {
            if let Some(pod) = self.context.pod.get() {
                pod.dismiss(container.id());
            }
            entry.remove();
            self.changed.notify_one();
        }
    }

    /// Returns when the pod has had no container for so long that no call is expected. A containerd that is killed
    /// between the last Delete and its Shutdown does not send Shutdown again after its restart.
    pub async fn wait_idle_shutdown(&self) {
        let (mut patience, later) = IDLE_LIMIT;
        loop {
            if !self.is_empty() {
                self.changed.notified().await;
            } else if timeout(patience, self.changed.notified()).await.is_err() && self.is_empty() {
                return;
            }
            patience = later;
        }
    }

    /// Reports whether no container exists or is being created, and the server holds no pod.
    pub fn is_empty(&self) -> bool {
        self.containers().is_empty() && self.context.pod.get().is_none()
    }

    /// The pid of the init of the first container that has one.
    pub fn first_pid(&self) -> Option<u32> {
        self.containers().values().find_map(|container| container.pid("").ok().filter(|pid| *pid != 0))
    }

    /// Describes all containers for the log, some lines each.
    pub fn dump(&self) -> String {
        let containers: Vec<_> = self.containers().values().cloned().collect();
        let mut text = format!(
            "pod {} in {}: {} containers, {} events to deliver\n",
            self.context.id,
            self.context.namespace,
            containers.len(),
            self.context.publisher.pending()
        );
        for container in containers {
            let _ = write!(text, "{}", container.dump());
        }
        text
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
