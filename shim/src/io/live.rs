//! The stdio of a process that exists, from its start to its Delete.
//!
//! The shim keeps its ends of all fifos of a client until the process has exited and its output has been read. A client
//! takes one broken stream for the end of all: containerd's CRI stops reading stdout when it cannot write a byte of
//! late input, and stops sending stdin when the first output ends.
//!
//! ```text
//! stdin    copied ──> process exited, or it reads no more ──> read and dropped ─────┐
//! output   copied ──> last writer and process are gone ──> the client gets the end and reads the rest ──> closed
//! ```
//! A background child may hold a pipe after the process has exited. It is cut off [`LINGER`] later, and stdin is closed
//! with the end of the last output. Delete closes everything.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};

use super::{
    logger::Logger,
    pump::{Kind, Pump},
    tail::Tail,
};

/// The time that the shim reads the pipes and the stdin of an exited process while another process holds the pipes. A
/// client may wait for the end of the streams for ever (containerd does so for a probe whose command has left a
/// background child), and each such process holds descriptors.
pub const LINGER: Duration = Duration::from_secs(15);
/// The time that Delete waits for the client to read the rest.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two checks of that.
const READ_POLL: Duration = Duration::from_millis(1);

/// The stdio of a process that exists.
#[derive(Debug)]
pub struct Io {
    /// The shim's own writer on the client's stdin.
    writer: Mutex<Option<OwnedFd>>,
    streams: Mutex<Vec<Stream>>,
    outputs: watch::Sender<Outputs>,
    exited: watch::Sender<bool>,
    linger: Mutex<Option<AbortHandle>>,
    console: Mutex<Option<Arc<OwnedFd>>>,
    logger: Option<Logger>,
}

/// The parts of a stdio besides its pumps.
#[derive(Debug)]
pub(super) struct Streams {
    pub writer: Option<OwnedFd>,
    pub console: Option<Arc<OwnedFd>>,
    pub logger: Option<Logger>,
}

/// The number of outputs that are not copied to their end, and of those that the client has not read to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outputs {
    uncopied: usize,
    unread: usize,
}

#[derive(Debug)]
struct Stream {
    number: usize,
    stage: Stage,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
enum Stage {
    Copying(Arc<Pump>),
    Tail(Arc<Tail>),
}

impl Io {
    pub(super) fn start(pumps: Vec<Arc<Pump>>, streams: Streams) -> Arc<Self> {
        let Streams { writer, console, logger } = streams;
        let count = pumps.iter().filter(|pump| pump.kind() != Kind::Input).count();
        let io = Arc::new(Self {
            writer: Mutex::new(writer),
            streams: Mutex::default(),
            outputs: watch::Sender::new(Outputs { uncopied: count, unread: count }),
            exited: watch::Sender::new(false),
            linger: Mutex::default(),
            console: Mutex::new(console),
            logger,
        });
        for (number, pump) in pumps.into_iter().enumerate() {
            io.spawn(number, pump);
        }
        io
    }

    /// The terminal's master, while the process may use it.
    pub fn console(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.console).clone()
    }

    /// CloseIO: the process sees the end of its input once the client has closed its end as well.
    pub fn close_stdin(&self) {
        lock(&self.writer).take();
    }

    /// The process has exited. Later input is dropped, and a terminal ends when its output is copied.
    pub fn process_exited(self: &Arc<Self>) {
        self.end(&[Kind::Input, Kind::Terminal]);
        self.close_stdin();
        if !self.exited.send_replace(true) && !lock(&self.streams).is_empty() {
            let io = self.clone();
            let task = tokio::spawn(async move { io.linger(LINGER).await });
            *lock(&self.linger) = Some(task.abort_handle());
        }
    }

    /// Waits until all output is copied, at most `limit`, and reports whether it is. Then waits a moment for the client
    /// to read it: some clients close their end as soon as the process is deleted, with output still in the fifo.
    pub async fn drained(&self, limit: Duration) -> bool {
        let copied = timeout(limit, self.outputs.subscribe().wait_for(|left| left.uncopied == 0)).await.is_ok();
        let empty = async {
            while self.unread() {
                sleep(READ_POLL).await;
            }
        };
        let _ = timeout(limit.min(READ_TIMEOUT), empty).await;
        copied
    }

    /// Stops all copying, closes all descriptors, and stops the logging program.
    pub async fn close(&self) {
        if let Some(linger) = lock(&self.linger).take() {
            linger.abort();
        }
        self.close_stdin();
        let streams = std::mem::take(&mut *lock(&self.streams));
        for Stream { stage, task, .. } in streams {
            task.abort();
            let _ = task.await;
            drop(stage);
        }
        self.outputs.send_replace(Outputs { uncopied: 0, unread: 0 });
        lock(&self.console).take();
        if let Some(logger) = &self.logger {
            logger.stop().await;
        }
    }

    /// Ends, after `time`, the streams that are left after the exit.
    pub(super) async fn linger(&self, time: Duration) {
        sleep(time).await;
        self.end(&[Kind::Output]);
        let _ = self.outputs.subscribe().wait_for(|left| left.unread == 0).await;
        let streams = std::mem::take(&mut *lock(&self.streams));
        for stream in streams {
            stream.task.abort();
        }
    }

    fn spawn(self: &Arc<Self>, number: usize, pump: Arc<Pump>) {
        // The lock is held, so that a pump that ends at once finds itself in the list.
        let mut streams = lock(&self.streams);
        let stage = Stage::Copying(pump.clone());
        let io = self.clone();
        let task = tokio::spawn(async move {
            pump.run().await;
            match pump.kind() {
                Kind::Input => io.discard_input(number, pump).await,
                _ => io.finish_output(number, pump).await,
            }
        });
        streams.push(Stream { number, stage, task });
    }

    /// The process reads no more input. The rest is read and dropped, so that the client gets no error and does not
    /// block.
    async fn discard_input(self: &Arc<Self>, number: usize, input: Arc<Pump>) {
        let rest = input.discard_rest();
        self.advance(number, Stage::Copying(rest.clone()));
        // This drops the write end of the process's pipe, so it sees the end of its input.
        drop(input);
        rest.run().await;
        // If only the read end could be opened, the pump has reached an end, and the fifo stays open.
    }

    /// Runs when all of an output is copied.
    async fn finish_output(self: &Arc<Self>, number: usize, pump: Arc<Pump>) {
        if pump.kind() == Kind::Terminal {
            lock(&self.console).take();
        }
        let _ = self.exited.subscribe().wait_for(|&exited| exited).await;
        let Some(tail) = pump.unread().map(Arc::new) else {
            self.forget(number);
            drop(pump);
            return self.finished(Outputs { uncopied: 1, unread: 1 });
        };
        self.advance(number, Stage::Tail(tail.clone()));
        drop(pump);
        tail.become_reader();
        self.finished(Outputs { uncopied: 1, unread: 0 });
        tail.read_out().await;
        self.forget(number);
        drop(tail);
        self.finished(Outputs { uncopied: 0, unread: 1 });
    }

    /// Subtracts finished outputs from those that are left.
    fn finished(&self, done: Outputs) {
        self.outputs.send_modify(|left| {
            left.uncopied = left.uncopied.saturating_sub(done.uncopied);
            left.unread = left.unread.saturating_sub(done.unread);
        });
    }

    fn forget(&self, number: usize) {
        lock(&self.streams).retain(|stream| stream.number != number);
    }

    fn advance(&self, number: usize, stage: Stage) {
        if let Some(stream) = lock(&self.streams).iter_mut().find(|stream| stream.number == number) {
            stream.stage = stage;
        }
    }

    fn end(&self, kinds: &[Kind]) {
        for stream in &*lock(&self.streams) {
            if let Stage::Copying(pump) = &stream.stage
                && kinds.contains(&pump.kind())
            {
                pump.end();
            }
        }
    }

    fn unread(&self) -> bool {
        lock(&self.streams).iter().any(|stream| matches!(&stream.stage, Stage::Tail(tail) if tail.unread()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
