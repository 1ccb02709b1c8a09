//! Logging programs: `binary://` and `binary-v2://`.
//!
//! The program reads the container's stdout on descriptor 3 and stderr on 4, and reports on 5 that it is ready. The
//! container writes straight into its pipes. The shim keeps the read ends open as well: when the program dies, the
//! container gets no SIGPIPE and does not block; the shim reads its output and drops it.
//!
//! The program starts with the limits and signal dispositions that the shim was started with. It should exit at the end
//! of its input, and gets a signal only if it does not.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_runtime::{Context, Error, Kind as ErrorKind, Result, program};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};
use tokio::{
    io::Interest,
    sync::watch as watch_channel,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    pump::{Kind, Pump, Sink},
    uri::Program,
};
use crate::{
    carry::{self, Adopter, Keeper},
    pool::Pool,
    reap,
    watch::watch,
};

/// The time that the program has to report that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The time that the program has to exit after SIGTERM, before it gets SIGKILL.
const SIGTERM_TIMEOUT: Duration = Duration::from_secs(12);
/// The time that the program has to read the rest of its input, while it reads.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that the program then has to exit by itself.
const OWN_EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The first and the longest pause between two checks of that.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// A running logging program. Dropping it kills the program.
#[derive(Debug)]
pub struct Logger {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    pipes: Arc<[Arc<OwnedFd>; 2]>,
    ended: watch_channel::Receiver<bool>,
    /// The tasks that read the pipes after the program's exit.
    drains: Arc<Mutex<Vec<AbortHandle>>>,
}

/// The container's ends of the program's pipes.
#[derive(Debug)]
pub struct Ends {
    /// For the process's stdout, or for the copy of the terminal.
    pub stdout: OwnedFd,
    /// For the process's stderr.
    pub stderr: OwnedFd,
}

impl Logger {
    /// Starts the program for the process `id` and waits until it is ready.
    ///
    /// # Errors
    /// The program cannot be executed, is not ready in time, or (`binary-v2`) exits before it is ready. It is killed
    /// then.
    pub async fn start(program: &Program, id: &str, namespace: &str, pool: &Pool) -> Result<(Self, Ends)> {
        let name = program.path.display().to_string();
        let what = || format!("start logging program {name}");
        let (stdout_read, stdout) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let (stderr_read, stderr) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let pipes = Arc::new([Arc::new(stdout_read), Arc::new(stderr_read)]);
        let command = Command::new(program, id, namespace, pipes.clone(), ready_write);
        let spawning = pool.children.begin_spawn();
        let (pid, pidfd) = pool.run(&spawning, move || command.start()).await.with_context(what)?;
        pool.children.register(&spawning, pid);
        drop(spawning);
        let (ended_at, ended) = watch_channel::channel(false);
        let logger = Self { pid, pidfd: Arc::new(pidfd), pipes, ended, drains: Arc::default() };
        logger.watch(pool, ended_at);
        match timeout(READY_TIMEOUT, wait_ready(ready)).await {
            Ok(Ok(said)) if said || !program.must_say_ready => Ok((logger, Ends { stdout, stderr })),
            Ok(Ok(_)) => {
                Err(Error::new(ErrorKind::Internal, format!("logging program {name} ended before it was ready")))
            }
            Ok(Err(e)) => Err(e).with_context(what),
            Err(_) => {
                let text = format!("logging program {name} was not ready within {} s", READY_TIMEOUT.as_secs());
                Err(Error::new(ErrorKind::Internal, text))
            }
        }
    }

    /// Ends the program. It gets time to read what was written and to exit by itself, then SIGTERM, and SIGKILL after
    /// 12 s.
    pub async fn stop(&self) {
        let mut ended = self.ended.clone();
        if self.wait_own_exit().await {
            return;
        }
        for (signal, grace) in [(libc::SIGTERM, SIGTERM_TIMEOUT), (libc::SIGKILL, SIGTERM_TIMEOUT)] {
            let _ = berth_runtime::send_signal(self.pidfd.as_fd(), signal);
            if timeout(grace, ended.wait_for(|&ended| ended)).await.is_ok() {
                return;
            }
        }
    }

    /// Waits for the program to exit by itself, while it reads or may still work on its input. Returns false if it does
    /// not.
    async fn wait_own_exit(&self) -> bool {
        let mut ended = self.ended.clone();
        let begin = Instant::now();
        let (mut pause, mut left, mut since) = (PAUSE.0, usize::MAX, begin);
        loop {
            if timeout(pause, ended.wait_for(|&ended| ended)).await.is_ok() {
                return true;
            }
            pause = (pause * 2).min(PAUSE.1);
            let unread = self.pipes.iter().map(|pipe| rustix::io::ioctl_fionread(pipe).unwrap_or(0)).sum::<u64>();
            let unread = usize::try_from(unread).unwrap_or(usize::MAX);
            if unread != left {
                (left, since) = (unread, Instant::now());
            }
            // Another process may hold a pipe open, so that the program never sees the end of its input.
            if (unread == 0 && !self.pipes.iter().all(|pipe| hung_up(pipe)))
                || since.elapsed() > OWN_EXIT_TIMEOUT
                || (unread > 0 && begin.elapsed() > READ_TIMEOUT)
            {
                return false;
            }
        }
    }

    /// Reaps the program when it exits, and reads its pipes from then on.
    fn watch(&self, pool: &Pool, ended_at: watch_channel::Sender<bool>) {
        let (pid, pidfd, drains, children) = (self.pid, self.pidfd.clone(), self.drains.clone(), pool.children.clone());
        let pipes = self.pipes.clone();
        tokio::spawn(async move {
            reap::wait_exit(&pidfd).await;
            children.unregister(pid);
            // The readers come first: a task that learns of the exit may stop them.
            drain(&pipes, &drains);
            ended_at.send_replace(true);
        });
    }

    /// The pid of the program, unless it has ended.
    pub fn running_pid(&self) -> Option<i32> {
        (!*self.ended.borrow()).then_some(self.pid)
    }

    /// Writes the program down.
    pub(super) fn carry(&self, keeper: &mut Keeper) -> Result<carry::Logger> {
        let Self { pid, pidfd, pipes, ended, drains: _ } = self;
        let [stdout, stderr] = &**pipes;
        Ok(carry::Logger {
            pid: *pid,
            pidfd: keeper.keep(pidfd)?,
            pipes: [keeper.keep(stdout)?, keeper.keep(stderr)?],
            ended: *ended.borrow(),
        })
    }

    /// Takes the program over.
    pub(super) fn adopt(logger: carry::Logger, adopter: &mut Adopter, pool: &Pool) -> Result<Self> {
        let carry::Logger { pid, pidfd, pipes: [stdout, stderr], ended } = logger;
        let pipes = Arc::new([adopter.share(stdout)?, adopter.share(stderr)?]);
        let (ended_at, watched) = watch_channel::channel(ended);
        let logger = Self { pid, pidfd: adopter.share(pidfd)?, pipes, ended: watched, drains: Arc::default() };
        if ended {
            drain(&logger.pipes, &logger.drains);
        } else {
            pool.children.register(&pool.children.begin_spawn(), pid);
            logger.watch(pool, ended_at);
        }
        Ok(logger)
    }
}

/// Reads and drops what comes through the pipes of a program that has ended.
fn drain(pipes: &[Arc<OwnedFd>; 2], drains: &Mutex<Vec<AbortHandle>>) {
    for pipe in pipes {
        if fcntl_setfl(pipe, OFlags::NONBLOCK).is_ok() {
            let pump = Pump::new(Kind::Output, pipe.clone(), Sink::Nowhere);
            let task = tokio::spawn(async move { pump.run().await });
            drains.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            let _ = berth_runtime::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
        for drain in self.drains.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drain.abort();
        }
    }
}

/// A program for the pool's thread to start.
struct Command {
    path: PathBuf,
    args: Vec<String>,
    env: [String; 2],
    pipes: Arc<[Arc<OwnedFd>; 2]>,
    ready: OwnedFd,
}

impl Command {
    fn new(program: &Program, id: &str, namespace: &str, pipes: Arc<[Arc<OwnedFd>; 2]>, ready: OwnedFd) -> Self {
        let env = [format!("CONTAINER_ID={id}"), format!("CONTAINER_NAMESPACE={namespace}")];
        Self { path: program.path.clone(), args: program.args.clone(), env, pipes, ready }
    }

    fn start(self) -> Result<(i32, OwnedFd)> {
        let null = super::null()?;
        let [stdout, stderr] = &*self.pipes;
        // The pipes become its descriptors 3, 4 and 5.
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), stdout.as_fd(), stderr.as_fd(), self.ready.as_fd()];
        program::start(&program::Program { path: &self.path, args: &self.args, env: &self.env, fds: &fds })
    }
}

/// Reports whether no process holds the other end.
fn hung_up(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}

async fn wait_ready(pipe: OwnedFd) -> Result<bool> {
    fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    let source = watch(pipe.as_fd(), Interest::READABLE)?;
    loop {
        let mut guard = source.readable().await?;
        match rustix::io::read(&pipe, &mut [0; 1]) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests;
