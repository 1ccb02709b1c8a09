//! Programs that log: `binary://` and `binary-v2://`.
//!
//! The program reads the container's stdout on descriptor 3 and stderr on 4, and says on 5 that it is ready. The
//! container writes straight into its pipes. The shim keeps the read ends, too: when the program dies, the container
//! gets no SIGPIPE and does not block, its output is read and lost.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_runtime::{Context, Error, Kind as ErrorKind, Result};
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::sync::watch as news;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::pump::{Kind, Link, Sink};
use super::uri::Program;
use crate::pool::Pool;
use crate::watch::watch;
use crate::{reap, sys};

/// How long the program may take to get ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may go on after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(12);
/// The descriptors the program finds its pipes on, in the order stdout, stderr, ready.
const FIRST_FD: i32 = 3;
/// Above every descriptor the program is given, so that putting one in place cannot close another.
const CLEAR_OF: i32 = 10;

/// A logging program that runs. Dropping it kills the program.
#[derive(Debug)]
pub struct Logger {
    pidfd: Arc<OwnedFd>,
    ended: news::Receiver<bool>,
    /// Reading of what the program no longer does.
    drains: Arc<Mutex<Vec<AbortHandle>>>,
}

/// The container's ends of the program's pipes.
#[derive(Debug)]
pub struct Ends {
    /// To be the process's stdout, or the terminal's copy.
    pub stdout: OwnedFd,
    /// To be the process's stderr.
    pub stderr: OwnedFd,
}

impl Logger {
    /// Starts the program for the process `id` and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be executed, does not get ready in time, or (`binary-v2`) ends without saying so. Nothing is left.
    pub async fn start(program: &Program, id: &str, namespace: &str, pool: &Pool) -> Result<(Self, Ends)> {
        let name = program.path.display().to_string();
        let what = || format!("start logging program {name}");
        let (stdout_read, stdout) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let (stderr_read, stderr) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC).with_context(what)?;
        let given = [raised(&stdout_read)?, raised(&stderr_read)?, raised(&ready_write)?];
        drop(ready_write);
        let command = Command::new(program, id, namespace)?;
        let flight = pool.children.flight();
        let (pid, pidfd) = pool.change(&flight, move || command.spawn(&given)).await.with_context(what)?;
        pool.children.adopt(&flight, pid);
        drop(flight);
        let (ended_at, ended) = news::channel(false);
        let logger = Self { pidfd: Arc::new(pidfd), ended, drains: Arc::default() };
        logger.watch(pid, pool, ended_at, [stdout_read, stderr_read]);
        match timeout(READY, said_ready(ready)).await {
            Ok(Ok(said)) if said || !program.must_say_ready => Ok((logger, Ends { stdout, stderr })),
            Ok(Ok(_)) => {
                Err(Error::new(ErrorKind::Internal, format!("logging program {name} ended before it was ready")))
            }
            Ok(Err(e)) => Err(e).with_context(what),
            Err(_) => {
                let text = format!("logging program {name} was not ready within {} s", READY.as_secs());
                Err(Error::new(ErrorKind::Internal, text))
            }
        }
    }

    /// Ends the program: SIGTERM, so that it can write out what it has, and SIGKILL after 12 s.
    pub async fn stop(&self) {
        let mut ended = self.ended.clone();
        for (signal, grace) in [(libc::SIGTERM, GRACE), (libc::SIGKILL, GRACE)] {
            let _ = sys::signal(self.pidfd.as_fd(), signal);
            if timeout(grace, ended.wait_for(|&ended| ended)).await.is_ok() {
                return;
            }
        }
    }

    /// Collects the program when it ends, and goes on reading its pipes.
    fn watch(&self, pid: i32, pool: &Pool, ended_at: news::Sender<bool>, pipes: [OwnedFd; 2]) {
        let (pidfd, drains, children) = (self.pidfd.clone(), self.drains.clone(), pool.children.clone());
        tokio::spawn(async move {
            reap::exited(&pidfd).await;
            children.forget(pid);
            // First the drains, then the news: who hears of the end may stop them.
            for pipe in pipes {
                if fcntl_setfl(&pipe, OFlags::NONBLOCK).is_ok() {
                    let task = tokio::spawn(async move { Link::new(Kind::Output, pipe, Sink::Nowhere).run().await });
                    drains.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
                }
            }
            ended_at.send_replace(true);
        });
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            let _ = sys::signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
        for drain in self.drains.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drain.abort();
        }
    }
}

/// What posix_spawn(3) is given, made before the pool's thread is entered.
struct Command {
    path: CString,
    args: Vec<CString>,
    env: [CString; 2],
}

impl Command {
    fn new(program: &Program, id: &str, namespace: &str) -> Result<Self> {
        let path = c_string(program.path.as_os_str().as_encoded_bytes())?;
        let mut args = vec![path.clone()];
        for arg in &program.args {
            args.push(c_string(arg.as_bytes())?);
        }
        let id = c_string(format!("CONTAINER_ID={id}").as_bytes())?;
        let namespace = c_string(format!("CONTAINER_NAMESPACE={namespace}").as_bytes())?;
        Ok(Self { path, args, env: [id, namespace] })
    }

    fn spawn(&self, given: &[OwnedFd; 3]) -> Result<(i32, OwnedFd)> {
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_open(0, c"/dev/null", OFlag::O_RDWR, Mode::empty())?;
        actions.add_dup2(0, 1)?;
        actions.add_dup2(0, 2)?;
        for (place, fd) in (FIRST_FD..).zip(given) {
            actions.add_dup2(fd.as_raw_fd(), place)?;
        }
        // The shim blocks the signals it reads by signalfd and ignores SIGPIPE; a program expects neither.
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        let pid = posix_spawn(self.path.as_c_str(), &actions, &attributes, &self.args, &self.env)?.as_raw();
        // It is not waited for yet, so its id cannot name another process.
        let pidfd =
            Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))?;
        Ok((pid, pidfd))
    }
}

async fn said_ready(pipe: OwnedFd) -> Result<bool> {
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

fn raised(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, CLEAR_OF).context("duplicate a pipe")
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::invalid("logging program: a zero byte in its path, arguments or environment"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::{Scratch, runtime};
    use std::path::PathBuf;

    /// A shell that is there already: a file that was just written may still be open for writing in a child that
    /// another test is about to make, and then cannot be executed (ETXTBSY).
    fn program(script: &str, must_say_ready: bool) -> Program {
        let args = ["-c", script, "logger", "key", "value"].map(Into::into);
        Program { path: PathBuf::from("/bin/sh"), args: args.to_vec(), must_say_ready }
    }

    #[test]
    fn it_gets_pipes_arguments_and_two_variables() {
        let dir = Scratch::new();
        let out = dir.path().join("out");
        let script = format!(
            "printf r >&5; exec 5>&-; {{ echo \"$1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE ${{HOME-unset}}\"; cat <&3; cat <&4; }} > {}",
            out.display()
        );
        let program = program(&script, true);
        runtime().block_on(async {
            let pool = Pool::default();
            let (logger, ends) = Logger::start(&program, "c1", "ns", &pool).await.unwrap();
            rustix::io::write(&ends.stdout, b"from stdout\n").unwrap();
            rustix::io::write(&ends.stderr, b"from stderr\n").unwrap();
            drop(ends);
            let mut ended = logger.ended.clone();
            timeout(GRACE, ended.wait_for(|&e| e)).await.unwrap().unwrap();
        });
        assert_eq!(std::fs::read_to_string(out).unwrap(), "key value c1 ns unset\nfrom stdout\nfrom stderr\n");
    }

    #[test]
    fn one_that_ends_unready_is_an_error_only_in_v2() {
        runtime().block_on(async {
            let pool = Pool::default();
            assert!(Logger::start(&program("exit 3", false), "c", "n", &pool).await.is_ok());
            let error = Logger::start(&program("exit 3", true), "c", "n", &pool).await.unwrap_err();
            assert!(error.to_string().contains("before it was ready"), "{error}");
        });
    }

    #[test]
    fn a_missing_program_is_named() {
        let program = Program { path: PathBuf::from("/nowhere/log"), args: vec![], must_say_ready: false };
        let error =
            runtime().block_on(async { Logger::start(&program, "c", "n", &Pool::default()).await.unwrap_err() });
        assert_eq!(error.to_string(), "start logging program /nowhere/log: no such file or directory");
    }

    #[test]
    fn output_is_read_on_when_it_dies() {
        runtime().block_on(async {
            let (logger, ends) = Logger::start(&program("exit 0", false), "c", "n", &Pool::default()).await.unwrap();
            let mut ended = logger.ended.clone();
            timeout(GRACE, ended.wait_for(|&e| e)).await.unwrap().unwrap();
            let writer = tokio::task::spawn_blocking(move || {
                for _ in 0..100 {
                    rustix::io::write(&ends.stdout, &[0; 10_000]).unwrap();
                }
            });
            timeout(GRACE, writer).await.unwrap().unwrap();
        });
    }

    #[test]
    fn stop_ends_it() {
        runtime().block_on(async {
            let (logger, _ends) =
                Logger::start(&program("exec 5>&-; exec sleep 60", false), "c", "n", &Pool::default()).await.unwrap();
            logger.stop().await;
            assert!(*logger.ended.borrow());
        });
    }
}
