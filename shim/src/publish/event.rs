//! The events of a task, and their topics.

use berth_proto::{
    MessageField, any,
    events::{
        Envelope, ForwardRequest, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
        TaskOOM, TaskPaused, TaskResumed, TaskStart,
    },
    protobuf,
};

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

/// What becomes of an event when the queue is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// It gives way, the oldest first: whoever asked for what it tells of knows already.
    DropFirst,
    /// A container brings this about by itself, as often as it likes: so many of this container are kept and no more.
    Oom(String),
    /// The end of a process or a container, for which somebody may wait. It is never lost. There are no more of these than
    /// there were processes, each of which containerd has asked for.
    Keep,
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
    /// What becomes of it when the queue is full.
    pub(super) fn retention(&self) -> Retention {
        match self {
            Self::Exit(_) | Self::Delete(_) => Retention::Keep,
            Self::Oom(oom) => Retention::Oom(oom.container_id.clone()),
            _ => Retention::DropFirst,
        }
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
