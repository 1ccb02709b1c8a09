//! The document that a server hands over to the program that replaces it in the same process (`upgrade`): plain data,
//! and descriptors by their numbers.
//!
//! Each part of the server has one function that writes its part of the document and one that makes the part again of
//! it. The first takes its structure apart without `..`, so a new field does not compile before it is in the document or
//! is left out by name. A state that these types cannot say (a Create or Start in flight) cannot be handed over: the
//! upgrade waits for its end, or is refused.
//!
//! The document is JSON in a sealed memfd(2). [`FORMAT`] counts its versions. `tests/handover` keeps a sample of each.

mod bytes;
mod fds;
mod memory;
mod sys;

use std::path::PathBuf;

use berth_runtime::{Error, Kind, Result, events::OomCount, state};
use oci_spec::runtime::Process as Spec;
use serde::{Deserialize, Serialize};

pub use self::{
    bytes::Bytes,
    fds::{Adopter, Fd, Keeper, Known, inherit},
    memory::{read, seal},
    sys::{borrow, close},
};

/// The version of the document that this program writes. It reads those from [`OLDEST`] on.
pub const FORMAT: u32 = 1;
/// The oldest version that this program reads.
pub const OLDEST: u32 = 1;

/// The part of a document that all versions have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the document.
    pub format: u32,
    /// The oldest format whose readers understand it.
    pub min_reader: u32,
    /// The version of the program that wrote it.
    pub writer: String,
}

/// A whole server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of the document.
    pub format: u32,
    /// The oldest format whose readers understand it.
    pub min_reader: u32,
    /// The version of the program that wrote it.
    pub writer: String,
    /// The command line of the server.
    pub arguments: Vec<String>,
    /// All descriptors that the rest of the document names by their numbers.
    pub fds: Vec<Known>,
    /// The listening socket.
    pub listener: Fd,
    /// The call that asked for the upgrade.
    pub trigger: Trigger,
    /// The connections of clients.
    pub connections: Vec<Connection>,
    /// The events that are not acknowledged, in order.
    pub events: Vec<Event>,
    /// The containers. The state of a pod that the shim holds itself gets a field of its own beside this one, with its
    /// own type and a higher [`FORMAT`].
    pub containers: Vec<Container>,
}

/// The call that asked for the upgrade, which the next program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The number of its connection.
    pub connection: usize,
    /// Its ttrpc stream.
    pub stream: u32,
    /// The time of the monotonic clock at which the server stopped to read requests, in µs.
    pub paused_at: u64,
}

/// A client's connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The socket.
    pub fd: Fd,
    /// The bytes of a frame that has not come whole.
    pub incoming: Bytes,
    /// The bytes of answers that are not written yet.
    pub outgoing: Bytes,
    /// The frames of requests that wait and change nothing. The next program serves them as if they had just come.
    pub waiting: Vec<Bytes>,
}

/// An event that is not acknowledged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The encoded ForwardRequest.
    pub request: Bytes,
    /// Its treatment when the queue is full.
    pub retention: Retention,
}

/// The treatment of an event when the queue is full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// It is dropped, the oldest first.
    DropFirst,
    /// An OOM kill of this container.
    Oom(String),
    /// It is never dropped.
    Keep,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The directory of the runtime's state.
    pub root: PathBuf,
    /// The uid and gid of its stdio pipes.
    pub io_owner: (u32, u32),
    /// The record.
    pub state: State,
    /// The watch for OOM kills.
    pub oom: Option<Oom>,
}

/// The record of a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The phase.
    pub phase: Phase,
    /// The first process.
    pub init: Process,
    /// The other processes, by exec id.
    pub execs: Vec<(String, Process)>,
    /// The exit of init, from when init is reaped.
    pub init_exit: Option<Exit>,
    /// The work between the exit of init and its event is done.
    pub cleaned_up: bool,
    /// The runtime's record, while a part of the container exists in the kernel.
    pub record: Option<state::Container>,
    /// Delete must unmount the rootfs.
    pub mounted: bool,
}

/// The phase of a container. Those between two of these cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Init waits at the barrier; without one, a start has failed.
    Created(Option<Fd>),
    /// Init has executed its program.
    Running,
    /// The cgroup is frozen.
    Paused,
    /// Init has exited, and the exit is published.
    Stopped,
}

/// A process of a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The stdio in the client's request.
    pub request: Stdio,
    /// The phase.
    pub phase: ProcessPhase,
    /// Its pid: 0 before it exists, kept after its exit.
    pub pid: i32,
    /// Its stdio, from its start to its Delete.
    pub io: Option<Io>,
    /// CloseIO has come before stdin was open.
    pub stdin_closed: bool,
    /// The columns and rows of the terminal, if ResizePty has come before the terminal existed.
    pub initial_size: Option<(u16, u16)>,
    /// The exit, once it is announced.
    pub exit: Option<Exit>,
}

/// The phase of a process. Those between two of these cannot be handed over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessPhase {
    /// Exec has reserved it. Init has no specification here.
    Added(Option<ExecSpec>),
    /// It exists.
    Running {
        /// Its pidfd.
        pidfd: Fd,
    },
    /// It has exited.
    Stopped,
}

/// The specification of an exec that is not started.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The `process` object.
    pub process: Box<Spec>,
    /// Its size in memory, bytes.
    pub bytes: usize,
}

/// The stdio in a client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stdio {
    /// A fifo path, or empty.
    pub stdin: String,
    /// A fifo path, a URI, or empty.
    pub stdout: String,
    /// A fifo path, or empty.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// An exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// The exit status, or 128 + the signal number.
    pub status: u32,
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanoseconds: i32,
}

/// The stdio of a process that exists.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Io {
    /// The shim's own writer on the client's stdin.
    pub writer: Option<Fd>,
    /// The streams.
    pub streams: Vec<Stream>,
    /// The outputs that are not copied to their end.
    pub uncopied: usize,
    /// The outputs that the client has not read to their end.
    pub unread: usize,
    /// The process has exited.
    pub exited: bool,
    /// The time until streams that are left after the exit are cut off, in ms.
    pub linger: Option<u64>,
    /// The terminal's master, while the process may use it.
    pub console: Option<Fd>,
    /// The logging program.
    pub logger: Option<Logger>,
}

/// One stream of a process, with its number.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Its number among the streams of the process.
    pub number: usize,
    /// Its stage.
    pub stage: Stage,
}

/// The stage of a stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is copied.
    Copying(Pump),
    /// The client has not read it to its end.
    Tail(Tail),
}

/// A source, a sink, and the bytes between them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pump {
    /// The role of the bytes.
    pub kind: PumpKind,
    /// The source.
    pub from: Fd,
    /// The sink.
    pub sink: Sink,
    /// The writer is gone.
    pub ending: bool,
    /// Bytes that are read and not written yet.
    pub pending: Bytes,
}

/// The role of a pump's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PumpKind {
    /// Standard input.
    Input,
    /// Standard input that the process does not read any more.
    Discard,
    /// Output through a pipe.
    Output,
    /// Output through a terminal.
    Terminal,
}

/// The sink of a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sink {
    /// A client's fifo, open at both ends.
    Fifo(Fd),
    /// A pipe or terminal.
    Pipe(Fd),
    /// A file.
    Append(Fd),
    /// The bytes are dropped.
    Nowhere,
}

/// A client's fifo that has all its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// The shim holds a reader.
    Reader(Fd),
    /// The shim holds a writer.
    Writer(Fd),
    /// The shim holds both ends.
    Both(Fd),
}

/// A logging program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Fd,
    /// The read ends of its pipes.
    pub pipes: [Fd; 2],
    /// It has exited.
    pub ended: bool,
}

/// A watch for OOM kills.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oom {
    /// The watched descriptor and the counter.
    pub fds: [Fd; 2],
    /// The count of kills.
    pub count: OomCount,
}

/// A thing that is on its way and ends by itself: the server cannot be handed over at this moment.
pub fn busy(what: impl Into<String>) -> Error {
    Error::new(Kind::FailedPrecondition, what.into())
}

impl Document {
    /// The document as JSON.
    ///
    /// # Errors
    /// A part of it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::new(Kind::Internal, format!("encode the handover document: {e}")))
    }

    /// Reads a document of any format from [`OLDEST`] on.
    ///
    /// # Errors
    /// The format is not understood; the message names it and its writer. Or the document is malformed.
    pub fn decode(json: &[u8]) -> Result<Self> {
        // The reason gets into the command line of a program that is given the server back, so it quotes no text.
        let malformed = |e: serde_json::Error| {
            let text = e.to_string();
            let quotes = ["invalid type: string", "invalid value: string"].iter().any(|start| text.starts_with(start));
            let text = if quotes { format!("a text at byte {} is none that belongs there", e.column()) } else { text };
            Error::invalid(format!("handover document: {text}"))
        };
        let Header { format, min_reader, writer } = serde_json::from_slice(json).map_err(malformed)?;
        if format < OLDEST || min_reader > FORMAT {
            let text = format!(
                "handover document of format {format} (readable from {min_reader} on), written by {writer}: this program reads {OLDEST} to {FORMAT}"
            );
            return Err(Error::unsupported(text));
        }
        serde_json::from_slice(json).map_err(malformed)
    }
}

#[cfg(test)]
mod tests;
