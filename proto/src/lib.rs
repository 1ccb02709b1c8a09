//! The messages and services between containerd and the shim, and helpers for `Any`.
//!
//! `containerd-shim-protos` has the generated code. This crate re-exports the parts that the shim uses, adds the
//! messages that are missing ([`runtime_options`], [`pod_config`]) and registers the task service under both of its names
//! ([`task_services`]). It makes no decisions.

pub mod admin;
pub mod any;
mod fields;
pub mod pod_config;
pub mod runtime_options;
mod services;

pub use async_trait::async_trait;
pub use containerd_shim_protos::{
    protobuf::{self, Message, MessageField, SpecialFields},
    ttrpc,
};

pub use self::services::{TASK_V2, TASK_V3, failure, task_services};

/// `containerd.task.v3`: the requests, the responses and the [`Task`](task::Task) service with 17 methods. Version 2
/// differs in the package name alone.
pub mod task {
    pub use containerd_shim_protos::{
        shim::shim::*,
        shim_async::{Task, TaskClient, create_task},
        types::{
            mount::Mount,
            task::{ProcessInfo, Status},
        },
    };
}

/// `containerd.events`: the events of a shim, and containerd's service that receives them.
pub mod events {
    pub use containerd_shim_protos::{
        events::task::*,
        shim::{event::Envelope, events::ForwardRequest},
        shim_async::{Events, EventsClient, create_events},
    };
}

/// `containerd.runtime.sandbox.v1`: the [`Sandbox`](sandbox::Sandbox) service of a pod without a pause container, with 9
/// methods.
pub mod sandbox {
    pub use containerd_shim_protos::{
        sandbox_api::*,
        sandbox_async::{Sandbox, SandboxClient, create_sandbox},
        types::platform::Platform,
    };
}

/// `containerd.runc.v1`: the options of a task and of a checkpoint, and the details of an exec in the answer to Pids.
pub mod runc {
    pub use containerd_shim_protos::shim::oci::{CheckpointOptions, Options, ProcessDetails};
}

/// `containerd.runtime.bootstrap.v1`: the input and the answer of `start`, from containerd 2.3 on.
pub mod bootstrap {
    pub use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension, LogLevel};
}

/// `containerd.types`: the answer of `-info`.
pub mod info {
    pub use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
}

/// `io.containerd.cgroups`: the metrics in the answer to Stats.
pub mod metrics {
    /// `io.containerd.cgroups.v1`: CPU times in nanoseconds, sizes in bytes.
    pub mod v1 {
        pub use containerd_shim_protos::cgroups::metrics::*;
    }
    /// `io.containerd.cgroups.v2`: CPU times in microseconds, sizes in bytes.
    pub mod v2 {
        pub use containerd_shim_protos::cgroups_v2::metrics::*;
    }
}

/// `google.protobuf`: the well-known types.
pub mod wkt {
    pub use protobuf::well_known_types::{any::Any, empty::Empty, timestamp::Timestamp};
}
