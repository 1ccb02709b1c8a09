//! One direction of copying: from a pipe, fifo or terminal into a fifo, pipe, terminal or file.
//!
//! Much is spliced: splice(2) moves pages from one pipe to the other, and nothing is kept in this process. Little is
//! copied through the stack: a page that is moved takes a whole place in the next pipe, however little is in it, so the
//! short lines of a container would fill its client's fifo long before its size; the kernel lets copies share pages.
//! A fifo that nobody reads is made larger once, so that a good deal fits while containerd is away. An idle stream costs
//! its descriptors and a small task, and what is in spawning is in the kernel.
//!
//! Files are written by a thread ([`worker`](super::worker)), since a disk may be slow; everything else is copied on the
//! loop, in turns that have an end, so that no stream takes the loop from the calls and the other streams.
//!
//! An output whose far end fails is read on and thrown away: the container must not block because a disk is full.

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

/// What one splice may move from a pipe: a pipe's default capacity, in bytes.
const SPLICE_CHUNK: usize = 64 * 1024;
/// From how many waiting bytes on they are moved and not copied: less would waste too much of the next pipe's places.
const SPLICE_THRESHOLD: u64 = 16 * 1024;
/// What is copied at a time, in bytes: PIPE_BUF, which a pipe that has any room takes whole (pipe(7)).
const COPY_CHUNK: usize = 4096;
/// The buffer for files, in bytes, on the stack of the call.
const FILE_CHUNK: usize = 8 * 1024;
/// What a fifo holds that was once full, in bytes. At worst each of its pages is half used (two that hold less than one
/// would share it), so what fits for certain is half of this, and the process's own pipe.
const FIFO_SIZE: usize = 256 * 1024;
/// How many times a stream moves something before others have their turn.
const STEPS_PER_TURN: usize = 16;
/// More than a terminal can hold for its reader, in bytes: the kernel's limit is 64 KiB, and a page in the line
/// discipline.
const TERMINAL_BUFFER_MAX: usize = 128 * 1024;
/// How long a stream waits that could not have a thread.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A client's fifo, both ends, non-blocking. When it is full, the source waits.
    Fifo(Arc<OwnedFd>),
    /// A pipe or terminal, non-blocking. When it is full, the source waits.
    Pipe(Arc<OwnedFd>),
    /// A file, which may block; what it refuses is lost.
    Append(OwnedFd),
    /// Read and forgotten.
    Nowhere,
}

/// What the bytes are to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard input: ends when nobody reads it any more.
    Input,
    /// What comes on standard input after that.
    Discard,
    /// Output by pipe: ends when the last process closed it.
    Output,
    /// Output by terminal: ends like a pipe, and when its process has exited and all it wrote is read.
    Terminal,
}

/// A pair of descriptors, and how to copy between them.
#[derive(Debug)]
pub struct Pump {
    from: Arc<OwnedFd>,
    sink: Sink,
    kind: Kind,
    ending: AtomicBool,
    wake: Notify,
    /// Read, and not written yet: only when something else writes into the sink as well.
    pending: Mutex<Vec<u8>>,
    worker: Worker,
}

/// How one attempt to copy went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// So many bytes.
    Moved(usize),
    /// So many bytes, and there are no more now.
    Last(usize),
    /// Nothing to read now.
    Empty,
    /// No room to write now.
    Full,
    /// The last byte went before this.
    End,
}

impl Pump {
    /// `from` must not block.
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

    /// What the bytes are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The writer is gone: what is there is still copied, and nothing is waited for after it. Input ends at once.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// What is left in the client's fifo.
    pub fn unread(&self) -> Option<Tail> {
        let Sink::Fifo(to) = &self.sink else { return None };
        Tail::of(to)
    }

    /// A pump that reads what still comes from the same fifo and forgets it. It holds both ends, so it has no end.
    pub fn discard_rest(&self) -> Arc<Self> {
        let both = reopen(&self.from, OFlags::RDWR).map_or_else(|_| self.from.clone(), Arc::new);
        Self::new(Kind::Discard, both, Sink::Nowhere)
    }

    /// Copies until the end.
    pub async fn run(self: &Arc<Self>) {
        let source = match watch(self.from.as_fd(), Interest::READABLE) {
            Ok(source) => source,
            Err(e) => return log::warn!("copy stdio: watch source: {e}"),
        };
        let (mut moves, mut much, mut left) = (0, false, usize::MAX);
        loop {
            // Once the end is told, nothing wakes us any more but our own asking.
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
                    // The maker of the room may be a task beside this one.
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

    /// How much may still be on its way from a writer that is gone. What others write after it is not waited for.
    fn bytes_in_flight(&self) -> usize {
        match self.kind {
            Kind::Terminal => TERMINAL_BUFFER_MAX,
            _ => ioctl_fionread(&*self.from).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
        }
    }

    /// Waits until the sink takes more, or fails, or the input is at its end. It is watched only while it is full.
    async fn wait_writable(&self) {
        let (Sink::Pipe(to) | Sink::Fifo(to)) = &self.sink else { return };
        // epoll(7) takes a descriptor once, and a terminal's is watched for its output.
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

    /// Output: little is copied, much is spliced.
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
                // A terminal gives a line at a time.
                if n < size && self.kind == Kind::Output { Step::Last(n) } else { Step::Moved(n) }
            }
            Err(step) => step,
        }
    }

    /// Writes what was read before. True when nothing is left of it.
    fn flush(&self, to: &OwnedFd) -> bool {
        let mut pending = self.pending();
        if !pending.is_empty() {
            *pending = write_some(to, &pending).to_vec();
        }
        pending.is_empty()
    }

    /// Makes a client's fifo larger. True when it is.
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
            // A terminal whose other side is closed, among others.
            Err(_) => Err(Step::End),
        }
    }

    /// A turn of copying into a file, on a thread.
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
                // The same is found again at the next turn.
                _ if moved > 0 => break,
                Ok(_) => return Step::End,
                Err(step) => return step,
            }
        }
        Step::Moved(moved)
    }

    /// There is something to read, be it the end: then it is the sink that had no room. A source that has hung up stays
    /// ready for ever, and a wait for it would be none.
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

/// Writes what there is room for, and gives the rest. What the other side refuses is lost.
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
