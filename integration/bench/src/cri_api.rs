//! The messages of the CRI (`runtime.v1`) that the benchmark uses, and the calls by which the kubelet starts a pod, probes
//! it, and removes it.
//!
//! Field numbers are those of CRI API 0.36. Fields that are missing here are missing on the wire.

use super::{
    grpc::{Channel, Status},
    tasks_api::Empty,
};
use prost::Message;
use std::collections::BTreeMap;

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct PodMetadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its Kubernetes namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `NamespaceOption`.
#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOption {
    /// 0 is the pod's own, 2 is the node's.
    #[prost(int32, tag = "1")]
    pub network: i32,
    /// 1 is the container's own.
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// `SecurityProfile`; the default is RuntimeDefault.
#[derive(Clone, PartialEq, Message)]
pub struct SecurityProfile {}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct PodSecurity {
    /// The namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<NamespaceOption>,
    /// The seccomp profile.
    #[prost(message, optional, tag = "9")]
    pub seccomp: Option<SecurityProfile>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct PodLinux {
    /// The parent cgroup.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    /// The security context.
    #[prost(message, optional, tag = "2")]
    pub security: Option<PodSecurity>,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct PodConfig {
    /// The names.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodMetadata>,
    /// The host name.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// The directory of the logs.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    /// The labels.
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
    /// The settings of Linux.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<PodLinux>,
}

/// `RunPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct RunPod {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodConfig>,
    /// The runtime handler.
    #[prost(string, tag = "2")]
    pub runtime_handler: String,
}

/// A request or an answer that has only an id.
#[derive(Clone, PartialEq, Message)]
pub struct Id {
    /// A pod's or a container's id.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `ContainerMetadata`, or `ImageSpec`: both have a name.
#[derive(Clone, PartialEq, Message)]
pub struct Name {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `LinuxContainerResources`.
#[derive(Clone, PartialEq, Message)]
pub struct Resources {
    /// The period in µs.
    #[prost(int64, tag = "1")]
    pub cpu_period: i64,
    /// The quota of each period in µs.
    #[prost(int64, tag = "2")]
    pub cpu_quota: i64,
    /// The weight of the CPU.
    #[prost(int64, tag = "3")]
    pub cpu_shares: i64,
    /// The limit in bytes.
    #[prost(int64, tag = "4")]
    pub memory_limit: i64,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct Security {
    /// The namespaces.
    #[prost(message, optional, tag = "3")]
    pub namespaces: Option<NamespaceOption>,
    /// Whether no_new_privs is set.
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    /// The masked paths.
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    /// The readonly paths.
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    /// The seccomp profile.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
}

/// `LinuxContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerLinux {
    /// The limits.
    #[prost(message, optional, tag = "1")]
    pub resources: Option<Resources>,
    /// The security context.
    #[prost(message, optional, tag = "2")]
    pub security: Option<Security>,
}

/// `ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    /// The name.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Name>,
    /// The image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<Name>,
    /// The command.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    /// The labels.
    #[prost(btree_map = "string, string", tag = "8")]
    pub labels: BTreeMap<String, String>,
    /// The log, below the pod's directory.
    #[prost(string, tag = "11")]
    pub log_path: String,
    /// The settings of Linux.
    #[prost(message, optional, tag = "15")]
    pub linux: Option<ContainerLinux>,
}

/// `CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainer {
    /// The pod's id.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// The pod, again.
    #[prost(message, optional, tag = "3")]
    pub pod_config: Option<PodConfig>,
}

/// `ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusAnswer {
    /// The status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}

/// `ContainerStatus` (the state alone).
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    /// 1 means running.
    #[prost(int32, tag = "3")]
    pub state: i32,
}

/// `ExecSyncRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSync {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// The command.
    #[prost(string, repeated, tag = "2")]
    pub command: Vec<String>,
    /// The timeout in seconds.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// `ExecSyncResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncAnswer {
    /// The standard output.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// The exit code.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// `ContainerState.CONTAINER_RUNNING`.
pub const RUNNING: i32 = 1;

/// The CRI's runtime service; clones share the connection.
#[derive(Clone)]
pub struct Cri(Channel);

impl Cri {
    /// Makes a client on `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// Calls RunPodSandbox and returns the pod's id.
    pub async fn run_pod(&self, config: &PodConfig, handler: &str) -> Result<String, Status> {
        let request = RunPod { config: Some(config.clone()), runtime_handler: handler.into() };
        self.call::<Id>("RunPodSandbox", &request).await.map(|answer| answer.id)
    }

    /// Calls CreateContainer and returns the container's id.
    pub async fn create(&self, pod: &str, config: &ContainerConfig, of_pod: &PodConfig) -> Result<String, Status> {
        let request =
            CreateContainer { pod: pod.into(), config: Some(config.clone()), pod_config: Some(of_pod.clone()) };
        self.call::<Id>("CreateContainer", &request).await.map(|answer| answer.id)
    }

    /// Calls StartContainer.
    pub async fn start(&self, container: &str) -> Result<(), Status> {
        self.call::<Empty>("StartContainer", &Id { id: container.into() }).await.map(drop)
    }

    /// Calls ContainerStatus and returns the state.
    pub async fn state(&self, container: &str) -> Result<i32, Status> {
        let answer = self.call::<StatusAnswer>("ContainerStatus", &Id { id: container.into() }).await?;
        Ok(answer.status.unwrap_or_default().state)
    }

    /// Calls ExecSync, as the kubelet's exec probe does, and returns the exit code.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<i32, Status> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecSync { container: container.into(), command, timeout: 60 };
        self.call::<ExecSyncAnswer>("ExecSync", &request).await.map(|answer| answer.exit_code)
    }

    /// Calls StopPodSandbox and RemovePodSandbox, which also end the containers.
    pub async fn remove_pod(&self, pod: &str) -> Result<(), Status> {
        let request = Id { id: pod.into() };
        self.call::<Empty>("StopPodSandbox", &request).await?;
        self.call::<Empty>("RemovePodSandbox", &request).await.map(drop)
    }

    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, Status> {
        self.0.call(&format!("/runtime.v1.RuntimeService/{method}"), "k8s.io", request).await
    }
}
