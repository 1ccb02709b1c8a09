//! Copies in one direction: from a pipe, fifo or terminal to a fifo, pipe, terminal or file.
//!
//! Large amounts are spliced: splice(2) moves pages from pipe to pipe, and this process keeps none of them. Small
//! amounts are copied through the stack. A spliced page takes a whole slot of the next pipe, however little it holds,
//! so the short lines of a container would fill the client's fifo long before its size; the kernel lets copied data
//! share pages. A fifo that is full is enlarged once, so that more fits while containerd is away. An idle stream costs
//! its descriptors and a small task; data on its way is in the kernel.
//!
//! A thread ([`worker`](super::worker)) writes files, since a disk may be slow. All else is copied on the event loop,
//! in bounded turns, so that no stream keeps the loop from calls and other streams.
//!
//! If the sink of an output fails, the output is read and dropped: a full disk must not block the container.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::{Errno, ioctl_fionread},
    pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice},
};
use tokio::{io::Interest, sync::Notify};

use super::{fifo::reopen, tail::Tail, worker::Worker};
use crate::watch::watch;

mod carried;

/// The maximal number of bytes that one splice moves: the default capacity of a pipe.
const SPLICE_CHUNK: usize = 64 * 1024;
/// The number of waiting bytes from which on they are spliced. A splice of fewer would waste slots of the next pipe.
const SPLICE_THRESHOLD: u64 = 16 * 1024;
/// The number of bytes that one copy moves: PIPE_BUF, which a writable pipe takes whole (pipe(7)).
const COPY_CHUNK: usize = 4096;
/// The buffer for files, in bytes. It is on the stack.
const FILE_CHUNK: usize = 8 * 1024;
/// The size of a fifo after it was full once, in bytes. At worst each of its pages is half used, since two pieces that
/// fit in one page share it. So half of this fits for certain, and the process's own pipe.
const FIFO_SIZE: usize = 256 * 1024;
/// The number of steps that a stream makes before it yields.
const STEPS_PER_TURN: usize = 16;
/// More bytes than a terminal holds for its reader: the kernel's limit is 64 KiB and one page in the line discipline.
const TERMINAL_BUFFER_MAX: usize = 128 * 1024;
/// The pause of a stream that gets no thread.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The sink of the bytes.
#[derive(Debug)]
pub enum Sink {
    /// A client's fifo, open at both ends, non-blocking. While it is full, the source is not read.
    Fifo(Arc<OwnedFd>),
    /// A pipe or terminal, non-blocking. While it is full, the source is not read.
    Pipe(Arc<OwnedFd>),
    /// A file. A write may block; data that it refuses is lost.
    Append(OwnedFd),
    /// The bytes are dropped.
    Nowhere,
}

/// The role of the bytes for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard input. It ends when the process reads no more.
    Input,
    /// Standard input after that.
    Discard,
    /// Output through a pipe. It ends when the last writer has closed it.
    Output,
    /// Output through a terminal. It ends as a pipe does, or when the process has exited and its output is read.
    Terminal,
}

/// A source and a sink, and the copying between them.
#[derive(Debug)]
pub struct Pump {
    from: Arc<OwnedFd>,
    sink: Sink,
    kind: Kind,
    ending: AtomicBool,
    wake: Notify,
    /// Bytes that are read and not written yet. There are none unless another stream writes to the same sink.
    pending: Mutex<Vec<u8>>,
    worker: Worker,
}

/// The result of one attempt to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// This many bytes were copied.
    Moved(usize),
    /// This many bytes were copied, and no more wait.
    Last(usize),
    /// No bytes wait.
    Empty,
    /// The sink is full.
    Full,
    /// The source is at its end.
    End,
}

impl Pump {
    /// Makes a pump. `from` must not block.
    pub fn new(kind: Kind, from: impl Into<Arc<OwnedFd>>, sink: Sink) -> Arc<Self> {
        Arc::new(Self {
            from: from.into(),
            sink,
            kind,
            ending: AtomicBool::new(false),
            wake: Notify::new(),
            pending: Mutex::default(),
            worker: Worker::default(),
        })
    }

    /// The role of the bytes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The writer is gone: the waiting bytes are still copied, and later ones are not waited for. Input ends at once.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// The client's fifo, if it has content.
    pub fn unread(&self) -> Option<Tail> {
        let Sink::Fifo(to) = &self.sink else { return None };
        Tail::of(to)
    }

    /// Makes a pump that reads the same fifo and drops the bytes. It holds both ends, so it never ends.
    pub fn discard_rest(&self) -> Arc<Self> {
        let both = reopen(&self.from, OFlags::RDWR).map_or_else(|_| self.from.clone(), Arc::new);
        Self::new(Kind::Discard, both, Sink::Nowhere)
    }

    /// Copies until the end.
    pub async fn run(self: &Arc<Self>) {
        let source = match watch(self.from.as_fd(), Interest::READABLE) {
            Ok(source) => source,
            Err(e) => return log::warn!("copy stdio: watch the source: {e}"),
        };
        let (mut moves, mut much, mut left) = (0, false, usize::MAX);
        loop {
            // After `end` no event wakes this task, so it asks again by itself.
            let ending = self.ending.load(Ordering::Relaxed);
            let mut guard = match ending {
                true => None,
                false => tokio::select! {
                    biased;
                    guard = source.readable() => guard.ok(),
                    () = self.wake.notified() => continue,
                },
            };
            if ending && self.kind == Kind::Input {
                return;
            }
            if ending && left == usize::MAX {
                left = self.bytes_in_flight();
            }
            let step = match &self.sink {
                Sink::Append(_) => self.step_on_thread(left).await,
                _ => self.step(left, much),
            };
            match step {
                Step::End => return,
                Step::Empty if guard.is_none() => return,
                Step::Empty => guard.iter_mut().for_each(tokio::io::unix::AsyncFdReadyGuard::clear_ready),
                Step::Full => {
                    self.wait_writable().await;
                    // The reader of the sink may be another task of this process.
                    tokio::task::yield_now().await;
                }
                Step::Moved(n) | Step::Last(n) => {
                    much = n >= COPY_CHUNK;
                    moves += 1;
                    if ending {
                        left = left.saturating_sub(n);
                    }
                    if matches!(step, Step::Last(_)) {
                        guard.iter_mut().for_each(tokio::io::unix::AsyncFdReadyGuard::clear_ready);
                    }
                    if ending || moves % STEPS_PER_TURN == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// The number of bytes that an exited writer may have on their way. The pump does not wait for later bytes of
    /// others.
    fn bytes_in_flight(&self) -> usize {
        match self.kind {
            Kind::Terminal => TERMINAL_BUFFER_MAX,
            _ => ioctl_fionread(&*self.from).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
        }
    }

    /// Waits until the sink is writable, or fails, or the input ends. The sink is watched only while it is full.
    async fn wait_writable(&self) {
        let (Sink::Pipe(to) | Sink::Fifo(to)) = &self.sink else { return };
        // epoll(7) takes a descriptor once, and the terminal's is watched for its output already.
        let again = (self.kind == Kind::Input).then(|| to.try_clone().ok()).flatten();
        let Ok(to) = watch(again.as_ref().unwrap_or(to).as_fd(), Interest::WRITABLE) else {
            return tokio::time::sleep(RETRY_DELAY).await;
        };
        if self.kind != Kind::Input {
            let _ = to.writable().await;
            return;
        }
        tokio::select! {
            _ = to.writable() => {}
            () = self.wake.notified() => {}
        }
    }

    fn step(&self, left: usize, much: bool) -> Step {
        match &self.sink {
            Sink::Pipe(to) if self.kind == Kind::Input => self.splice(to, SPLICE_CHUNK),
            Sink::Pipe(to) | Sink::Fifo(to) => self.output(to, left, much),
            Sink::Append(_) | Sink::Nowhere => self.discard(left),
        }
    }

    /// Copies a little output, or splices much.
    fn output(&self, to: &OwnedFd, left: usize, much: bool) -> Step {
        let mut fds = [PollFd::new(&*self.from, PollFlags::IN), PollFd::new(to, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now)).is_err() {
            return Step::Moved(0);
        }
        let [from, sink] = fds.each_ref().map(PollFd::revents);
        if sink.is_empty() {
            return if self.enlarge(to) { Step::Moved(0) } else { Step::Full };
        }
        if !self.flush(to) {
            return Step::Full;
        }
        if from.is_empty() {
            return Step::Empty;
        }
        let spliced = self.kind == Kind::Output && much && left > SPLICE_CHUNK;
        if spliced && ioctl_fionread(&*self.from).is_ok_and(|waiting| waiting >= SPLICE_THRESHOLD) {
            return self.splice(to, SPLICE_CHUNK);
        }
        let mut buffer = [0; COPY_CHUNK];
        let size = COPY_CHUNK.min(left);
        match self.read(buffer.get_mut(..size).unwrap_or_default()) {
            Ok(0) => Step::End,
            Ok(n) => {
                let rest = write_some(to, buffer.get(..n).unwrap_or_default());
                if !rest.is_empty() {
                    self.pending().extend_from_slice(rest);
                }
                // One read of a terminal returns one line.
                if n < size && self.kind == Kind::Output { Step::Last(n) } else { Step::Moved(n) }
            }
            Err(step) => step,
        }
    }

    /// Writes the pending bytes. Returns true when none are left.
    fn flush(&self, to: &OwnedFd) -> bool {
        let mut pending = self.pending();
        if !pending.is_empty() {
            *pending = write_some(to, &pending).to_vec();
        }
        pending.is_empty()
    }

    /// Enlarges a client's fifo. Returns true if it has grown.
    fn enlarge(&self, to: &OwnedFd) -> bool {
        matches!(self.sink, Sink::Fifo(_))
            && fcntl_getpipe_size(to).is_ok_and(|size| size < FIFO_SIZE)
            && fcntl_setpipe_size(to, FIFO_SIZE).is_ok()
    }

    fn splice(&self, to: &OwnedFd, chunk: usize) -> Step {
        match splice(&*self.from, None, to, None, chunk, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => Step::End,
            Ok(n) => Step::Moved(n),
            Err(Errno::INTR) => Step::Moved(0),
            Err(Errno::AGAIN) if self.has_input() => Step::Full,
            Err(Errno::AGAIN) => Step::Empty,
            Err(_) if self.kind == Kind::Input => Step::End,
            Err(_) => self.discard(chunk),
        }
    }

    fn discard(&self, left: usize) -> Step {
        match self.read([0; FILE_CHUNK].get_mut(..FILE_CHUNK.min(left)).unwrap_or_default()) {
            Ok(0) => Step::End,
            Ok(n) => Step::Moved(n),
            Err(step) => step,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Step> {
        match rustix::io::read(&*self.from, buffer) {
            Ok(n) => Ok(n),
            Err(Errno::INTR) => Err(Step::Moved(0)),
            Err(Errno::AGAIN) => Err(Step::Empty),
            // EIO among others: the slave of the terminal is closed.
            Err(_) => Err(Step::End),
        }
    }

    /// Copies to a file on the thread, one turn.
    async fn step_on_thread(self: &Arc<Self>, left: usize) -> Step {
        let pump = self.clone();
        match self.worker.run(move || pump.write_file(left)).await {
            Some(step) => step,
            None => {
                tokio::time::sleep(RETRY_DELAY).await;
                Step::Moved(0)
            }
        }
    }

    fn write_file(&self, left: usize) -> Step {
        let mut moved = 0;
        for _ in 0..STEPS_PER_TURN {
            let mut buffer = [0; FILE_CHUNK];
            let size = FILE_CHUNK.min(left.saturating_sub(moved));
            match self.read(buffer.get_mut(..size).unwrap_or_default()) {
                Ok(n) if n > 0 => {
                    if let Sink::Append(file) = &self.sink {
                        write_all(file, buffer.get(..n).unwrap_or_default());
                    }
                    moved += n;
                    if moved >= left {
                        break;
                    }
                }
                // The next turn finds the same.
                _ if moved > 0 => break,
                Ok(_) => return Step::End,
                Err(step) => return step,
            }
        }
        Step::Moved(moved)
    }

    /// Reports whether bytes or an end of file wait; then the sink was full. A source that has hung up stays ready, so
    /// waiting for it would spin.
    fn has_input(&self) -> bool {
        let mut fds = [PollFd::new(&*self.from, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().intersects(ready))
    }

    fn pending(&self) -> MutexGuard<'_, Vec<u8>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the sink is full; returns the rest. Bytes that the sink refuses are lost.
fn write_some<'a>(to: &OwnedFd, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return bytes,
            Err(_) => return &[],
        }
    }
    bytes
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(n) if n > 0 => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests;
