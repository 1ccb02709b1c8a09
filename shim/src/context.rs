//! The parts of the server that the service and the containers share.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Notify;

use crate::{pod::PodSlot, pool::Pool, publish::Publisher};

/// The parts of the server that containers use.
#[derive(Debug)]
pub struct ServerContext {
    /// containerd's namespace.
    pub namespace: String,
    /// The id of the group that this server runs: the id of a pod's sandbox or of a single container.
    pub id: String,
    /// Publishes events.
    pub publisher: Publisher,
    /// Stops the server.
    pub shutdown: ShutdownHandle,
    /// Runs blocking work.
    pub pool: Arc<Pool>,
    /// The pod that this server holds for containerd's sandbox service.
    pub pod: PodSlot,
    /// The path of the shim's own executable.
    pub exe: PathBuf,
}

/// Stops the server. Clones are the same handle, and a repeated request changes nothing.
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle(Arc<Notify>);

impl ShutdownHandle {
    /// Asks the server to exit. It removes its socket, delivers its events and exits. Returns at once, so that the
    /// Shutdown call still gets its answer.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Returns after a request, also if the request came first.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}
