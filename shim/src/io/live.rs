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

use berth_runtime::Result;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout},
};

use super::{
    logger::Logger,
    pump::{Kind, Pump},
    tail::Tail,
};
use crate::{
    carry::{self, Adopter, Keeper},
    pool::Pool,
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
    linger: Mutex<Option<Linger>>,
    console: Mutex<Option<Arc<OwnedFd>>>,
    logger: Option<Logger>,
}

/// The task that cuts off the streams that are left after the exit, and its time.
#[derive(Debug)]
struct Linger {
    end: Instant,
    task: AbortHandle,
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

    /// The pid of the logging program that runs.
    pub fn logger_pid(&self) -> Option<i32> {
        self.logger.as_ref().and_then(Logger::running_pid)
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
            self.begin_linger(LINGER);
        }
    }

    fn begin_linger(self: &Arc<Self>, time: Duration) {
        let io = self.clone();
        let task = tokio::spawn(async move { io.linger(time).await });
        *lock(&self.linger) = Some(Linger { end: Instant::now() + time, task: task.abort_handle() });
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
            linger.task.abort();
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
                Kind::Discard => {}
                Kind::Output | Kind::Terminal => io.finish_output(number, pump).await,
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
        self.read_out(number, tail).await;
    }

    async fn read_out(&self, number: usize, tail: Arc<Tail>) {
        tail.read_out().await;
        self.forget(number);
        drop(tail);
        self.finished(Outputs { uncopied: 0, unread: 1 });
    }

    /// Writes the stdio down.
    ///
    /// # Errors
    /// A descriptor cannot be examined.
    pub fn carry(&self, keeper: &mut Keeper) -> Result<carry::Io> {
        let Self { writer, streams, outputs, exited, linger, console, logger } = self;
        let mut carried = Vec::new();
        for Stream { number, stage, task: _ } in &*lock(streams) {
            let stage = match stage {
                Stage::Copying(pump) => carry::Stage::Copying(pump.carry(keeper)?),
                Stage::Tail(tail) => carry::Stage::Tail(tail.carry(keeper)?),
            };
            carried.push(carry::Stream { number: *number, stage });
        }
        let Outputs { uncopied, unread } = *outputs.borrow();
        let left = |linger: &Linger| linger.end.saturating_duration_since(Instant::now()).as_millis();
        Ok(carry::Io {
            writer: keeper.keep_some(lock(writer).as_ref())?,
            streams: carried,
            uncopied,
            unread,
            exited: *exited.borrow(),
            linger: lock(linger).as_ref().map(left).map(|left| u64::try_from(left).unwrap_or(u64::MAX)),
            console: keeper.keep_some(lock(console).as_ref())?,
            logger: logger.as_ref().map(|logger| logger.carry(keeper)).transpose()?,
        })
    }

    /// Makes the stdio again, and goes on with the copying.
    ///
    /// # Errors
    /// The document names a descriptor twice.
    pub fn adopt(io: carry::Io, adopter: &mut Adopter, pool: &Pool) -> Result<Arc<Self>> {
        let carry::Io { writer, streams, uncopied, unread, exited, linger, console, logger } = io;
        let io = Arc::new(Self {
            writer: Mutex::new(writer.map(|fd| adopter.take(fd)).transpose()?),
            streams: Mutex::default(),
            outputs: watch::Sender::new(Outputs { uncopied, unread }),
            exited: watch::Sender::new(exited),
            linger: Mutex::default(),
            console: Mutex::new(console.map(|fd| adopter.share(fd)).transpose()?),
            logger: logger.map(|logger| Logger::adopt(logger, adopter, pool)).transpose()?,
        });
        for carry::Stream { number, stage } in streams {
            match stage {
                carry::Stage::Copying(pump) => io.spawn(number, Pump::adopt(pump, adopter)?),
                carry::Stage::Tail(tail) => {
                    let (owner, tail) = (io.clone(), Arc::new(Tail::adopt(tail, adopter)?));
                    let stage = Stage::Tail(tail.clone());
                    let task = tokio::spawn(async move { owner.read_out(number, tail).await });
                    lock(&io.streams).push(Stream { number, stage, task });
                }
            }
        }
        if let Some(left) = linger {
            io.begin_linger(Duration::from_millis(left));
        }
        Ok(io)
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
