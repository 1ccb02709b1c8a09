//! The wire between containerd and the shim: messages, services and `Any` helpers, under one roof.
//!
//! The generated code is that of `containerd-shim-protos`; this crate names the part of it that the shim speaks, adds
//! the one message it lacks ([`runtime_options`]) and registers the task service under both of its names
//! ([`task_services`]). It decides nothing: what a message means is the shim's business.

pub mod any;
pub mod runtime_options;
mod services;

pub use async_trait::async_trait;
pub use containerd_shim_protos::{
    protobuf::{self, Message, MessageField, SpecialFields},
    ttrpc,
};

pub use self::services::{TASK_V2, TASK_V3, failure, task_services};

/// `containerd.task.v3`: requests, responses, and the [`Task`](task::Task) service of 17 calls. Version 2 is the same
/// to the byte but for the package's name.
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

/// `containerd.events`: what a shim publishes, and the service of containerd that takes it.
pub mod events {
    pub use containerd_shim_protos::{
        events::task::*,
        shim::{event::Envelope, events::ForwardRequest},
        shim_async::{Events, EventsClient, create_events},
    };
}

/// `containerd.runc.v1`: the options of a task, of a checkpoint, and what `Pids` says of an exec.
pub mod runc {
    pub use containerd_shim_protos::shim::oci::{CheckpointOptions, Options, ProcessDetails};
}

/// `containerd.runtime.bootstrap.v1`: what containerd 2.3 and newer write to the standard input of `start`, and read
/// from its standard output.
pub mod bootstrap {
    pub use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension, LogLevel};
}

/// `containerd.types`: the answer to `-info`.
pub mod info {
    pub use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
}

/// `io.containerd.cgroups`: what `Stats` answers, in nanoseconds on v1 and microseconds on v2.
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

/// `google.protobuf`: the well-known messages.
pub mod wkt {
    pub use protobuf::well_known_types::{any::Any, empty::Empty, timestamp::Timestamp};
}
