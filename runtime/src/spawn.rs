//! The clone, and the conversation with the child until it is ready.
//!
//! A [`Pending`] that is dropped kills its child and reaps it: rollback is in one place.

use std::{
    io::IoSliceMut,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use berth_init::{
    plan::Plan,
    wire::{self, Failure, Message},
};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};

use crate::{Context, Error, Kind, Result, scheduling, sealed, sys, timens};

/// The two ends of a channel: the parent's, the child's.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("socketpair")
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
    /// A pid namespace for the child: a namespace file or a pidfd.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// CPUs to be born on.
    pub cpus: Option<scheduling::Set>,
    /// A new time namespace, with what is to be written as its offsets.
    pub clocks: Option<&'a str>,
    /// This process is [beside](sys::beside) the runtime, whose child it is to be, and ends after the clone.
    pub beside: bool,
}

/// A child that has been made and not yet kept.
pub struct Pending {
    channel: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    kept: bool,
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
    IdMap(u32, OwnedFd),
    /// The runtime's hooks are due.
    Hooks,
    /// The filter's listener is this fd of the child, who waits until somebody has it.
    Listener(i32),
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
/// As clone3(2) and, with a pid namespace, setns(2).
pub fn spawn(plan: &Plan<'_>, how: &Clone<'_>, (channel, theirs): (OwnedFd, OwnedFd)) -> Result<Pending> {
    sealed::check()?;
    let &Clone { pid_namespace, ref cpus, beside, .. } = how;
    let flags = how.flags | if beside { libc::CLONE_PARENT.cast_unsigned() } else { 0 };
    let here = |plan: &Plan<'_>, cgroup| {
        let clone = || sys::clone_into(plan, flags, cgroup);
        let clone = || cpus.as_ref().map_or_else(clone, |cpus| on_cpus(cpus, clone));
        match pid_namespace {
            None => clone(),
            Some(namespace) if beside => {
                berth_init::sys::setns(namespace, crate::namespace::flag::PID).context("join pid namespace")?;
                clone()
            }
            Some(namespace) => in_pid_namespace(namespace, clone),
        }
    };
    let clone = |cgroup| match how.clocks {
        None => here(plan, cgroup),
        Some(offsets) => timens::in_new(plan, offsets, |plan| here(plan, cgroup)),
    };
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
    // Debug lines keep the words by which readers of runc's find their way.
    log::debug!("nsexec container setup: clone3 made {pid}");
    Ok(Pending { channel, pid, pidfd, console: None, kept: false })
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

/// setns(2) with a pid namespace only decides where this thread's children are born; the thread goes back at once.
fn in_pid_namespace<T>(namespace: BorrowedFd<'_>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/pid").context("open own pid namespace")?;
    let pid = crate::namespace::flag::PID;
    berth_init::sys::setns(namespace, pid).context("join pid namespace")?;
    let made = make();
    if berth_init::sys::setns(own.as_fd(), pid).is_err() {
        // Every later container of this thread would be born in the wrong namespace.
        std::process::abort();
    }
    made
}

/// The CPU affinity is inherited, so this thread has the child's for as long as the clone takes.
fn on_cpus<T>(cpus: &scheduling::Set, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut own = scheduling::Set::default();
    berth_init::sys::get_affinity(&mut own).context("sched_getaffinity")?;
    berth_init::sys::set_affinity(cpus)
        .context("process.execCPUAffinity.initial: error setting initial CPU affinity")?;
    log::debug!("nsexec container setup: affinity: {:#x}", cpus.first().copied().unwrap_or_default());
    let made = make();
    if berth_init::sys::set_affinity(&own).is_err() {
        log::warn!("the CPU affinity of this thread could not be restored");
    }
    made
}

impl Pending {
    /// The child's pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets the child begin: it is in its cgroup and its ids are mapped.
    pub fn go(&self) -> Result<()> {
        say(self.channel.as_fd(), wire::GO).context("release the container's init")
    }

    /// The ids of its tree are mapped.
    pub fn mapped(&self) -> Result<()> {
        say(self.channel.as_fd(), wire::MAPPED).context("release the container's init after a mapping")
    }

    /// The runtime's hooks have run.
    pub fn hooked(&self) -> Result<()> {
        say(self.channel.as_fd(), wire::HOOKED).context("release the container's init after the hooks")
    }

    /// Somebody has the filter's listener.
    pub fn heard(&self) -> Result<()> {
        say(self.channel.as_fd(), wire::HEARD).context("release the process after its filter")
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Listens until the child waits for a mapping or for hooks, is at the barrier, has executed the payload, or has failed.
    pub fn wait(&mut self) -> Result<Outcome> {
        let outcome = self.listen()?;
        if matches!(outcome, Outcome::Ready | Outcome::Closed) {
            log::debug!("child process in init(): {} is ready", self.pid);
        }
        Ok(outcome)
    }

    fn listen(&mut self) -> Result<Outcome> {
        loop {
            let (message, mut fds) = receive(self.channel.as_fd())?;
            let fd = if let Some(Message::Failure(_)) = message { None } else { fds.pop() };
            match (message, fd) {
                (Some(Message::Failure(failure)), _) => return Ok(Outcome::Failed(failure, fds)),
                (None, _) => return Ok(Outcome::Closed),
                (Some(Message::Ready), _) => return Ok(Outcome::Ready),
                (Some(Message::Hooks), _) => return Ok(Outcome::Hooks),
                (Some(Message::Listener(number)), _) => return Ok(Outcome::Listener(number)),
                (Some(Message::IdMap(index)), Some(tree)) => return Ok(Outcome::IdMap(index, tree)),
                (Some(Message::Console), Some(master)) => self.console = Some(master),
                (Some(Message::Moved(pid)), Some(pidfd)) => {
                    let intermediate = std::mem::replace(&mut self.pidfd, pidfd);
                    self.pid = pid;
                    sys::reap(intermediate.as_fd());
                }
                (Some(_), None) => return Err(foreign()),
            }
        }
    }

    /// The child is a container's now.
    pub fn keep(mut self) -> Result<Child> {
        let pidfd = self.pidfd.try_clone().context("dup pidfd")?;
        let channel = self.channel.try_clone().context("dup channel")?;
        self.kept = true;
        Ok(Child { pid: self.pid, pidfd, console: self.console.take(), channel })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        sys::kill_and_reap(self.pidfd.as_fd());
    }
}

/// Says one byte to the other end.
pub fn say(channel: BorrowedFd<'_>, word: u8) -> Result<()> {
    rustix::net::send(channel, &[word], rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Something that no init of ours says.
pub fn foreign() -> Error {
    Error::new(Kind::Internal, "the container's init sent a message that is not berth's")
}

/// One message of the child, with the fds that came along; `None` at the end.
pub fn receive(channel: BorrowedFd<'_>) -> Result<(Option<Message>, Vec<OwnedFd>)> {
    let mut buffer = [0u8; wire::LEN + 1];
    let mut control = nix::cmsg_space!([RawFd; wire::LENT]);
    let (len, fds) = loop {
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(channel.as_raw_fd(), &mut iov, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            // The child died with something of ours unread.
            Err(nix::errno::Errno::ECONNRESET) => return Ok((None, Vec::new())),
            Err(e) => return Err(Error::from(e).context("receive from the container's init")),
            Ok(got) => {
                let mut fds = Vec::new();
                for message in got.cmsgs().context("receive from the container's init")? {
                    if let ControlMessageOwned::ScmRights(list) = message {
                        fds.extend(list.into_iter().map(crate::sys::own));
                    }
                }
                break (got.bytes, fds);
            }
        }
    };
    if len == 0 {
        return Ok((None, Vec::new()));
    }
    match Message::decode(buffer.get(..len).unwrap_or_default()) {
        Some(message) => Ok((Some(message), fds)),
        None => Err(foreign()),
    }
}
