//! The messages of containerd's services `containers.v1` and `tasks.v1` that the benchmark uses, and the calls.
//!
//! Field numbers are those of containerd's API 1.11. Fields that are missing here are missing on the wire.

use super::grpc::{Channel, Status};
use prost::Message;

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// The type of the value.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The value in the encoding of its type.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `containerd.runc.v1.Options`.
#[derive(Clone, PartialEq, Message)]
pub struct RuncOptions {
    /// The OCI runtime's program.
    #[prost(string, tag = "6")]
    pub binary_name: String,
    /// Its state directory.
    #[prost(string, tag = "7")]
    pub root: String,
}

/// `containerd.services.containers.v1.Container.Runtime`.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeName {
    /// A runtime type, or the absolute path of a shim.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The shim's options.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Any>,
}

/// `containerd.services.containers.v1.Container`.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// The id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The runtime.
    #[prost(message, optional, tag = "4")]
    pub runtime: Option<RuntimeName>,
    /// config.json.
    #[prost(message, optional, tag = "5")]
    pub spec: Option<Any>,
}

/// `containerd.services.containers.v1.CreateContainerRequest`; the answer has the same shape.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerMessage {
    /// The container.
    #[prost(message, optional, tag = "1")]
    pub container: Option<Container>,
}

/// `containerd.types.Mount`.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// The filesystem's type.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The source.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Options as in fstab.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// `containerd.services.tasks.v1.CreateTaskRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CreateTask {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The mounts that make the root filesystem.
    #[prost(message, repeated, tag = "3")]
    pub rootfs: Vec<Mount>,
}

/// The ids of most requests. The second one is empty in a request that has only the first.
#[derive(Clone, PartialEq, Message)]
pub struct Ids {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The exec's id; empty for the first process.
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

/// `containerd.services.tasks.v1.KillRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct Kill {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The signal.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
}

/// `containerd.services.tasks.v1.ExecProcessRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process object of config.json.
    #[prost(message, optional, tag = "6")]
    pub spec: Option<Any>,
    /// The exec's id.
    #[prost(string, tag = "7")]
    pub exec_id: String,
}

/// `containerd.services.tasks.v1.CreateTaskResponse` (the pid alone).
#[derive(Clone, PartialEq, Message)]
pub struct Created {
    /// The pid of the container's first process.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

/// `containerd.services.tasks.v1.WaitResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Exited {
    /// The exit status.
    #[prost(uint32, tag = "1")]
    pub exit_status: u32,
}

/// `containerd.services.tasks.v1.MetricsRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct MetricsFor {
    /// The filters of tasks.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// `containerd.services.tasks.v1.MetricsResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Metrics {
    /// The metrics of each task.
    #[prost(message, repeated, tag = "1")]
    pub metrics: Vec<Metric>,
}

/// `containerd.types.Metric`.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// The container's id.
    #[prost(string, tag = "2")]
    pub id: String,
}

/// containerd's task service in one namespace; clones share the connection.
#[derive(Clone)]
pub struct Tasks {
    channel: Channel,
    namespace: &'static str,
}

impl Tasks {
    /// Makes a client on `channel`.
    pub fn new(channel: Channel, namespace: &'static str) -> Self {
        Self { channel, namespace }
    }

    /// Calls Containers.Create, which makes the record.
    pub async fn record(&self, container: Container) -> Result<(), Status> {
        let request = ContainerMessage { container: Some(container) };
        self.call::<ContainerMessage>("containers.v1.Containers/Create", &request).await.map(drop)
    }

    /// Calls Containers.Delete, which removes the record.
    pub async fn forget(&self, id: &str) -> Result<(), Status> {
        self.call::<Empty>("containers.v1.Containers/Delete", &ids(id, "")).await.map(drop)
    }

    /// Calls Create and returns the pid.
    pub async fn create(&self, request: &CreateTask) -> Result<u32, Status> {
        self.call::<Created>("tasks.v1.Tasks/Create", request).await.map(|answer| answer.pid)
    }

    /// Calls Start for the first process or for an exec.
    pub async fn start(&self, id: &str, exec: &str) -> Result<(), Status> {
        self.call::<Empty>("tasks.v1.Tasks/Start", &ids(id, exec)).await.map(drop)
    }

    /// Calls Wait and returns the exit status.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<u32, Status> {
        self.call::<Exited>("tasks.v1.Tasks/Wait", &ids(id, exec)).await.map(|answer| answer.exit_status)
    }

    /// Calls Delete for the task.
    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        self.call::<Empty>("tasks.v1.Tasks/Delete", &ids(id, "")).await.map(drop)
    }

    /// Calls DeleteProcess for an exec.
    pub async fn delete_exec(&self, id: &str, exec: &str) -> Result<(), Status> {
        self.call::<Empty>("tasks.v1.Tasks/DeleteProcess", &ids(id, exec)).await.map(drop)
    }

    /// Calls Kill for the first process.
    pub async fn kill(&self, id: &str, signal: u32) -> Result<(), Status> {
        let request = Kill { container_id: id.into(), signal };
        self.call::<Empty>("tasks.v1.Tasks/Kill", &request).await.map(drop)
    }

    /// Calls Exec, which adds the process.
    pub async fn exec(&self, request: &Exec) -> Result<(), Status> {
        self.call::<Empty>("tasks.v1.Tasks/Exec", request).await.map(drop)
    }

    /// Calls Get, for which the shim answers State of the first process.
    pub async fn state(&self, id: &str) -> Result<(), Status> {
        self.call::<Empty>("tasks.v1.Tasks/Get", &ids(id, "")).await.map(drop)
    }

    /// Calls Metrics for one container and returns the number of answers.
    pub async fn metrics(&self, id: &str) -> Result<usize, Status> {
        let request = MetricsFor { filters: vec![format!("id=={id}")] };
        self.call::<Metrics>("tasks.v1.Tasks/Metrics", &request).await.map(|answer| answer.metrics.len())
    }

    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, Status> {
        self.channel.call(&format!("/containerd.services.{method}"), self.namespace, request).await
    }
}

fn ids(container: &str, exec: &str) -> Ids {
    Ids { container_id: container.into(), exec_id: exec.into() }
}
