//! The task service, one short function a call: decode, ask the container, encode.
//!
//! A call that changes something runs as a task of its own (`detach`): a client's timeout or disconnect never cancels a
//! change. Calls that only ask are answered where they arrive.

use std::{convert::Infallible, sync::Arc};

use berth_proto::{
    async_trait, failure,
    task::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
        DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
        ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
        StatsRequest, StatsResponse, Task, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    ttrpc::{self, asynchronous::TtrpcContext},
    wkt::Empty,
};

use crate::{container, context::ServerContext, detach, error::status, io::uri::StdioRequest, sandbox::Sandbox};

/// The service, for both of its names. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Service {
    sandbox: Arc<Sandbox>,
}

impl Service {
    /// A pod without containers.
    pub fn new(context: ServerContext) -> Self {
        Self { sandbox: Arc::new(Sandbox::new(context)) }
    }

    /// What stands where, for the log.
    pub fn dump(&self) -> String {
        self.sandbox.dump()
    }

    /// Collects exited children that nobody made here. Never blocks; for SIGCHLD.
    pub fn sweep(&self) {
        self.sandbox.context.pool.children.sweep();
    }

    /// Returns when nobody will use this pod any more.
    pub async fn wait_idle_shutdown(&self) {
        self.sandbox.wait_idle_shutdown().await;
    }

    /// Gives memory back after work, for ever.
    pub async fn trim_when_idle(&self) -> Infallible {
        self.sandbox.context.pool.idle_trim.run().await
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<container::Container>> {
        self.sandbox.container(id).map_err(status)
    }
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, r: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        let sandbox = self.sandbox.clone();
        let pid = detach::run(async move { sandbox.create(r).await.map_err(status) }).await?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, r: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.container(&r.id)?;
        let pid = detach::run(async move { container.start(&r.exec_id).await.map_err(status) }).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, r: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let (sandbox, container) = (self.sandbox.clone(), self.container(&r.id)?);
        detach::run(async move { sandbox.delete(&container, &r.exec_id).await.map_err(status) }).await
    }

    async fn exec(&self, _: &TtrpcContext, r: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let stdio = StdioRequest { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, terminal: r.terminal };
        self.container(&r.id)?.add_exec(&r.exec_id, stdio, r.spec.as_ref()).map_err(status)?;
        Ok(Empty::default())
    }

    async fn state(&self, _: &TtrpcContext, r: StateRequest) -> ttrpc::Result<StateResponse> {
        self.container(&r.id)?.describe(&r.exec_id).map_err(status)
    }

    async fn pids(&self, _: &TtrpcContext, r: PidsRequest) -> ttrpc::Result<PidsResponse> {
        self.container(&r.id)?.pids().await.map_err(status)
    }

    async fn pause(&self, _: &TtrpcContext, r: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.pause().await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, r: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.resume().await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(failure(ttrpc::Code::UNIMPLEMENTED, "checkpoint is not supported"))
    }

    async fn kill(&self, _: &TtrpcContext, r: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.kill(&r.exec_id, r.signal, r.all).await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, r: ResizePtyRequest) -> ttrpc::Result<Empty> {
        self.container(&r.id)?.resize(&r.exec_id, r.width, r.height).map_err(status)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, r: CloseIORequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        if r.stdin {
            container.close_stdin(&r.exec_id).map_err(status)?;
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, r: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.update(r.resources.as_ref()).await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, r: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.container(&r.id)?.waiter(&r.exec_id).map_err(status)?.exit().await;
        Ok(WaitResponse { exit_status: exit.status, exited_at: Some(exit.into()).into(), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, r: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.container(&r.id)?.metrics().map_err(status)?;
        Ok(StatsResponse { stats: Some(stats).into(), ..Default::default() })
    }

    /// Never fails: containerd asks to see whether the shim lives.
    async fn connect(&self, _: &TtrpcContext, r: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let task_pid = self.sandbox.container(&r.id).and_then(|container| container.pid("")).unwrap_or(0);
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        if self.sandbox.is_empty() {
            self.sandbox.context.shutdown.request();
        }
        Ok(Empty::default())
    }
}
