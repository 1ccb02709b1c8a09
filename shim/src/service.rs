//! The task service.

use berth_proto::task::{ConnectRequest, ConnectResponse, ShutdownRequest, Task};
use berth_proto::{async_trait, ttrpc, ttrpc::asynchronous::TtrpcContext, wkt::Empty};

use crate::context::ServerContext;

/// The task service of one group.
#[derive(Clone)]
pub struct Service {
    context: ServerContext,
}

impl Service {
    /// A service without containers.
    pub fn new(context: ServerContext) -> Self {
        Self { context }
    }

    /// The state of every container, a line each.
    pub fn dump(&self) -> String {
        String::new()
    }

    /// Reaps children that nobody knows.
    pub fn sweep(&self) {}
}

#[async_trait]
impl Task for Service {
    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse { shim_pid: std::process::id(), ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.context.shutdown.request();
        Ok(Empty::default())
    }
}
