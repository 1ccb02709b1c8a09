//! The wait of `run` and `exec` in the foreground: forwards signals to the process and returns its exit status.
//!
//! All signals are blocked and read from a signalfd(2). A signal that arrives while the container is being made stays
//! pending until then, and does not end this program half way. berth-init unblocks all signals in the container.

use std::os::fd::{AsFd, BorrowedFd};

use berth_runtime::{Context, Error, Result, send_signal};
use nix::sys::{
    signal::SigSet,
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
};

use crate::{sd_notify::Relay, stdio::Proxies, sys};

/// The signals of this process, blocked.
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks all signals. It has to be called before threads are started, because threads inherit the mask.
    ///
    /// # Errors
    /// Fails if sigaction(2), sigprocmask(2) or signalfd(2) fails.
    pub fn take() -> Result<Self> {
        sys::default_sigchld().context("reset SIGCHLD")?;
        let all = SigSet::all();
        all.thread_block().context("block signals")?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")?;
        Ok(Self { fd })
    }

    /// Forwards signals to the process of `pidfd` until it ends, resizes its terminal, and reaps other children. Returns
    /// the exit code of the process, or 128 plus the number of the signal that ended it. `relay` notifies the service
    /// manager when the container is ready, with this program as the main process of the service.
    ///
    /// # Errors
    /// Fails if poll(2) or wait4(2) fails, or if another process has collected the exit status.
    pub fn forward(
        &self,
        (pid, pidfd): (i32, BorrowedFd<'_>),
        proxies: &Proxies,
        mut relay: Option<&mut Relay>,
    ) -> Result<i32> {
        loop {
            // Without a relay, the pidfd takes the third place.
            let notice = relay.as_ref().and_then(|relay| relay.fd()).unwrap_or(pidfd);
            let mut fds = [self.fd.as_fd(), pidfd, notice].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::from(e).context("poll")),
            }
            let [_, process, _] = &fds;
            let ended = process.revents().contains(PollFlags::IN);
            if let Some(relay) = &mut relay {
                relay.forward(Pid::as_raw(Some(rustix::process::getpid())));
            }
            while let Some(info) = self.fd.read_signal().context("read signalfd")? {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                match number {
                    libc::SIGCHLD => {}
                    libc::SIGWINCH => proxies.resize(),
                    _ => {
                        log::debug!("signal {number}: sent on to process {pid}");
                        if let Err(e) = send_signal(pidfd, number) {
                            log::error!("{e}");
                        }
                    }
                }
            }
            if let Some(status) = reap(pid)? {
                return Ok(status);
            }
            if ended {
                return wait_for_tracer(pidfd).with_context(|| format!("wait for {pid}"));
            }
        }
    }
}

/// Reaps all children that have ended; returns the exit status of `pid` if it is one of them.
fn reap(pid: i32) -> Result<Option<i32>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) => {
                log::debug!("reaped process {}: status {}", Pid::as_raw(Some(child)), exit_status(status));
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

/// Waits for the exit status of a child that has ended but cannot be reaped yet: a process of the container with
/// CAP_SYS_PTRACE traces it, and the tracer gets the status first (ptrace(2)).
fn wait_for_tracer(pidfd: BorrowedFd<'_>) -> Result<i32> {
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

/// The exit code, or 128 plus the number of the signal, as a shell reports a status.
fn exit_status(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
