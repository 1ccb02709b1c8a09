//! The wait of a foreground `run` or `exec`: signals go on to the process, its exit status comes back.
//!
//! Everything is blocked and read from a signalfd, so that a signal that comes while the container is being made
//! waits for it instead of ending us half way. The container starts with nothing blocked (berth-init sees to it).

use std::os::fd::{AsFd, BorrowedFd};

use berth_runtime::{Context, Error, Result};
use nix::sys::{
    signal::SigSet,
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
};

use super::{sd_notify::Relay, stdio::Streams, sys};

/// All signals of this process, queued.
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks and queues them. To be called before any thread is started, for threads inherit the mask.
    ///
    /// # Errors
    /// Those of sigaction(2), sigprocmask(2) and signalfd(2).
    pub fn take() -> Result<Self> {
        sys::default_sigchld().context("reset SIGCHLD")?;
        let all = SigSet::all();
        all.thread_block().context("block signals")?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")?;
        Ok(Self { fd })
    }

    /// Forwards signals to the process of `pidfd`, resizes its terminal, reaps whatever else ends below us, and
    /// returns the process' exit status: its code, or 128 and the signal that ended it. By `relay` the service manager hears
    /// when the container is ready; the main process of the service is this one.
    ///
    /// # Errors
    /// Those of poll(2) and wait4(2), and a process that somebody else has reaped.
    pub fn forward(
        &self,
        (pid, pidfd): (i32, BorrowedFd<'_>),
        streams: &Streams,
        mut relay: Option<&mut Relay>,
    ) -> Result<i32> {
        loop {
            // Nobody to relay for: the process once more.
            let notice = relay.as_ref().and_then(|relay| relay.fd()).unwrap_or(pidfd);
            let mut fds = [self.fd.as_fd(), pidfd, notice].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::from(e).context("poll")),
            }
            let [_, process, _] = &fds;
            let gone = process.revents().contains(PollFlags::IN);
            if let Some(relay) = &mut relay {
                relay.pass_on(Pid::as_raw(Some(rustix::process::getpid())));
            }
            while let Some(info) = self.fd.read_signal().context("read signalfd")? {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                match number {
                    libc::SIGCHLD => {}
                    libc::SIGWINCH => streams.resize(),
                    _ => {
                        log::debug!("forwarding signal {number} to {pid}");
                        if let Err(e) = sys::send_signal(pidfd, number) {
                            log::error!("{e}");
                        }
                    }
                }
            }
            if let Some(status) = reap(pid)? {
                return Ok(status);
            }
            if gone {
                return held_by_tracer(pidfd).with_context(|| format!("wait for {pid}"));
            }
        }
    }
}

/// Reaps every child that has ended; the exit status of `pid` if it is among them.
fn reap(pid: i32) -> Result<Option<i32>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) => {
                log::debug!("process exited pid={} status={}", Pid::as_raw(Some(child)), exit_status(status));
                if Pid::as_raw(Some(child)) == pid {
                    found = Some(exit_status(status));
                }
            }
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::from(e).context("wait")),
        }
    }
}

/// The exit status of a child that has ended and is not to be had yet: its tracer, a process of the container that has
/// CAP_SYS_PTRACE, sees the end first (ptrace(2)).
fn held_by_tracer(pidfd: BorrowedFd<'_>) -> Result<i32> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::from(e).context("its exit status is lost")),
            Ok(status) => {
                let code = status.and_then(|s| s.exit_status().or_else(|| s.terminating_signal().map(|n| 128 + n)));
                return Ok(code.unwrap_or(255));
            }
        }
    }
}

/// A shell's view of a status.
fn exit_status(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
