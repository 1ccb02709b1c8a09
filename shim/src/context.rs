//! What the server gives the service to work with.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Notify;

use crate::{pool::Pool, publish::Publisher};

/// The server as the service sees it.
#[derive(Debug)]
pub struct ServerContext {
    /// containerd's namespace.
    pub namespace: String,
    /// The group that this server runs: a pod's sandbox id, or a lone container's.
    pub id: String,
    /// Where events go.
    pub publisher: Publisher,
    /// Ends the server.
    pub shutdown: ShutdownHandle,
    /// Threads for blocking work.
    pub pool: Pool,
    /// Our own executable.
    pub exe: PathBuf,
}

/// Ends the server; any number may be held, and any may ask, once or more.
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle(Arc<Notify>);

impl ShutdownHandle {
    /// Asks the server to exit: it removes its socket, delivers what events it can, and goes. Returns at once, so the
    /// call that asks is still answered.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Returns when somebody has asked, now or before.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}
