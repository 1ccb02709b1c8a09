//! The conversation with a child that does its work: it asks, the runtime answers, until it is ready or has ended.
//!
//! Create talks with init from the clone to the barrier, start from the barrier to the payload, exec from the clone to the
//! payload. A child asks for mappings first, then for hooks once, then for the agent once; anything else is not berth's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_init::{
    plan::{Plan, Source},
    wire::{self, Failure, Message},
};

use super::{Outcome, Pending, foreign, receive, send_byte};
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

/// runc's words for a failure of create.
pub const DURING_INIT: &str = "unable to start container process: error during container init";

/// Who is talked with.
pub enum Peer<'p, 'a> {
    /// A process that has been cloned.
    Cloned(&'p mut Pending<'a>),
    /// The init of a container, which start has released from the barrier.
    Released(&'p Container, BorrowedFd<'p>),
}

/// What the runtime answers with.
pub struct Answers<'r> {
    /// The state of the container for hooks and the agent.
    pub state: OciState<'r>,
    /// Its status, for the agent.
    pub status: &'r str,
    /// The pid of its init, for the agent; `None`: the child is init.
    pub init: Option<i32>,
    /// The agent for seccomp notifications.
    pub listener: Option<&'r Listener>,
    /// What only the init of a new container asks for.
    pub setup: Option<Setup<'r>>,
}

/// What the init of a new container asks for.
pub struct Setup<'r> {
    /// Its plan.
    pub plan: &'r Plan<'r>,
    /// Names of its mounts.
    pub mount_names: &'r [String],
    /// prestart and createRuntime.
    pub hooks: &'r CreateHooks,
    /// Network devices to hand over before the hooks.
    pub devices: &'r mut NetDevices,
}

/// How a conversation ends.
pub enum End {
    /// The child waits at the barrier.
    Ready,
    /// The channel is closed: execve has happened, or the child is dead.
    Closed,
    /// The child has failed; the descriptors hold what a hook has written.
    Failed(Failure, Vec<OwnedFd>),
}

/// What has been asked for so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    Hooks,
    Agent,
}

/// Answers the child until it is ready, has ended or has failed.
///
/// # Errors
/// An answer cannot be given; the child says something that no init of berth's says.
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
            (Outcome::Failed(failure, output), _) => return Ok(End::Failed(failure, output)),
            _ => return Err(foreign()),
        }
    }
}

impl Answers<'_> {
    /// Has the agent take the listener, which is the child's descriptor of this number.
    fn notify(&self, peer: &Peer<'_, '_>, number: i32) -> Result<()> {
        let Some(listener) = self.listener else { return Err(foreign()) };
        let about = (self.state, self.status, self.init.unwrap_or(peer.pid()));
        let sent = match peer {
            Peer::Cloned(child) => agent::send(listener, about, (child.pid(), child.pidfd(), number)),
            Peer::Released(container, _) => {
                agent::send(listener, about, (container.pid(), container.pidfd()?.as_fd(), number))
            }
        };
        if self.setup.is_some() { sent.context(DURING_INIT) } else { sent }
    }
}

impl Setup<'_> {
    /// Maps the ids of a tree that init has made for the mount of this index.
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
            Self::Released(container, _) => container.pid(),
        }
    }

    fn listen(&mut self) -> Result<Outcome> {
        let channel = match self {
            Self::Cloned(child) => return child.wait(),
            Self::Released(_, channel) => *channel,
        };
        match receive(channel)? {
            (Some(Message::SeccompListener(number)), _) => Ok(Outcome::SeccompListener(number)),
            (Some(Message::Failure(failure)), output) => Ok(Outcome::Failed(failure, output)),
            (Some(_), _) => {
                let text = "the container's init sent an unexpected message";
                Err(Error::new(Kind::Internal, text))
            }
            (None, _) => Ok(Outcome::Closed),
        }
    }

    fn answer(&self, byte: u8) -> Result<()> {
        match self {
            Self::Cloned(child) => send_byte(child.channel.as_fd(), byte),
            Self::Released(_, channel) => send_byte(*channel, byte),
        }
    }
}
