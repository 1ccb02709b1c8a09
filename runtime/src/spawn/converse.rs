//! Answers the requests of a child until it is ready or has ended.
//!
//! create talks with init from the clone to the barrier, start from the barrier to execve(2), and exec from the clone
//! to execve(2). A child may request mappings first, then the hooks once, then the agent once. Any other message is an
//! error.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use berth_init::{
    plan::{Plan, Source},
    wire::{self, Failure, Message},
};

use super::{Bounds, Outcome, Pending, Received, foreign, receive, send_byte, wait_readable};
use crate::{
    Context, Error, Kind, Result,
    container::state::Container,
    leaves::{
        hooks::CreateHooks,
        mount,
        network::devices::NetDevices,
        seccomp::agent::{self, Listener},
    },
    oci_state::OciState,
};

/// runc's context for a failure of create.
pub const DURING_INIT: &str = "unable to start container process: error during container init";

/// The child.
pub enum Peer<'p, 'a> {
    /// A cloned process.
    Cloned(&'p mut Pending<'a>),
    /// The init of a container, after start has released it from the barrier, and the longest time between two of its
    /// messages; `None` is unlimited.
    Released(&'p Container, BorrowedFd<'p>, Option<Duration>),
}

/// The data for the answers.
pub struct Answers<'r> {
    /// The container's state, for hooks and the agent.
    pub state: OciState<'r>,
    /// The container's status, for the agent.
    pub status: &'r str,
    /// The pid of init, for the agent. `None` if the child is init.
    pub init: Option<i32>,
    /// The agent that gets seccomp notifications.
    pub listener: Option<&'r Listener>,
    /// The answers that only the init of a new container needs.
    pub setup: Option<Setup<'r>>,
}

/// The answers that only the init of a new container needs.
pub struct Setup<'r> {
    /// init's plan.
    pub plan: &'r Plan<'r>,
    /// Descriptions of the mounts, for errors.
    pub mount_names: &'r [String],
    /// The prestart and createRuntime hooks.
    pub hooks: &'r CreateHooks,
    /// Network devices that move to the container before the hooks.
    pub devices: &'r mut NetDevices,
}

/// The end of a conversation.
pub enum End {
    /// The child waits at the barrier.
    Ready,
    /// The channel is closed: execve(2) has succeeded, or the child is dead.
    Closed,
    /// The channel is closed, and the child has not read all of it: it is dead, or serves another channel.
    Unheard,
    /// The child has failed. The descriptors hold a hook's output.
    Failed(Failure, Vec<OwnedFd>),
}

/// The last kind of request so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    Hooks,
    Agent,
}

/// Answers the child until it is ready, has ended or has failed.
///
/// # Errors
/// The error of an answer. [`Kind::Internal`] for a message that the child may not send.
pub fn converse(peer: &mut Peer<'_, '_>, mut answers: Answers<'_>) -> Result<End> {
    let mut asked = Asked::Nothing;
    loop {
        match (peer.listen()?, &mut answers.setup) {
            (Outcome::MapIds(index, tree), Some(setup)) if asked == Asked::Nothing => {
                setup.map_ids(index, &tree).context(DURING_INIT)?;
                peer.answer(wire::IDS_MAPPED).context("release the container's init after a mapping")?;
            }
            (Outcome::RunHooks, Some(setup)) if asked == Asked::Nothing => {
                asked = Asked::Hooks;
                setup.devices.move_to(peer.pid()).context(DURING_INIT)?;
                setup.hooks.run(answers.state, peer.pid()).context(DURING_INIT)?;
                peer.answer(wire::HOOKS_DONE).context("release the container's init after the hooks")?;
            }
            (Outcome::SeccompListener(number), _) if asked < Asked::Agent && answers.listener.is_some() => {
                asked = Asked::Agent;
                answers.notify(peer, number)?;
                peer.answer(wire::AGENT_READY).context("release the process after its filter")?;
            }
            (Outcome::Ready, _) => return Ok(End::Ready),
            (Outcome::Closed, _) => return Ok(End::Closed),
            (Outcome::Unheard, _) => return Ok(End::Unheard),
            (Outcome::Failed(failure, output), _) => return Ok(End::Failed(failure, output)),
            _ => return Err(foreign()),
        }
    }
}

impl Answers<'_> {
    /// Sends the listener to the agent. `number` is the descriptor's number in the child.
    fn notify(&self, peer: &Peer<'_, '_>, number: i32) -> Result<()> {
        let Some(listener) = self.listener else { return Err(foreign()) };
        let about = (self.state, self.status, self.init.unwrap_or(peer.pid()));
        let sent = match peer {
            Peer::Cloned(child) => agent::send(listener, about, (child.pid(), child.pidfd(), number)),
            Peer::Released(container, ..) => {
                agent::send(listener, about, (container.pid(), container.pidfd()?.as_fd(), number))
            }
        };
        if self.setup.is_some() { sent.context(DURING_INIT) } else { sent }
    }
}

impl Setup<'_> {
    /// Maps the ids of a tree that init has cloned for the mount with this index.
    fn map_ids(&self, index: u32, tree: &OwnedFd) -> Result<()> {
        let n = usize::try_from(index).unwrap_or(usize::MAX);
        let mount = self.plan.container.as_ref().and_then(|container| container.rootfs.mounts.get(n));
        let (Some(Source::RootBind(inside)), Some(name)) = (mount.map(|mount| &mount.source), self.mount_names.get(n))
        else {
            return Err(foreign());
        };
        mount::map_inside(inside, tree.as_fd()).with_context(|| format!("error mounting {name}"))
    }
}

impl Peer<'_, '_> {
    fn pid(&self) -> i32 {
        match self {
            Self::Cloned(child) => child.pid(),
            Self::Released(container, ..) => container.pid(),
        }
    }

    fn listen(&mut self) -> Result<Outcome> {
        let (channel, timeout) = match self {
            Self::Cloned(child) => return child.wait(),
            Self::Released(_, channel, timeout) => (*channel, *timeout),
        };
        wait_readable(channel, Bounds { abort: None, timeout })?;
        match receive(channel)? {
            Received::Message(Message::SeccompListener(number), _) => Ok(Outcome::SeccompListener(number)),
            Received::Message(Message::Failure(failure), output) => Ok(Outcome::Failed(failure, output)),
            Received::Message(..) => {
                let text = "the container's init sent an unexpected message";
                Err(Error::new(Kind::Internal, text))
            }
            Received::Closed => Ok(Outcome::Closed),
            Received::Unheard => Ok(Outcome::Unheard),
        }
    }

    fn answer(&self, byte: u8) -> Result<()> {
        match self {
            Self::Cloned(child) => send_byte(child.channel.as_fd(), byte),
            Self::Released(_, channel, _) => send_byte(*channel, byte),
        }
    }
}
