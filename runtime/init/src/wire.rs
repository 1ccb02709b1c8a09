//! The few fixed-size messages between parent and child, over one `SOCK_SEQPACKET` pair.
//!
//! ```text
//! parent                       child
//!   GO  ------------------------>        in its cgroup, ids mapped
//!        <------------------ CgroupFull     only when the cgroup has no room for the second clone
//!   RETRY  --------------------->        the child is out of that cgroup for the moment
//!        <------------- Cloned(pidfd)     only with a second clone: into a pid namespace that others are in, or a new one
//!   ADOPTED -------------------->        for the second child, which does nothing before
//!        <----------- Console(master)    only with a terminal
//!        <--------------- MapIds(tree)    for each part of the root that is mounted elsewhere with its ids mapped
//!   MAPPED --------------------->
//!        <-------------------- Hooks     only when the parent has hooks to run before the root is entered
//!   HOOKED --------------------->
//!        <-------------------- Ready     everything but execve is done (not for an exec)
//!   NAMESPACES ----------------->        from whoever asks for them before the start
//!        <-------------------- Ready     with their files
//!   START ---------------------->
//!        <----------- Listener(number)   only with a filter that notifies (for an exec, too)
//!   HEARD  --------------------->
//!        <---------- end of file         execve happened (the channel closes on exec)
//! ```
//! Instead of any of the child's messages: `Failure`. End of file before `Ready`: the child died.

/// The byte that lets the child begin.
pub const GO: u8 = b'g';
/// The byte that lets a child begin that a second clone has made: the parent knows it, and it is in its cgroup.
pub const ADOPTED: u8 = b'a';
/// The byte that says that a second clone may be tried again.
pub const RETRY: u8 = b'r';
/// The byte that says that the tree's ids are mapped.
pub const IDS_MAPPED: u8 = b'm';
/// The byte that says that the parent's hooks have run.
pub const HOOKS_DONE: u8 = b'h';
/// The byte that says that the filter's listener has somebody who listens.
pub const AGENT_READY: u8 = b'n';
/// The byte that lets the payload begin.
pub const START: u8 = b's';
/// The byte that asks the init that waits for [`START`] for its namespaces; they come with a [`Message::Namespaces`]. An
/// ordinary user cannot have them from the kernel, to whom that init hides.
pub const GET_NAMESPACES: u8 = b'l';
/// How many namespaces that may be.
pub const MAX_NAMESPACES: usize = 8;
/// Size of a child's message, bytes.
pub const LEN: usize = 16;

/// What the child says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The pty master comes with it.
    Console,
    /// The container's real process is this pid; its pidfd comes with it.
    Cloned(i32),
    /// The cgroup takes no further process, so that the container's real one cannot be made.
    CgroupFull,
    /// The detached tree of the mount of this index waits to have its ids mapped; its fd comes with it.
    MapIds(u32),
    /// The mounts are there: it is time for the parent's hooks.
    RunHooks,
    /// At the barrier.
    Ready,
    /// The namespaces that [`GET_NAMESPACES`] asked for; their fds come with it.
    Namespaces,
    /// The process that [`crate::namespace::hold_user_namespace`] runs in is in its user namespace.
    InUserNamespace,
    /// A context of fsopen(2) that a child of init has opened; its fd comes with it.
    FsContext,
    /// The filter is loaded, and its listener is this fd of the child.
    SeccompListener(i32),
    /// It went wrong. What a hook wrote comes with it, in two files.
    Failure(Failure),
}

/// Where the child failed. The parent words it: it still has the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// Which one of the plan's list of such things.
    pub index: u32,
    /// The kernel's answer; 0 when berth itself refused.
    pub errno: i32,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The steps of a container's birth that can fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step { $($(#[$doc])* $name,)* }
        impl Step {
            const ALL: &'static [Step] = &[$(Step::$name),*];
        }
    };
}

steps! {
    /// Becoming invisible to neighbours.
    Dumpable,
    /// Closing what is not the container's.
    CloseFds,
    /// Reading the parent's GO.
    Channel,
    /// Entering cgroup `index`.
    Cgroup,
    /// Writing oom_score_adj.
    OomScoreAdj,
    /// Joining namespace `index`.
    JoinNamespace,
    /// Making namespaces.
    Unshare,
    /// The second clone.
    Clone,
    /// Becoming root of the user namespace.
    BecomeRoot,
    /// Session keyring.
    Keyring,
    /// setsid.
    Session,
    /// Setting the loopback device up.
    Loopback,
    /// Propagation of the host's tree.
    HostPropagation,
    /// Attaching the rootfs.
    AttachRootfs,
    /// Binding a part of the root file system; the index of the mount.
    MountSource,
    /// Finding or making the target of mount `index`.
    MountTarget,
    /// The target of mount `index` is not a plain directory.
    NotPlainDirectory,
    /// Creating the file system of mount `index`.
    MountCreate,
    /// Labelling the root of mount `index`.
    MountLabel,
    /// Attaching mount `index`.
    MountAttach,
    /// Propagation of mount `index`.
    MountPropagation,
    /// Device node `index`.
    Device,
    /// The default links of /dev.
    DevLink,
    /// Opening the container's terminal.
    Console,
    /// Binding it to /dev/console.
    ConsoleBind,
    /// Making the cwd.
    MakeCwd,
    /// Read-only path `index`.
    ReadonlyPath,
    /// Masked path `index`.
    MaskedPath,
    /// Making the root read-only.
    RootReadonly,
    /// Propagation of the root.
    RootPropagation,
    /// Entering the root.
    EnterRoot,
    /// Host name.
    Hostname,
    /// Domain name.
    Domainname,
    /// Kernel parameter `index`.
    Sysctl,
    /// Reading the container's passwd.
    Passwd,
    /// Standard streams.
    Stdio,
    /// CPU affinity.
    Affinity,
    /// Scheduling policy.
    Scheduler,
    /// I/O priority.
    IoPriority,
    /// Execution domain.
    Personality,
    /// Memory policy.
    MemoryPolicy,
    /// Resource limit `index`.
    Rlimit,
    /// Label `index`.
    Label,
    /// Label `index` reads back as another.
    LabelReadBack,
    /// The session keyring's label.
    KeyringLabel,
    /// Bounding set.
    BoundingSet,
    /// Supplementary groups.
    Groups,
    /// User and group.
    User,
    /// Capabilities.
    Capabilities,
    /// Working directory.
    Cwd,
    /// The working directory lies outside the root (CVE-2024-21626).
    CwdOutside,
    /// No executable of that name on PATH.
    NotOnPath,
    /// The executable cannot be executed.
    Executable,
    /// Signal mask and dispositions.
    Signals,
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivs,
    /// Loading the filter.
    Seccomp,
    /// Waiting for somebody to listen to it.
    SeccompAgent,
    /// A restriction reads back weaker than planned: `index` says which ([`crate::identity::Restriction`]).
    NotRestricted,
    /// Giving up the parent's memory.
    UnmapMemory,
    /// Waiting for the parent's hooks.
    RuntimeHooks,
    /// Hook `index` cannot be executed.
    HookStart,
    /// Hook `index` ended with this status, of wait(2), in place of an errno.
    HookStatus,
    /// Hook `index` took too long.
    HookTimeout,
    /// Waiting for start.
    Barrier,
    /// execve.
    Exec,
}

impl Message {
    /// The message as it goes over the wire.
    pub fn encode(self) -> [u8; LEN] {
        let (kind, a, b, c) = match self {
            Self::Console => (1u32, 0, 0, 0),
            Self::Cloned(pid) => (2, 0, 0, pid),
            Self::Ready => (3, 0, 0, 0),
            Self::Failure(f) => (4, f.step as u32, f.index, f.errno),
            Self::RunHooks => (5, 0, 0, 0),
            Self::SeccompListener(number) => (6, 0, 0, number),
            Self::MapIds(index) => (7, 0, index, 0),
            Self::CgroupFull => (8, 0, 0, 0),
            Self::Namespaces => (9, 0, 0, 0),
            Self::InUserNamespace => (10, 0, 0, 0),
            Self::FsContext => (11, 0, 0, 0),
        };
        let mut out = [0; LEN];
        let words = [kind.to_ne_bytes(), a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes()];
        for (slot, word) in out.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word);
        }
        out
    }

    /// Parses a message; `None` for anything that a well-behaved child would not send.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN {
            return None;
        }
        let mut words = [0u32; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(chunk.try_into().ok()?);
        }
        let [kind, a, b, c] = words;
        let c = i32::from_ne_bytes(c.to_ne_bytes());
        match kind {
            1 => Some(Self::Console),
            2 => Some(Self::Cloned(c)),
            3 => Some(Self::Ready),
            4 => {
                let step = *Step::ALL.get(usize::try_from(a).ok()?)?;
                Some(Self::Failure(Failure { step, index: b, errno: c }))
            }
            5 => Some(Self::RunHooks),
            6 => Some(Self::SeccompListener(c)),
            7 => Some(Self::MapIds(b)),
            8 => Some(Self::CgroupFull),
            9 => Some(Self::Namespaces),
            10 => Some(Self::InUserNamespace),
            11 => Some(Self::FsContext),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        for &step in Step::ALL {
            let m = Message::Failure(Failure { step, index: 7, errno: 13 });
            assert_eq!(Message::decode(&m.encode()), Some(m));
        }
        for m in [
            Message::Console,
            Message::Cloned(-1),
            Message::Cloned(4_194_304),
            Message::MapIds(7),
            Message::RunHooks,
            Message::CgroupFull,
            Message::SeccompListener(9),
            Message::Ready,
            Message::Namespaces,
            Message::InUserNamespace,
            Message::FsContext,
        ] {
            assert_eq!(Message::decode(&m.encode()), Some(m));
        }
    }

    #[test]
    fn foreign_messages_are_refused() {
        assert_eq!(Message::decode(&[]), None);
        assert_eq!(Message::decode(&[0; LEN]), None);
        assert_eq!(Message::decode(&[9; LEN]), None);
        assert_eq!(Message::decode(&[1; LEN + 1]), None);
        let mut bad_step = Message::Failure(Failure { step: Step::Exec, index: 0, errno: 0 }).encode();
        bad_step[4..8].copy_from_slice(&9999u32.to_ne_bytes());
        assert_eq!(Message::decode(&bad_step), None);
    }
}
