//! The clone, and the conversation with the child until it is ready.
//!
//! A [`Pending`] that is dropped kills its child and reaps it: rollback is in one place. Each wait for the child has a
//! bound, since others may stop it: those in a pid namespace that it enters, or whoever freezes its cgroup.

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
    plan::{Plan, SchedulerAttributes},
    wire::{self, Failure, Message},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg},
};

use crate::{Context, Error, Kind, Result, cgroup, host::time::Stopwatch, leaves::scheduling, namespace::time, sys};

/// The two ends of a channel: the parent's, the child's.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context("socketpair")
}

/// How a child is made.
#[derive(Default)]
pub struct Clone<'a> {
    /// `CLONE_NEW*` for clone3.
    pub flags: u32,
    /// A v2 cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The cgroup to be born in when that one takes no process of its own any more.
    pub instead: Option<&'a dyn Fn() -> Result<OwnedFd>>,
    /// CPUs to be born on.
    pub cpus: Option<scheduling::Set>,
    /// A new time namespace, with what is to be written as its offsets.
    pub clocks: Option<&'a str>,
    /// This process is [beside](sys::beside) the runtime, whose child it is to be, and ends after the clone.
    pub beside: bool,
}

/// How long a child is waited for.
#[derive(Clone, Copy, Default)]
pub struct Bounds<'a> {
    /// Readable when the caller gives the child up.
    pub abort: Option<BorrowedFd<'a>>,
    /// How long the child may be silent; `None` for as long as it takes.
    pub patience: Option<Duration>,
}

/// A child that has been made and not yet kept.
pub struct Pending<'a> {
    channel: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    second: Second,
    /// What the parent is to set for the process that becomes the payload.
    policy: Option<SchedulerAttributes>,
    bounds: Bounds<'a>,
    /// Measures from before the clone, for the debug log.
    watch: Stopwatch,
    kept: bool,
}

/// The clone that the child itself makes.
enum Second {
    /// It has been made, or there is none.
    Done,
    /// The process that becomes the payload is still to come.
    Expected,
    /// The same, and the child is out of its cgroup until then.
    Outside(cgroup::MovedOut),
}

/// How long a child may be silent: far more than any child takes on a machine that still does something.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait for a child that runs this plan's hooks itself; `None` when one of them may take any time.
pub fn patience(plan: &Plan<'_>) -> Option<Duration> {
    let hooks = plan.container.iter().flat_map(|container| container.create_container.list);
    hooks.map(|hook| hook.timeout).try_fold(PATIENCE, |sum, timeout| Some(sum + Duration::from_secs(timeout?.into())))
}

/// What a kept child leaves in the parent's hands.
pub struct Child {
    /// Its pid, in the runtime's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The pty master, with a terminal.
    pub console: Option<OwnedFd>,
    /// The parent's end of the channel.
    pub channel: OwnedFd,
}

/// How a conversation ended.
pub enum Outcome {
    /// This tree, of the mount of that index, waits to have its ids mapped.
    MapIds(u32, OwnedFd),
    /// The runtime's hooks are due.
    RunHooks,
    /// The filter's listener is this fd of the child, who waits until somebody has it.
    SeccompListener(i32),
    /// At the barrier.
    Ready,
    /// The channel closed: execve happened, or the child is dead.
    Closed,
    /// It went wrong; with what a hook has written.
    Failed(Failure, Vec<OwnedFd>),
}

/// Makes a child that carries out `plan`. `channel` holds both ends of the plan's channel; the child's end is
/// closed here, so that the child's death ends the channel.
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
    let (pid, pidfd) = match (clone(how.cgroup), how.instead) {
        // What the kernel says of a v2 cgroup that has controllers on for those below it, or that is threaded.
        (Err(e), Some(instead)) if matches!(e.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
            let cgroup = instead()?;
            clone(Some(cgroup.as_fd()))?
        }
        // As many processes as it may have: only a fork is refused for that, and an exec must be able to see to it.
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

/// Puts a child that waits to begin into a v2 cgroup.
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

/// The CPU affinity is inherited, so this thread has the child's for as long as the clone takes.
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

    /// Lets the child begin: it is in its cgroup and its ids are mapped.
    pub fn go(&self) -> Result<()> {
        send_byte(self.channel.as_fd(), wire::GO).context("release the container's init")
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Listens until the child waits for a mapping or for hooks, is at the barrier, has executed the payload, or has failed.
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
            self.wait_readable()?;
            let (message, mut fds) = receive(self.channel.as_fd())?;
            let fd = if let Some(Message::Failure(_)) = message { None } else { fds.pop() };
            match (message, fd) {
                (Some(Message::Failure(failure)), _) => return Ok(Outcome::Failed(failure, fds)),
                (None, _) if matches!(self.second, Second::Done) => return Ok(Outcome::Closed),
                (None, _) => return Err(ended_early()),
                (Some(Message::CgroupFull), _) => self.step_out()?,
                (Some(Message::Cloned(pid)), Some(pidfd)) => self.adopt(pid, pidfd)?,
                (Some(Message::Console), Some(master)) => self.console = Some(master),
                (Some(Message::MapIds(index)), Some(tree)) => return Ok(Outcome::MapIds(index, tree)),
                (Some(Message::RunHooks), _) => return Ok(Outcome::RunHooks),
                // Before the second clone only the first child speaks, and it says neither.
                (Some(Message::Ready), _) if matches!(self.second, Second::Done) => return Ok(Outcome::Ready),
                (Some(Message::SeccompListener(number)), _) if matches!(self.second, Second::Done) => {
                    return Ok(Outcome::SeccompListener(number));
                }
                (Some(_), _) => return Err(foreign()),
            }
        }
    }

    /// Waits for the child's next message.
    fn wait_readable(&self) -> Result<()> {
        let until = self.bounds.patience.map(|patience| Instant::now() + patience);
        let channel = self.channel.as_fd();
        // Without one the channel is watched twice.
        let abort = self.bounds.abort.unwrap_or(channel);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds =
                [PollFd::from_borrowed_fd(channel, PollFlags::IN), PollFd::from_borrowed_fd(abort, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Error::from(e).context("poll the channel of the container's process")),
                Ok(0) => {
                    let text = "the container's process has been stopped, or starved, while it was being made";
                    return Err(Error::new(Kind::Internal, text));
                }
                Ok(_) => {}
            }
            let [said, given_up] = fds;
            if !said.revents().is_empty() {
                return Ok(());
            }
            if !given_up.revents().is_empty() {
                let text = "the process was ended while it was being made";
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
        }
    }

    /// The child's cgroup has no room for the process that it is to make: the child leaves it for that moment.
    fn step_out(&mut self) -> Result<()> {
        let Second::Expected = self.second else { return Err(foreign()) };
        self.second = Second::Outside(cgroup::move_out(self.pid)?);
        send_byte(self.channel.as_fd(), wire::RETRY).context("have the container's process cloned again")
    }

    /// The child has made the process that becomes the payload. It does nothing until it is told that it is known, and in
    /// its cgroup.
    fn adopt(&mut self, pid: i32, pidfd: OwnedFd) -> Result<()> {
        let second = std::mem::replace(&mut self.second, Second::Done);
        let first = std::mem::replace(&mut self.pidfd, pidfd);
        self.pid = pid;
        // Only the first child may say this, and only once: a second time it comes from somebody who traces the other.
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

    /// The child is a container's now.
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

/// Says one byte to the other end.
pub fn send_byte(channel: BorrowedFd<'_>, word: u8) -> Result<()> {
    rustix::net::send(channel, &[word], rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Something that no init of ours says.
pub fn foreign() -> Error {
    Error::new(Kind::Internal, "the container's init sent a message that is not berth's")
}

/// The first child ended without a word.
fn ended_early() -> Error {
    Error::new(Kind::Internal, "a process ended before it had joined the container (memory limit too low?)")
}

/// One message of the child, with the fds that came along; `None` at the end.
pub fn receive(channel: BorrowedFd<'_>) -> Result<(Option<Message>, Vec<OwnedFd>)> {
    let mut buffer = [0u8; wire::LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::MAX_NAMESPACES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(channel, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // The child died with something of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok((None, Vec::new())),
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
        return Ok((None, Vec::new()));
    }
    match Message::decode(buffer.get(..got.bytes).unwrap_or_default()) {
        Some(message) => Ok((Some(message), fds)),
        None => Err(foreign()),
    }
}
