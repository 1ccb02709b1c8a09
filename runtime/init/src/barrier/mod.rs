//! The wait between create and start.
//!
//! A container's init stops here, and start releases it: over the channel by the process that created the container, or
//! over a socket by any process. An exec has no barrier.
//!
//! Some seccomp filters are loaded before the wait. [`AT_BARRIER`] and [`AT_PID_CLONE`] list the system calls that such a
//! filter must allow, and the tests of this module run the code under filters that allow nothing else.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, AsRawFd, BorrowedFd},
    io::Errno,
    net::{self, SocketFlags},
};

use crate::{
    error::{At, Result},
    plan::Barrier,
    report::{self, Report},
    sys,
    wire::{self, Message, Step},
};

/// The system calls that init makes in [`wait`], and after it until it runs hooks or execve.
pub const AT_BARRIER: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
];

/// The system calls, besides [`AT_BARRIER`] and clone(2) with [`sys::SECOND_CLONE_FLAGS`], that a process makes from
/// [`crate::plan::SeccompWhen::BeforeVisible`] until execve.
pub const AT_PID_CLONE: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    libc::SYS_execve,
    libc::SYS_ioctl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_prlimit64,
    libc::SYS_rseq,
    libc::SYS_sched_setattr,
    libc::SYS_setsid,
    libc::SYS_signalfd4,
];

/// Longest time that a peer of the start socket may take to send its byte. It sends the byte right after connect(2).
const PEER_TIMEOUT: Timespec = Timespec { tv_sec: if cfg!(test) { 1 } else { 10 }, tv_nsec: 0 };

/// Waits at the barrier until start releases it. `signals` is the signalfd(2) of [`sys::block_signals`]; a signal that
/// arrives there ends the process. Without a barrier it returns at once.
pub(crate) fn wait(
    barrier: Option<Barrier<'_>>,
    signals: Option<BorrowedFd<'_>>,
    report: &mut Report<'_>,
) -> Result<()> {
    match barrier {
        None => Ok(()),
        Some(Barrier::Channel) => {
            report.send(Message::Ready, &[]).at(Step::Channel)?;
            wait_readable(report.channel, signals, None).at(Step::Barrier)?;
            report.wait_for(wire::START).at(Step::Barrier)
        }
        Some(Barrier::Listen(socket)) => {
            report.send(Message::Ready, &[]).at(Step::Channel)?;
            // The process that created the container exits, and reports to it would fail. The process that calls start
            // connects to the socket.
            let channel = u32::try_from(report.channel.as_raw_fd()).unwrap_or(u32::MAX);
            sys::close_range(channel, channel).at(Step::Barrier)?;
            accept_start(socket, signals, report).at(Step::Barrier)
        }
    }
}

/// Accepts connections until one of them sends [`wire::START`], and answers [`wire::GET_NAMESPACES`]. A peer that sends
/// anything else, or nothing, or closes the connection, has no effect.
fn accept_start(
    socket: BorrowedFd<'_>,
    signals: Option<BorrowedFd<'_>>,
    report: &mut Report<'_>,
) -> rustix::io::Result<()> {
    loop {
        wait_readable(socket, signals, None)?;
        let peer = match net::accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(peer) => peer,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(e) => return Err(e),
        };
        if !wait_readable(peer.as_fd(), signals, Some(&PEER_TIMEOUT))? {
            continue;
        }
        match report::recv_byte(peer.as_fd()) {
            Ok(wire::START) => {
                report.starter = Some(peer);
                return Ok(());
            }
            Ok(wire::GET_NAMESPACES) => report.send_namespaces(peer.as_fd()),
            _ => {}
        }
    }
}

/// Waits until `fd` is readable; returns false after `timeout`. If a blocked signal arrives first, the process exits with
/// 128 and the signal's number, as a shell reports a process that the signal ended.
fn wait_readable(
    fd: BorrowedFd<'_>,
    signals: Option<BorrowedFd<'_>>,
    timeout: Option<&Timespec>,
) -> rustix::io::Result<bool> {
    let Some(signals) = signals else { return Ok(true) };
    let mut fds = [PollFd::from_borrowed_fd(signals, PollFlags::IN), PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let ready = loop {
        match poll(&mut fds, timeout) {
            Err(Errno::INTR) => {}
            ready => break ready?,
        }
    };
    let [signal, _] = fds;
    if signal.revents().contains(PollFlags::IN) {
        sys::exit(128 + sys::read_signal(signals)?);
    }
    Ok(ready > 0)
}

#[cfg(test)]
mod tests;
