//! The task service: one short function for each RPC. It decodes the request, asks the container and encodes the
//! answer.
//!
//! A call that changes a container runs as a task of its own (`detach`), so a timeout or disconnect of the client never
//! cancels a change. A call that only reads is answered in place.
//!
//! The comments name the expectations of containerd with their source: `client` is its core/runtime/v2/shim.go, `runc
//! shim` its cmd/containerd-shim-runc-v2/task/service.go.

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

use berth_runtime::Result;
use tokio::sync::Semaphore;

use crate::{
    carry::{self, Adopter, Keeper},
    container,
    context::ServerContext,
    detach,
    error::status,
    io::uri::StdioRequest,
    pool::Pool,
    publish::Publisher,
    sandbox::Sandbox,
};

/// The maximal number of Wait calls without an answer. containerd makes one for each process. All other calls end by
/// themselves.
const MAX_WAITS: usize = 16 << 10;

/// The service under both of its names. Clones serve the same pod.
#[derive(Clone, Debug)]
pub struct Service {
    sandbox: Arc<Sandbox>,
    waits: Arc<Semaphore>,
}

impl Service {
    /// Makes a pod without containers.
    pub fn new(context: ServerContext) -> Self {
        Self { sandbox: Arc::new(Sandbox::new(context)), waits: Arc::new(Semaphore::new(MAX_WAITS)) }
    }

    /// The containers, for the sandbox service on the same socket.
    pub fn group(&self) -> Arc<Sandbox> {
        self.sandbox.clone()
    }

    /// Writes all containers down, and the events that are not acknowledged.
    ///
    /// # Errors
    /// A change is in flight; the message says which.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<(Vec<carry::Container>, Vec<carry::Event>)> {
        Ok((self.sandbox.carry(keeper)?, self.publisher().carry()?))
    }

    /// Checks for state that cannot be written down.
    ///
    /// # Errors
    /// [`berth_runtime::Kind::Unsupported`] while the shim holds a pod.
    pub fn check_can_be_carried(&self) -> Result<()> {
        self.sandbox.check_can_be_carried()
    }

    /// Makes the containers again.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(&self, containers: Vec<carry::Container>, adopter: &mut Adopter) -> Result<()> {
        self.sandbox.adopt(containers, adopter)
    }

    /// The number of containers.
    pub fn containers(&self) -> usize {
        self.sandbox.count()
    }

    /// The parts of the server that containers use.
    pub fn context(&self) -> &ServerContext {
        &self.sandbox.context
    }

    /// The publisher of events.
    pub fn publisher(&self) -> &Publisher {
        &self.sandbox.context.publisher
    }

    /// The threads and children.
    pub fn pool(&self) -> &Pool {
        &self.sandbox.context.pool
    }

    /// Describes all containers for the log.
    pub fn dump(&self) -> String {
        self.sandbox.dump()
    }

    /// Reaps exited children that the shim did not make. Never blocks. The server calls it on SIGCHLD.
    pub fn sweep(&self) {
        self.sandbox.context.pool.children.sweep();
    }

    /// Returns when no client is expected to use this pod any more.
    pub async fn wait_idle_shutdown(&self) {
        self.sandbox.wait_idle_shutdown().await;
    }

    /// Returns memory to the kernel after work; never ends.
    pub async fn trim_when_idle(&self) -> Infallible {
        self.sandbox.context.pool.idle_trim.run().await
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<container::Container>> {
        self.sandbox.container(id).map_err(status)
    }
}

#[async_trait]
impl Task for Service {
    /// Answers when init waits for Start, with its pid; TaskCreate is published. On an error nothing of the container may be
    /// left: the client calls Delete and removes the bundle (runc shim: `Create`).
    async fn create(&self, _: &TtrpcContext, r: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        let sandbox = self.sandbox.clone();
        let pid = detach::run(async move { sandbox.create(r).await.map_err(status) }).await?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    /// Answers with the pid once the program is executed. TaskStart, or TaskExecStarted for an exec, is published before the
    /// exit of the same process (runc shim: `preStart`).
    async fn start(&self, _: &TtrpcContext, r: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.container(&r.id)?;
        let pid = detach::run(async move { container.start(&r.exec_id).await.map_err(status) }).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    /// Answers with the exit of the process; TaskDelete is published for init alone (runc shim: `Delete`). The client takes
    /// NOT_FOUND for success, and calls Shutdown next (client: `delete`).
    async fn delete(&self, _: &TtrpcContext, r: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let (sandbox, container) = (self.sandbox.clone(), self.container(&r.id)?);
        detach::run(async move { sandbox.delete(&container, &r.exec_id).await.map_err(status) }).await
    }

    /// Reserves the exec id and keeps the specification; TaskExecAdded is published. ALREADY_EXISTS if the id is taken (runc
    /// shim: `Exec`).
    async fn exec(&self, _: &TtrpcContext, r: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let stdio = StdioRequest { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, terminal: r.terminal };
        self.container(&r.id)?.add_exec(&r.exec_id, stdio, r.spec.as_ref()).map_err(status)?;
        Ok(Empty::default())
    }

    /// Answers with the status, stdio and exit of a process. The client asks at each listing of tasks, so the call must not
    /// wait for a change (client: `State`).
    async fn state(&self, _: &TtrpcContext, r: StateRequest) -> ttrpc::Result<StateResponse> {
        self.container(&r.id)?.describe(&r.exec_id).map_err(status)
    }

    /// Answers with all pids of the cgroup; those of execs carry `ProcessDetails` (runc shim: `Pids`). A restarted containerd
    /// takes a shim that answers with an empty list or NOT_FOUND for a leaked one (core/runtime/v2/shim_load.go, `loadShims`).
    async fn pids(&self, _: &TtrpcContext, r: PidsRequest) -> ttrpc::Result<PidsResponse> {
        self.container(&r.id)?.pids().await.map_err(status)
    }

    /// Freezes the container; TaskPaused is published (runc shim: `Pause`).
    async fn pause(&self, _: &TtrpcContext, r: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.pause().await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    /// Thaws the container; TaskResumed is published (runc shim: `Resume`).
    async fn resume(&self, _: &TtrpcContext, r: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.resume().await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    /// Writes the container to a directory that the client has made; TaskCheckpointed is published. The client pauses the
    /// container first and resumes it afterwards (containerd client/task.go, `Checkpoint`).
    async fn checkpoint(&self, _: &TtrpcContext, r: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.checkpoint(r).await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    /// Signals one process, or with `all` each process of the container. NOT_FOUND if the process has exited: containerd's
    /// CRI takes that for success (internal/cri/server/container_stop.go).
    async fn kill(&self, _: &TtrpcContext, r: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.kill(&r.exec_id, r.signal, r.all).await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    /// Sets the size of the terminal (client: `ResizePty`). It may come before Start.
    async fn resize_pty(&self, _: &TtrpcContext, r: ResizePtyRequest) -> ttrpc::Result<Empty> {
        self.container(&r.id)?.resize(&r.exec_id, r.width, r.height).map_err(status)?;
        Ok(Empty::default())
    }

    /// Closes the shim's writer on the stdin fifo. The client always sets `stdin` (client: `CloseIO`).
    async fn close_io(&self, _: &TtrpcContext, r: CloseIORequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        if r.stdin {
            container.close_stdin(&r.exec_id).map_err(status)?;
        }
        Ok(Empty::default())
    }

    /// Applies `resources`, the JSON of `linux.resources` (client: `Update`). The annotations have no effect, as in the runc
    /// shim.
    async fn update(&self, _: &TtrpcContext, r: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&r.id)?;
        detach::run(async move { container.update(r.resources.as_ref()).await.map_err(status) }).await?;
        Ok(Empty::default())
    }

    /// Answers when the process has exited, at once if it exited before. A client may wait for days, and several may wait for
    /// one process (runc shim: `Wait`).
    async fn wait(&self, _: &TtrpcContext, r: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let waiter = self.container(&r.id)?.waiter(&r.exec_id).map_err(status)?;
        let too_many =
            |_| failure(ttrpc::Code::RESOURCE_EXHAUSTED, format!("{MAX_WAITS} Wait calls have no answer yet"));
        let _place = self.waits.try_acquire().map_err(too_many)?;
        let exit = waiter.exit().await;
        Ok(WaitResponse { exit_status: exit.status, exited_at: Some(exit.into()).into(), ..Default::default() })
    }

    /// Answers with the metrics of the cgroup, also after the exit of init; NOT_FOUND without a cgroup (runc shim: `Stats`).
    async fn stats(&self, _: &TtrpcContext, r: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.container(&r.id)?.metrics().map_err(status)?;
        Ok(StatsResponse { stats: Some(stats).into(), ..Default::default() })
    }

    /// Answers with the pids of the shim and of init, 0 if there is no such container. It never fails: the client calls
    /// it to see whether the shim is alive (core/runtime/v2/shim_load.go, `loadShimTask`; runc shim: `Connect`).
    async fn connect(&self, _: &TtrpcContext, r: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let task_pid = self.sandbox.container(&r.id).and_then(|container| container.pid("")).unwrap_or(0);
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..Default::default() })
    }

    /// Ends the server if it has no container and holds no pod. The client calls it after a Delete, also while other
    /// containers of the pod run, and that must change nothing (runc shim: `Shutdown`).
    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        if self.sandbox.is_empty() {
            self.sandbox.context.shutdown.request();
        }
        Ok(Empty::default())
    }
}
