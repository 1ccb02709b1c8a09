//! The clone, and the channel to the child until it is ready.
//!
//! Dropping a [`Pending`] kills and reaps its child, so the rollback is in one place. Each wait for the child has a
//! limit: a process in its pid namespace may stop it, and a process that may freeze its cgroup can do that.

pub mod converse;
pub mod failure;
pub mod sealed;

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use berth_init::{
    defence::Defence,
    plan::{Plan, SchedulerAttributes},
    wire::{self, Failure, Message},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg},
};

use crate::{Context, Error, Kind, Result, cgroup, host::time::Stopwatch, leaves::scheduling, namespace::time, sys};

/// Creates a channel. Returns the parent's end and the child's end.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context("socketpair")
}

/// The parameters of a clone.
#[derive(Default)]
pub struct Clone<'a> {
    /// `CLONE_NEW*` flags for clone3(2).
    pub flags: u32,
    /// The v2 cgroup for `CLONE_INTO_CGROUP`.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Opens another cgroup for the child, if the first one accepts no processes.
    pub instead: Option<&'a dyn Fn() -> Result<OwnedFd>>,
    /// The CPUs on which the child starts.
    pub cpus: Option<scheduling::Set>,
    /// The content of timens_offsets for a new time namespace.
    pub clocks: Option<&'a str>,
    /// This process is a vfork child ([`sys::run_in_vfork_child`]). The new process becomes a child of the runtime
    /// (`CLONE_PARENT`).
    pub beside: bool,
}

/// The limits of a wait for a child.
#[derive(Clone, Copy, Default)]
pub struct Bounds<'a> {
    /// Becomes readable when the caller aborts.
    pub abort: Option<BorrowedFd<'a>>,
    /// Longest time between two messages of the child; `None` is unlimited.
    pub timeout: Option<Duration>,
}

/// A child that has not been kept yet. Dropping it kills the child.
pub struct Pending<'a> {
    channel: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    second: Second,
    /// The scheduling policy that the parent sets for the payload's process.
    policy: Option<SchedulerAttributes>,
    bounds: Bounds<'a>,
    /// Measures from before the clone, for the debug log.
    watch: Stopwatch,
    kept: bool,
}

/// The second clone, which the child makes to enter a pid namespace.
enum Second {
    /// The child has made it, or there is none.
    Done,
    /// The child has not made it yet.
    Expected,
    /// As `Expected`, and the child has left its cgroup for that clone.
    Outside(cgroup::MovedOut),
}

/// Longest time between two messages of a child. No child needs nearly as long on a machine that works.
pub const CHILD_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the limit for the child of this plan, which runs hooks itself. `None` if a hook has no timeout.
pub fn child_timeout(plan: &Plan<'_>) -> Option<Duration> {
    let hooks = plan.container.iter().flat_map(|container| container.create_container.list);
    timeout_with(hooks.map(|hook| hook.timeout.map(|seconds| Duration::from_secs(seconds.into()))))
}

/// Returns the limit for a child that runs hooks with these timeouts. `None` if one of them has none.
pub fn timeout_with(mut hooks: impl Iterator<Item = Option<Duration>>) -> Option<Duration> {
    hooks.try_fold(CHILD_TIMEOUT, |sum, timeout| Some(sum.saturating_add(timeout?)))
}

/// A kept child.
pub struct Child {
    /// Its pid, in the runtime's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The master of the pty, if the process has a terminal.
    pub console: Option<OwnedFd>,
    /// The parent's end of the channel.
    pub channel: OwnedFd,
}

/// The child's next request, or its end.
pub enum Outcome {
    /// Map the ids of this tree, which belongs to the mount with this index.
    MapIds(u32, OwnedFd),
    /// Run the runtime's hooks.
    RunHooks,
    /// Send the filter's listener to the agent. The number is the descriptor's in the child.
    SeccompListener(i32),
    /// The child waits at the barrier.
    Ready,
    /// The channel is closed: execve(2) has succeeded, or the child is dead.
    Closed,
    /// The channel is closed, and the child has not read all of it: it is dead, or serves another channel.
    Unheard,
    /// The child has failed. The descriptors hold a hook's output.
    Failed(Failure, Vec<OwnedFd>),
}

/// Clones a child that carries out `plan`. `channel` holds both ends of the plan's channel. The child's end is closed
/// here, so the channel ends with the child.
///
/// # Errors
/// As clone3(2).
pub fn spawn<'a>(
    plan: &Plan<'_>,
    how: &Clone<'_>,
    bounds: Bounds<'a>,
    (channel, theirs): (OwnedFd, OwnedFd),
) -> Result<Pending<'a>> {
    sealed::check()?;
    let &Clone { ref cpus, beside, .. } = how;
    let flags = how.flags | if beside { libc::CLONE_PARENT.cast_unsigned() } else { 0 };
    let here = |plan: &Plan<'_>, cgroup| {
        let clone = || sys::clone_into(plan, flags, cgroup);
        cpus.as_ref().map_or_else(clone, |cpus| on_cpus(cpus, clone))
    };
    let clone = |cgroup| match how.clocks {
        None => here(plan, cgroup),
        Some(offsets) => time::clone_in_new(plan, offsets, |plan| here(plan, cgroup)),
    };
    let watch = Stopwatch::start();
    let born_in = how.cgroup.filter(|_| Defence::OwnCgroup.stands());
    let (pid, pidfd) = match (clone(born_in), how.instead) {
        // The kernel refuses a v2 cgroup that has controllers enabled for its children, or that is threaded.
        (Err(e), Some(instead)) if matches!(e.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
            let cgroup = instead()?;
            clone(Some(cgroup.as_fd()))?
        }
        // The cgroup's pids limit is reached. It applies to forks only, and an exec must be able to enter the
        // container.
        (Err(e), _) if e.errno() == Some(libc::EAGAIN) => match how.cgroup {
            Some(cgroup) => moved_into(cgroup, clone(None)?)?,
            None => return Err(e),
        },
        (made, _) => made?,
    };
    drop(theirs);
    log::debug!("spawn: clone3 created process {pid} in {watch}");
    let namespaces = &plan.namespaces;
    let second = if namespaces.enter_pid || namespaces.second_clone { Second::Expected } else { Second::Done };
    let policy = plan.process.scheduling.as_ref().and_then(|scheduling| scheduling.policy);
    let policy = policy.filter(|policy| namespaces.enter_pid && berth_init::scheduling::set_by_parent(policy));
    Ok(Pending { channel, pid, pidfd, console: None, second, policy, bounds, watch, kept: false })
}

/// Moves a child that waits for the parent into a v2 cgroup.
fn moved_into(cgroup: BorrowedFd<'_>, (pid, pidfd): (i32, OwnedFd)) -> Result<(i32, OwnedFd)> {
    use rustix::fs::{Mode, OFlags, openat};
    let enter = || -> rustix::io::Result<()> {
        let procs = openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&procs, pid.to_string().as_bytes()).map(drop)
    };
    match enter().context("write cgroup.procs") {
        Ok(()) => Ok((pid, pidfd)),
        Err(e) => {
            sys::kill_and_reap(pidfd.as_fd());
            Err(e)
        }
    }
}

/// Runs `make` with the CPU affinity `cpus`, which a clone inherits. Restores this thread's affinity afterwards.
fn on_cpus<T>(cpus: &scheduling::Set, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut own = scheduling::Set::default();
    berth_init::sys::get_affinity(&mut own).context("sched_getaffinity")?;
    berth_init::sys::set_affinity(cpus)
        .context("process.execCPUAffinity.initial: error setting initial CPU affinity")?;
    log::debug!("spawn: clone3 runs with CPU affinity {:#x}", cpus.first().copied().unwrap_or_default());
    let made = make();
    if berth_init::sys::set_affinity(&own).is_err() {
        log::warn!("the CPU affinity of this thread could not be restored");
    }
    made
}

impl Pending<'_> {
    /// The child's pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets the child begin. Its cgroup and its id maps are complete.
    pub fn go(&self) -> Result<()> {
        send_byte(self.channel.as_fd(), wire::GO).context("release the container's init")
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the child's next request or its end.
    pub fn wait(&mut self) -> Result<Outcome> {
        let outcome = self.listen()?;
        match outcome {
            Outcome::Ready => log::debug!("spawn: process {} is at the barrier after {}", self.pid, self.watch),
            Outcome::Closed => log::debug!("spawn: process {} has closed its channel after {}", self.pid, self.watch),
            _ => {}
        }
        Ok(outcome)
    }

    fn listen(&mut self) -> Result<Outcome> {
        loop {
            wait_readable(self.channel.as_fd(), self.bounds)?;
            let (message, mut fds) = match receive(self.channel.as_fd())? {
                Received::Message(message, fds) => (message, fds),
                Received::Closed if matches!(self.second, Second::Done) => return Ok(Outcome::Closed),
                Received::Unheard if matches!(self.second, Second::Done) => return Ok(Outcome::Unheard),
                Received::Closed | Received::Unheard => return Err(ended_early()),
            };
            let fd = if let Message::Failure(_) = message { None } else { fds.pop() };
            match (message, fd) {
                (Message::Failure(failure), _) => return Ok(Outcome::Failed(failure, fds)),
                (Message::CgroupFull, _) => self.step_out()?,
                (Message::Cloned(pid), Some(pidfd)) => self.adopt(pid, pidfd)?,
                (Message::Console, Some(master)) => self.console = Some(master),
                (Message::MapIds(index), Some(tree)) => return Ok(Outcome::MapIds(index, tree)),
                (Message::RunHooks, _) => return Ok(Outcome::RunHooks),
                // Before the second clone only the first child speaks, and it sends neither of the two.
                (Message::Ready, _) if matches!(self.second, Second::Done) => return Ok(Outcome::Ready),
                (Message::SeccompListener(number), _) if matches!(self.second, Second::Done) => {
                    return Ok(Outcome::SeccompListener(number));
                }
                _ => return Err(foreign()),
            }
        }
    }

    /// Moves the child out of its cgroup for the second clone, because the cgroup's pids limit is reached.
    fn step_out(&mut self) -> Result<()> {
        let Second::Expected = self.second else { return Err(foreign()) };
        self.second = Second::Outside(cgroup::move_out(self.pid)?);
        send_byte(self.channel.as_fd(), wire::RETRY).context("have the container's process cloned again")
    }

    /// Takes over the process that the child has cloned. That process waits until the parent knows it and it is in its
    /// cgroup.
    fn adopt(&mut self, pid: i32, pidfd: OwnedFd) -> Result<()> {
        let second = std::mem::replace(&mut self.second, Second::Done);
        let first = std::mem::replace(&mut self.pidfd, pidfd);
        self.pid = pid;
        // Only the first child may send this, and only once. A second message can only come from a tracer of the other.
        if matches!(second, Second::Done) {
            sys::kill_and_reap(first.as_fd());
            return Err(foreign());
        }
        sys::reap(first.as_fd());
        if let Second::Outside(moved) = second {
            moved.move_in(pid)?;
        }
        if let Some(policy) = &self.policy {
            berth_init::sys::set_scheduler(pid, policy).context("process.scheduler: error setting scheduler")?;
        }
        send_byte(self.channel.as_fd(), wire::ADOPTED).context("release the container's process")
    }

    /// Keeps the child.
    pub fn keep(mut self) -> Result<Child> {
        let pidfd = self.pidfd.try_clone().context("dup pidfd")?;
        let channel = self.channel.try_clone().context("dup channel")?;
        self.kept = true;
        Ok(Child { pid: self.pid, pidfd, console: self.console.take(), channel })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        sys::kill_and_reap(self.pidfd.as_fd());
    }
}

/// Waits for the next message of a child on `channel`.
///
/// # Errors
/// [`Kind::Internal`] if the time is over, [`Kind::FailedPrecondition`] if the caller has aborted.
pub fn wait_readable(channel: BorrowedFd<'_>, bounds: Bounds<'_>) -> Result<()> {
    let until = bounds.timeout.map(|timeout| Instant::now() + timeout);
    // Without an abort descriptor, poll(2) gets the channel twice.
    let abort = bounds.abort.unwrap_or(channel);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds =
            [PollFd::from_borrowed_fd(channel, PollFlags::IN), PollFd::from_borrowed_fd(abort, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::from(e).context("poll the channel of the container's process")),
            Ok(0) => return Err(too_slow()),
            Ok(_) => {}
        }
        let [said, given_up] = fds;
        if !said.revents().is_empty() {
            return Ok(());
        }
        if !given_up.revents().is_empty() {
            let text = "the process was aborted while it was being created";
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
    }
}

/// Returns the error for a child that has not sent its next message in time.
pub fn too_slow() -> Error {
    Error::new(Kind::Internal, "the container's process was stopped, or got no CPU time, before it was ready")
}

/// Sends one byte.
pub fn send_byte(channel: BorrowedFd<'_>, word: u8) -> Result<()> {
    rustix::net::send(channel, &[word], rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Returns the error for a message that berth's init does not send.
pub fn foreign() -> Error {
    Error::new(Kind::Internal, "the container's init sent a message that is not berth's")
}

/// Returns the error for a process that exits without a message before its execve(2).
pub fn ended_early() -> Error {
    Error::from_errno(libc::ESRCH).context("a process ended before it had joined the container (memory limit too low?)")
}

/// A message, or the end of a channel.
pub enum Received {
    /// A message of the child and its descriptors.
    Message(Message, Vec<OwnedFd>),
    /// The child has closed its end.
    Closed,
    /// The child's end is closed, and the last message to it was not read.
    Unheard,
}

/// Receives one message of the child, or the end of the channel.
pub fn receive(channel: BorrowedFd<'_>) -> Result<Received> {
    let mut buffer = [0u8; wire::LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::MAX_NAMESPACES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut reset = false;
    let got = loop {
        match recvmsg(channel, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // The child died before it read all messages of the parent, or before it accepted the connection. The kernel
            // says so once, and ahead of the messages that the child has sent.
            Err(rustix::io::Errno::CONNRESET) if !reset => reset = true,
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Unheard),
            other => break other.context("receive from the container's init")?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds.extend(list);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(foreign());
    }
    if got.bytes == 0 {
        return Ok(if reset { Received::Unheard } else { Received::Closed });
    }
    match Message::decode(buffer.get(..got.bytes).unwrap_or_default()) {
        Some(message) => Ok(Received::Message(message, fds)),
        None => Err(foreign()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_for_a_child_has_a_limit() {
        let (ours, theirs) = channel().unwrap();
        let bounds = Bounds { abort: None, timeout: Some(Duration::from_millis(20)) };
        let late = wait_readable(ours.as_fd(), bounds).unwrap_err();
        assert_eq!(late.to_string(), too_slow().to_string());
        send_byte(theirs.as_fd(), wire::GO).unwrap();
        wait_readable(ours.as_fd(), bounds).unwrap();
    }

    #[test]
    fn timeouts_of_hooks_extend_the_limit_of_a_child() {
        let seconds = Duration::from_secs;
        assert_eq!(timeout_with([].into_iter()), Some(CHILD_TIMEOUT));
        assert_eq!(timeout_with([Some(seconds(5)), Some(seconds(7))].into_iter()), Some(CHILD_TIMEOUT + seconds(12)));
        assert_eq!(timeout_with([Some(seconds(5)), None].into_iter()), None);
    }

    #[test]
    fn last_message_of_a_child_that_read_nothing_is_received() {
        let (ours, theirs) = channel().unwrap();
        send_byte(ours.as_fd(), wire::GO).unwrap();
        rustix::net::send(&theirs, &Message::RunHooks.encode(), rustix::net::SendFlags::NOSIGNAL).unwrap();
        drop(theirs);
        assert!(matches!(receive(ours.as_fd()).unwrap(), Received::Message(Message::RunHooks, _)));
        assert!(matches!(receive(ours.as_fd()).unwrap(), Received::Closed));
    }

    #[test]
    fn end_of_a_child_that_read_nothing_is_told_apart() {
        for (sends, reads) in [(false, false), (true, false), (true, true)] {
            let (ours, theirs) = channel().unwrap();
            if sends {
                send_byte(ours.as_fd(), wire::GO).unwrap();
            }
            if reads {
                rustix::net::recv(&theirs, &mut [0u8; 1][..], RecvFlags::empty()).unwrap();
            }
            drop(theirs);
            let unheard = matches!(receive(ours.as_fd()).unwrap(), Received::Unheard);
            assert_eq!(unheard, sends && !reads, "sends {sends}, reads {reads}");
        }
    }
}
