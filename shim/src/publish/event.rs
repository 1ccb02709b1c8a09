//! The events of a task, and their topics.

use berth_proto::events::{
    Envelope, ForwardRequest, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
    TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use berth_proto::{MessageField, any, protobuf};

use crate::clock;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident($message:ty) = $topic:literal,)*) => {
        /// What happened to a task or to one of its processes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event { $($(#[$doc])* $name($message),)* }

        impl Event {
            /// The topic under which containerd publishes it.
            pub fn topic(&self) -> &'static str {
                match self { $(Self::$name(_) => $topic,)* }
            }

            fn pack(&self) -> protobuf::Result<berth_proto::wkt::Any> {
                match self { $(Self::$name(message) => any::pack(message),)* }
            }
        }

        $(impl From<$message> for Event {
            fn from(message: $message) -> Self {
                Self::$name(message)
            }
        })*
    };
}

events! {
    /// A container was made.
    Create(TaskCreate) = "/tasks/create",
    /// Its program was started.
    Start(TaskStart) = "/tasks/start",
    /// A process ended: the container's, or an exec's.
    Exit(TaskExit) = "/tasks/exit",
    /// The container was deleted.
    Delete(TaskDelete) = "/tasks/delete",
    /// An exec was prepared.
    ExecAdded(TaskExecAdded) = "/tasks/exec-added",
    /// An exec was started.
    ExecStarted(TaskExecStarted) = "/tasks/exec-started",
    /// The kernel killed a process for want of memory.
    Oom(TaskOOM) = "/tasks/oom",
    /// The container was frozen.
    Paused(TaskPaused) = "/tasks/paused",
    /// The container was thawed.
    Resumed(TaskResumed) = "/tasks/resumed",
    /// The container was written to disk.
    Checkpointed(TaskCheckpointed) = "/tasks/checkpointed",
}

impl Event {
    /// Whether somebody may wait for this very event: the end of a process or a container, and why. These are the last
    /// to give way when the queue is full.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Self::Exit(_) | Self::Delete(_) | Self::Oom(_))
    }

    /// The call that carries it, stamped with the time of now.
    pub(super) fn request(&self, namespace: &str) -> protobuf::Result<ForwardRequest> {
        let envelope = Envelope {
            timestamp: MessageField::some(clock::timestamp()),
            namespace: namespace.to_owned(),
            topic: self.topic().to_owned(),
            event: MessageField::some(self.pack()?),
            ..Envelope::default()
        };
        Ok(ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() })
    }
}
