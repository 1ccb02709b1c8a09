//! The events of a task, and their topics.

use berth_proto::{
    MessageField, any,
    events::{
        Envelope, ForwardRequest, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
        TaskOOM, TaskPaused, TaskResumed, TaskStart,
    },
    protobuf,
};

use crate::{carry, clock};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident($message:ty) = $topic:literal,)*) => {
        /// An event of a task or of one of its processes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event { $($(#[$doc])* $name($message),)* }

        impl Event {
            /// The topic of the event in containerd.
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

/// The treatment of an event when the queue is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// It is dropped, the oldest first: the client that caused it has the answer of its call.
    DropFirst,
    /// An OOM kill, with the id of its container. A container can cause any number of them, so only some of each are
    /// kept.
    Oom(String),
    /// The exit or the deletion, which clients wait for. It is never dropped. There are no more of these than
    /// processes, and containerd has asked for each process.
    Keep,
}

events! {
    /// The container is created.
    Create(TaskCreate) = "/tasks/create",
    /// The program of the container is started.
    Start(TaskStart) = "/tasks/start",
    /// Init or an exec has exited.
    Exit(TaskExit) = "/tasks/exit",
    /// The container is deleted.
    Delete(TaskDelete) = "/tasks/delete",
    /// An exec is added.
    ExecAdded(TaskExecAdded) = "/tasks/exec-added",
    /// An exec is started.
    ExecStarted(TaskExecStarted) = "/tasks/exec-started",
    /// The kernel has killed a process of the container for want of memory.
    Oom(TaskOOM) = "/tasks/oom",
    /// The container is frozen.
    Paused(TaskPaused) = "/tasks/paused",
    /// The container is thawed.
    Resumed(TaskResumed) = "/tasks/resumed",
    /// The container is checkpointed.
    Checkpointed(TaskCheckpointed) = "/tasks/checkpointed",
}

impl Retention {
    /// Writes the treatment down.
    pub(super) fn carry(&self) -> carry::Retention {
        match self {
            Self::DropFirst => carry::Retention::DropFirst,
            Self::Oom(id) => carry::Retention::Oom(id.clone()),
            Self::Keep => carry::Retention::Keep,
        }
    }

    /// Makes the treatment again.
    pub(super) fn adopt(retention: carry::Retention) -> Self {
        match retention {
            carry::Retention::DropFirst => Self::DropFirst,
            carry::Retention::Oom(id) => Self::Oom(id),
            carry::Retention::Keep => Self::Keep,
        }
    }
}

impl Event {
    /// The treatment when the queue is full.
    pub(super) fn retention(&self) -> Retention {
        match self {
            Self::Exit(_) | Self::Delete(_) => Retention::Keep,
            Self::Oom(oom) => Retention::Oom(oom.container_id.clone()),
            _ => Retention::DropFirst,
        }
    }

    /// The call that delivers the event, with the current time.
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
