//! The sandbox service: one short function for each RPC of `containerd.runtime.sandbox.v1`. It decodes the request, asks
//! the pod and encodes the answer.
//!
//! A call that changes the pod runs as a task of its own (`detach`), as those of the task service do. The comments name
//! the expectations of containerd with their source: `controller` is its plugins/sandbox/controller.go.

use std::{sync::Arc, time::Duration};

use berth_proto::{
    async_trait, failure,
    sandbox::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, Platform, PlatformRequest,
        PlatformResponse, Sandbox, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
        StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
    },
    ttrpc::{self, asynchronous::TtrpcContext},
};
use berth_runtime::Error;
use tokio::sync::Semaphore;

use crate::{
    clock, detach,
    error::status,
    options::TaskOptions,
    pod::{Pod, config::PodConfig},
    sandbox,
};

/// The maximal number of Wait calls without an answer. containerd makes one, and another after each restart.
const MAX_WAITS: usize = 256;
/// The time between the answer to ShutdownSandbox and the end of the server. Go's ttrpc client drops an answer that comes
/// together with the end of its connection, and containerd takes that for a failed call.
const CLOSE_DELAY: Duration = Duration::from_millis(500);

/// The service. It shares the containers with the task service.
#[derive(Clone, Debug)]
pub struct PodService {
    group: Arc<sandbox::Sandbox>,
    waits: Arc<Semaphore>,
}

impl PodService {
    /// Makes the service of a server.
    pub fn new(group: Arc<sandbox::Sandbox>) -> Self {
        Self { group, waits: Arc::new(Semaphore::new(MAX_WAITS)) }
    }

    fn pod(&self, id: &str) -> ttrpc::Result<Arc<Pod>> {
        self.group.context.pod.find(id).map_err(status)
    }
}

#[async_trait]
impl Sandbox for PodService {
    /// Checks the configuration; nothing is made before Start. After an error the client calls ShutdownSandbox
    /// (controller: `Create`).
    async fn create_sandbox(&self, _: &TtrpcContext, r: CreateSandboxRequest) -> ttrpc::Result<CreateSandboxResponse> {
        let context = &self.group.context;
        if r.sandbox_id != context.id {
            let text = format!("sandbox_id {:?}: this is the shim of {:?}", r.sandbox_id, context.id);
            return Err(status(Error::invalid(text)));
        }
        context.pod.put(PodConfig::parse(r).map_err(status)?).map_err(status)?;
        Ok(CreateSandboxResponse::default())
    }

    /// Answers when the pod is ready, with its specification, and with pid 0 if no process holds it (controller: `Start`).
    async fn start_sandbox(&self, _: &TtrpcContext, r: StartSandboxRequest) -> ttrpc::Result<StartSandboxResponse> {
        let (pod, group) = (self.pod(&r.sandbox_id)?, self.group.clone());
        let state_root = TaskOptions::default().state_root(&group.context.namespace);
        detach::run(async move { pod.start(&group.context.pool, state_root).await.map_err(status) }).await
    }

    /// Answers in the words of Go. The client asks before each container and for each listing (controller: `Platform`).
    async fn platform(&self, _: &TtrpcContext, r: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        self.pod(&r.sandbox_id)?;
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            other => (other, ""),
        };
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Default::default()
        };
        Ok(PlatformResponse { platform: Some(platform).into(), ..Default::default() })
    }

    /// Lets go of the namespaces. A repeated call is no error, nor is one before Start (controller: `Stop`).
    async fn stop_sandbox(&self, _: &TtrpcContext, r: StopSandboxRequest) -> ttrpc::Result<StopSandboxResponse> {
        let (pod, group) = (self.pod(&r.sandbox_id)?, self.group.clone());
        detach::run(async move { pod.stop(&group.context.pool).await.map_err(status) }).await?;
        Ok(StopSandboxResponse::default())
    }

    /// Answers when the pod has stopped, at once if it stopped before. An answer or a lost connection makes the pod
    /// NotReady (controller: `Wait`).
    async fn wait_sandbox(&self, _: &TtrpcContext, r: WaitSandboxRequest) -> ttrpc::Result<WaitSandboxResponse> {
        let pod = self.pod(&r.sandbox_id)?;
        let too_many =
            |_| failure(ttrpc::Code::RESOURCE_EXHAUSTED, format!("{MAX_WAITS} Wait calls have no answer yet"));
        let _place = self.waits.try_acquire().map_err(too_many)?;
        let exit = pod.wait().await;
        Ok(WaitSandboxResponse { exit_status: exit.status, exited_at: Some(exit.into()).into(), ..Default::default() })
    }

    /// Answers with the state. The client takes the id and the pid for each container from it (internal/cri/server,
    /// `CreateContainer`).
    async fn sandbox_status(&self, _: &TtrpcContext, r: SandboxStatusRequest) -> ttrpc::Result<SandboxStatusResponse> {
        let first = if r.verbose { self.group.first_pid() } else { None };
        self.pod(&r.sandbox_id)?.status(r.verbose, first).map_err(status)
    }

    /// Answers if the pod exists.
    async fn ping_sandbox(&self, _: &TtrpcContext, r: PingRequest) -> ttrpc::Result<PingResponse> {
        self.pod(&r.sandbox_id)?;
        Ok(PingResponse::default())
    }

    /// Stops the pod and ends the server, also one whose CreateSandbox failed. The client then runs the action `delete`,
    /// which ends containers that are left (controller: `Shutdown`).
    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        r: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        let group = self.group.clone();
        if r.sandbox_id != group.context.id {
            self.pod(&r.sandbox_id)?;
        }
        detach::run(async move {
            if let Some(pod) = group.context.pod.get() {
                // The action `delete` removes the rest.
                if let Err(e) = pod.stop(&group.context.pool).await {
                    log::warn!("shutdown: {e}");
                }
            }
            tokio::spawn(async move {
                tokio::time::sleep(CLOSE_DELAY).await;
                group.context.shutdown.request();
            });
            Ok(ShutdownSandboxResponse::default())
        })
        .await
    }

    /// Answers with the metrics of the pod's cgroup. containerd 2.4 makes the stats of a pod of them (internal/cri/server,
    /// `ListPodSandboxStats`).
    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        r: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let data = self.pod(&r.sandbox_id)?.metrics().map_err(status)?;
        let mut answer = SandboxMetricsResponse::default();
        let metrics = answer.metrics.mut_or_insert_default();
        metrics.id = r.sandbox_id;
        metrics.timestamp = Some(clock::timestamp()).into();
        metrics.data = Some(data).into();
        Ok(answer)
    }
}
