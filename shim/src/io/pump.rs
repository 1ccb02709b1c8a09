//! One direction of copying: from a pipe, fifo or terminal into a fifo, pipe, terminal or file.
//!
//! splice(2) moves pages from one pipe to the other, so nothing is kept in this process: an idle stream costs its
//! descriptors and a small task, and what is in flight is in the kernel, where it survives whatever becomes of the task.
//! Into files it cannot go (splice refuses `O_APPEND`): there a buffer on the stack serves.
//!
//! An output whose far end fails is read on and thrown away: the container must not block because a disk is full.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::watch::watch;

/// What one splice may move from a pipe: a pipe's default capacity, in bytes.
const PIPE_CHUNK: usize = 64 * 1024;
/// What one splice may move from a terminal, in bytes; the kernel sets up pages for as much, whatever it finds.
const TERMINAL_CHUNK: usize = 4096;
/// The buffer for files, in bytes, on the stack of the call.
const BUFFER: usize = 8 * 1024;

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A fifo, pipe or terminal, non-blocking. When it is full, the source waits.
    Pipe(Arc<OwnedFd>),
    /// A file; what it refuses is lost.
    Append(OwnedFd),
    /// Read and forgotten.
    Nowhere,
}

/// What the bytes are to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard input: ends when nobody reads it any more.
    Input,
    /// Output by pipe: ends when the last process closed it.
    Output,
    /// Output by terminal: ends like a pipe, and when its process has exited and all it wrote is read.
    Terminal,
}

/// A pair of descriptors, and how to copy between them.
#[derive(Debug)]
pub struct Link {
    from: Arc<OwnedFd>,
    sink: Sink,
    kind: Kind,
    ending: AtomicBool,
    wake: Notify,
}

/// How one attempt to copy went.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Moved,
    /// Nothing to read now.
    Empty,
    /// No room to write now.
    Full,
    /// The last byte went before this.
    End,
}

impl Link {
    /// `from` must not block.
    pub fn new(kind: Kind, from: impl Into<Arc<OwnedFd>>, sink: Sink) -> Self {
        Self { from: from.into(), sink, kind, ending: AtomicBool::new(false), wake: Notify::new() }
    }

    /// What the bytes are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The writer is gone: what is there is still copied, and nothing is waited for after it.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A reader on the pipe that output went into, by which to see when the client has read it all. It holds no write
    /// end, so the client sees the end as soon as this link is dropped.
    pub fn tail(&self) -> Option<OwnedFd> {
        let Sink::Pipe(to) = &self.sink else { return None };
        if self.kind == Kind::Input {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/self/fd/{}", to.as_raw_fd()), flags, Mode::empty()).ok()
    }

    /// Copies until the end.
    pub async fn run(&self) {
        let source = match watch(self.from.as_fd(), Interest::READABLE) {
            Ok(source) => source,
            Err(e) => return log::warn!("copy stdio: watch source: {e}"),
        };
        loop {
            // Once the end is told, nothing wakes us any more but our own asking.
            let mut guard = match self.ending.load(Ordering::Relaxed) {
                true => None,
                false => tokio::select! {
                    biased;
                    guard = source.readable() => guard.ok(),
                    () = self.wake.notified() => continue,
                },
            };
            match (self.step(), &mut guard) {
                (Step::End, _) | (Step::Empty, None) => return,
                (Step::Moved, Some(_)) => {}
                (Step::Moved, None) => tokio::task::yield_now().await,
                (Step::Empty, Some(guard)) => guard.clear_ready(),
                (Step::Full, _) => {
                    self.room().await;
                    // Whoever makes room may be a task beside this one.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Waits until the sink takes more, or fails. It is watched only while it is full.
    async fn room(&self) {
        let Sink::Pipe(to) = &self.sink else { return };
        // epoll(7) takes a descriptor once, and a terminal's is watched for its output.
        let again = (self.kind == Kind::Input).then(|| to.try_clone().ok()).flatten();
        if let Ok(to) = watch(again.as_ref().unwrap_or(to).as_fd(), Interest::WRITABLE) {
            let _ = to.writable().await;
        }
    }

    fn step(&self) -> Step {
        let Sink::Pipe(to) = &self.sink else { return self.step_by_hand() };
        let chunk = if self.kind == Kind::Terminal { TERMINAL_CHUNK } else { PIPE_CHUNK };
        match splice(&*self.from, None, &**to, None, chunk, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => Step::End,
            Ok(_) | Err(Errno::INTR) => Step::Moved,
            Err(Errno::AGAIN) if self.has_input() => Step::Full,
            Err(Errno::AGAIN) => Step::Empty,
            // A terminal whose other side is closed.
            Err(Errno::IO) if self.kind == Kind::Terminal => Step::End,
            Err(_) if self.kind == Kind::Input => Step::End,
            Err(_) => self.step_by_hand(),
        }
    }

    fn step_by_hand(&self) -> Step {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(&*self.from, &mut buffer) {
            Ok(0) => Step::End,
            Ok(n) => {
                if let Sink::Append(file) = &self.sink {
                    write_all(file, buffer.get(..n).unwrap_or_default());
                }
                Step::Moved
            }
            Err(Errno::INTR) => Step::Moved,
            Err(Errno::AGAIN) => Step::Empty,
            Err(_) => Step::End,
        }
    }

    /// There is something to read, be it the end: then it is the sink that had no room. A source that has hung up stays
    /// ready for ever, and a wait for it would be none.
    fn has_input(&self) -> bool {
        let mut fds = [PollFd::new(&*self.from, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().intersects(ready))
    }
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
mod tests {
    use super::*;
    use crate::io::testing::{Scratch, pipe, pty, runtime};
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(60);

    fn nonblocking(fd: &OwnedFd) {
        rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK).unwrap();
    }

    fn read_available(fd: &OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(n) = rustix::io::read(fd, &mut buf) {
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buf[..n]);
        }
        all
    }

    #[test]
    fn pipe_to_pipe_until_the_last_writer_closes() {
        let ((r1, w1), (r2, w2)) = (pipe(), pipe());
        nonblocking(&r1);
        nonblocking(&r2);
        rustix::io::write(&w1, b"all of it").unwrap();
        drop(w1);
        runtime()
            .block_on(async { timeout(SOON, Link::new(Kind::Output, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
        assert_eq!(read_available(&r2), b"all of it");
    }

    #[test]
    fn a_full_sink_holds_the_source_and_loses_nothing() {
        let ((r1, w1), (r2, w2)) = (pipe(), pipe());
        for fd in [&r1, &w1, &r2, &w2] {
            nonblocking(fd);
        }
        runtime().block_on(async {
            let link = Arc::new(Link::new(Kind::Output, r1, Sink::Pipe(w2.into())));
            let task = tokio::spawn({
                let link = link.clone();
                async move { link.run().await }
            });
            drop(link);
            let mut sent = Vec::new();
            let mut got = Vec::new();
            for round in 0..200u8 {
                let chunk = [round; 3000];
                while rustix::io::write(&w1, &chunk).is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    got.extend(read_available(&r2));
                }
                sent.extend_from_slice(&chunk);
            }
            drop(w1);
            while !task.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                got.extend(read_available(&r2));
            }
            got.extend(read_available(&r2));
            assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        });
    }

    #[test]
    fn a_full_sink_at_the_end_starves_nobody() {
        let (r1, w1) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (r2, w2) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        while rustix::io::write(&w2, &[0; 4096]).is_ok() {}
        drop(w1);
        runtime().block_on(async {
            let link = Arc::new(Link::new(Kind::Output, r1, Sink::Pipe(w2.into())));
            let task = tokio::spawn(async move { link.run().await });
            // A link that waited in a circle would never let this be reached.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!task.is_finished());
            while rustix::io::read(&r2, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
            timeout(SOON, task).await.unwrap().unwrap();
        });
    }

    #[test]
    fn a_failed_sink_is_drained() {
        let ((r1, w1), (r2, w2)) = (pipe(), pipe());
        nonblocking(&r1);
        drop(r2);
        rustix::io::write(&w1, &[0; 30_000]).unwrap();
        drop(w1);
        runtime()
            .block_on(async { timeout(SOON, Link::new(Kind::Output, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
    }

    #[test]
    fn input_ends_when_nobody_reads() {
        let ((r1, w1), (r2, w2)) = (pipe(), pipe());
        nonblocking(&r1);
        drop(r2);
        rustix::io::write(&w1, b"x").unwrap();
        runtime()
            .block_on(async { timeout(SOON, Link::new(Kind::Input, r1, Sink::Pipe(w2.into())).run()).await.unwrap() });
    }

    #[test]
    fn two_streams_append_to_one_file() {
        let dir = Scratch::new();
        let path = dir.path().join("log");
        for text in [&b"one\n"[..], b"two\n"] {
            let (r, w) = pipe();
            nonblocking(&r);
            rustix::io::write(&w, text).unwrap();
            drop(w);
            let sink = Sink::Append(crate::io::fifo::open_file(&path).unwrap());
            runtime().block_on(Link::new(Kind::Output, r, sink).run());
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_full_disk_does_not_stop_the_reader() {
        let (r, w) = pipe();
        nonblocking(&r);
        rustix::io::write(&w, &[0; 60_000]).unwrap();
        drop(w);
        let full = rustix::fs::open("/dev/full", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap();
        runtime()
            .block_on(async { timeout(SOON, Link::new(Kind::Output, r, Sink::Append(full)).run()).await.unwrap() });
    }

    #[test]
    fn a_terminal_is_read_to_the_end_after_its_process_is_gone() {
        let (master, slave) = pty();
        let (r, w) = pipe();
        nonblocking(&master);
        nonblocking(&r);
        nonblocking(&w);
        runtime().block_on(async {
            let link = Arc::new(Link::new(Kind::Terminal, master, Sink::Pipe(w.into())));
            let task = tokio::spawn({
                let link = link.clone();
                async move { link.run().await }
            });
            rustix::io::write(&slave, &[b'x'; 3000]).unwrap();
            tokio::task::yield_now().await;
            // A grandchild holds the terminal open: the end is told, not seen.
            link.end();
            timeout(SOON, task).await.unwrap().unwrap();
        });
        assert_eq!(read_available(&r).len(), 3000);
        assert!(slave.as_raw_fd() >= 0);
    }

    #[test]
    fn a_terminal_ends_when_its_other_side_is_closed() {
        let (master, slave) = pty();
        let (r, w) = pipe();
        nonblocking(&master);
        nonblocking(&r);
        rustix::io::write(&slave, b"bye").unwrap();
        drop(slave);
        runtime().block_on(async {
            timeout(SOON, Link::new(Kind::Terminal, master, Sink::Pipe(w.into())).run()).await.unwrap()
        });
        assert_eq!(read_available(&r), b"bye");
    }

    #[test]
    fn input_reaches_a_terminal() {
        let (master, slave) = pty();
        let (r, w) = pipe();
        nonblocking(&r);
        nonblocking(&master);
        rustix::io::write(&w, b"typed\n").unwrap();
        drop(w);
        let master = Arc::new(master);
        runtime().block_on(async {
            timeout(SOON, Link::new(Kind::Input, r, Sink::Pipe(master.clone())).run()).await.unwrap()
        });
        let mut buf = [0; 16];
        let n = rustix::io::read(&slave, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"typed\n");
    }

    #[test]
    fn a_terminal_is_read_while_it_takes_no_more() {
        let (master, slave) = pty();
        let ((typed, keys), (shown, screen)) = (pipe(), pipe());
        for fd in [&master, &slave, &typed, &shown] {
            nonblocking(fd);
        }
        // No echo, no lines: bytes as they are.
        let mut raw = rustix::termios::tcgetattr(&slave).unwrap();
        raw.make_raw();
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &raw).unwrap();
        rustix::io::write(&keys, &[b'k'; 60_000]).unwrap();
        drop(keys);
        runtime().block_on(async {
            let master = Arc::new(master);
            let output = Arc::new(Link::new(Kind::Terminal, master.clone(), Sink::Pipe(screen.into())));
            let output = tokio::spawn(async move { output.run().await });
            let input = tokio::spawn(async move { Link::new(Kind::Input, typed, Sink::Pipe(master)).run().await });
            // Nobody reads what was typed, and it is more than the terminal holds.
            rustix::io::write(&slave, b"said").unwrap();
            let mut said = Vec::new();
            while said.len() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                said.extend(read_available(&shown));
            }
            assert!(said == b"said" && !input.is_finished());
            let mut got = 0;
            while got < 60_000 {
                got += read_available(&slave).len();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            timeout(SOON, input).await.unwrap().unwrap();
            output.abort();
        });
    }
}
