//! The messages between the parent and the child, over one `SOCK_SEQPACKET` pair.
//!
//! The parent sends single bytes. The child sends messages of a fixed size, some of them with file descriptors
//! (`SCM_RIGHTS`, unix(7)). A message that needs an answer and its answer form a pair.
//!
//! ```text
//! parent                            child
//!   GO  --------------------------->  The child is in its cgroup, and its ids are mapped.
//!        <----------------- CgroupFull  Only if the cgroup has no room for the second clone.
//!   RETRY  ------------------------>  The child is outside that cgroup for the moment.
//!        <-------------- Cloned(pidfd)  Only with a second clone, into a pid namespace that is joined or new.
//!   ADOPTED ----------------------->  The second child is in the cgroup; until then it does nothing.
//!        <------------ Console(master)  Only with a terminal.
//!        <--------------- MapIds(tree)  For each idmapped bind mount of a part of the root file system.
//!   IDS_MAPPED -------------------->
//!        <------------------- RunHooks  Only if the parent has hooks to run before the pivot.
//!   HOOKS_DONE -------------------->
//!        <---------------------- Ready  Only at create: everything before start is done.
//!   GET_NAMESPACES ---------------->  From an exec before start, any number of times.
//!        <------------ Namespaces(fds)
//!   START ------------------------->
//!        <---- SeccompListener(number)  Only with a filter that has a listener; at create, at start, or at an exec.
//!   AGENT_READY ------------------->
//!        <----------------- end of file  execve has succeeded: the channel closes on exec.
//! ```
//!
//! The child can send `Failure` in place of each of its messages. End of file before `Ready` means that the child has died.

/// Lets the child begin.
pub const GO: u8 = b'g';
/// Answers [`Message::Cloned`]: the parent knows the second child, and has put it into its cgroup.
pub const ADOPTED: u8 = b'a';
/// Answers [`Message::CgroupFull`]: the child may try the second clone again.
pub const RETRY: u8 = b'r';
/// Answers [`Message::MapIds`].
pub const IDS_MAPPED: u8 = b'm';
/// Answers [`Message::RunHooks`].
pub const HOOKS_DONE: u8 = b'h';
/// Answers [`Message::SeccompListener`]: the seccomp agent has received the listener.
pub const AGENT_READY: u8 = b'n';
/// Releases the child at the barrier.
pub const START: u8 = b's';
/// Asks the init at the barrier for its namespaces; the answer is [`Message::Namespaces`]. An unprivileged exec cannot open
/// them through /proc, since that init is not dumpable.
pub const GET_NAMESPACES: u8 = b'l';
/// The largest number of fds in a [`Message::Namespaces`]: Linux has eight kinds of namespaces.
pub const MAX_NAMESPACES: usize = 8;
/// The size of a message of the child, bytes.
pub const LEN: usize = 16;

/// A message of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The master of the container's terminal; its fd comes with the message.
    Console,
    /// The second clone has created the process that becomes the payload, with this pid; its pidfd comes with the message.
    Cloned(i32),
    /// The cgroup has reached `pids.max`, so the second clone has failed.
    CgroupFull,
    /// The ids of a detached mount must be mapped as the mount with this index asks for it; its fd comes with the message.
    MapIds(u32),
    /// The mounts are complete, and the parent's hooks are due.
    RunHooks,
    /// The child is at the barrier.
    Ready,
    /// The child's namespaces; their fds come with the message.
    Namespaces,
    /// The child of [`crate::namespace::hold_user_namespace`] is in its user namespace.
    InUserNamespace,
    /// A file system context that a child of init has opened with fsopen(2); its fd comes with the message.
    FsContext,
    /// The filter is loaded, and its listener has this fd number in the child.
    SeccompListener(i32),
    /// A step has failed. The output of a failed hook comes with the message, in two files.
    Failure(Failure),
}

/// The step that has failed. The parent words it, because the parent has the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The index in the plan's list that the step works on; 0 for a step that occurs once.
    pub index: u32,
    /// The errno of the failed system call; 0 if berth itself refused to continue.
    pub errno: i32,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The steps of the setup that can fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step { $($(#[$doc])* $name,)* }
        impl Step {
            /// All steps.
            pub const ALL: &'static [Step] = &[$(Step::$name),*];
        }
    };
}

steps! {
    /// Clearing `PR_SET_DUMPABLE`.
    Dumpable,
    /// Closing the runtime's file descriptors.
    CloseFds,
    /// Waiting for [`GO`], [`RETRY`] or [`ADOPTED`].
    Channel,
    /// Writing to the `tasks` file `index` of a v1 cgroup.
    Cgroup,
    /// Writing oom_score_adj.
    OomScoreAdj,
    /// A file of the host's /proc is on no proc file system.
    NotProcfs,
    /// Joining namespace `index`.
    JoinNamespace,
    /// Creating namespaces with unshare(2).
    Unshare,
    /// The second clone.
    Clone,
    /// Becoming root of the user namespace.
    BecomeRoot,
    /// Creating or joining the session keyring.
    Keyring,
    /// Creating the session with setsid(2).
    Session,
    /// Setting the loopback device up.
    Loopback,
    /// Setting the propagation of the host's mounts.
    HostPropagation,
    /// Attaching the rootfs.
    AttachRootfs,
    /// Cloning a part of the root file system, for mount `index`.
    MountSource,
    /// Finding or creating the target of mount `index`.
    MountTarget,
    /// The target of mount `index` is not a plain directory.
    NotPlainDirectory,
    /// Creating the file system of mount `index`.
    MountCreate,
    /// Labelling the root of mount `index`.
    MountLabel,
    /// Attaching mount `index`.
    MountAttach,
    /// Setting the propagation of mount `index`.
    MountPropagation,
    /// Creating device node `index`.
    Device,
    /// Creating the default links of /dev.
    DevLink,
    /// Opening the container's terminal.
    Console,
    /// Binding the terminal over /dev/console.
    ConsoleBind,
    /// Creating the payload's working directory.
    MakeCwd,
    /// Making path `index` read-only.
    ReadonlyPath,
    /// Masking path `index`.
    MaskedPath,
    /// Making the root read-only.
    RootReadonly,
    /// Setting the propagation of the root.
    RootPropagation,
    /// Entering the root.
    EnterRoot,
    /// Setting the host name.
    Hostname,
    /// Setting the NIS domain name.
    Domainname,
    /// Writing kernel parameter `index`.
    Sysctl,
    /// Reading the container's /etc/passwd.
    Passwd,
    /// Setting up standard stream `index`.
    Stdio,
    /// Setting the CPU affinity.
    Affinity,
    /// Setting the scheduling policy.
    Scheduler,
    /// Setting the I/O priority.
    IoPriority,
    /// Setting the execution domain.
    Personality,
    /// Setting the memory policy.
    MemoryPolicy,
    /// Setting resource limit `index`.
    Rlimit,
    /// Writing label `index`.
    Label,
    /// Reading label `index` back; with errno 0 another label has been read.
    LabelReadBack,
    /// Labelling the session keyring.
    KeyringLabel,
    /// Dropping capabilities from the bounding set.
    BoundingSet,
    /// Setting the supplementary groups.
    Groups,
    /// Setting uid and gid.
    User,
    /// Setting the capability sets.
    Capabilities,
    /// Entering the working directory.
    Cwd,
    /// The working directory lies outside the root (CVE-2024-21626).
    CwdOutside,
    /// PATH has no executable of that name.
    NotOnPath,
    /// The payload cannot be executed; `index` is [`crate::payload::NOT_FOUND`] or [`crate::payload::NOT_EXECUTABLE`].
    Executable,
    /// Resetting the signal mask and the dispositions.
    Signals,
    /// Setting `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// Loading the seccomp filter.
    Seccomp,
    /// Handing the filter's listener to its agent.
    SeccompAgent,
    /// Reading the restrictions of the process back.
    VerifyRestrictions,
    /// The restriction `index` ([`crate::identity::Restriction`]) is weaker than planned.
    NotRestricted,
    /// Unmapping the parent's memory.
    UnmapMemory,
    /// Waiting for the parent's hooks.
    RuntimeHooks,
    /// Executing hook `index`.
    HookStart,
    /// Hook `index` has failed; the errno is its wait status (wait(2)).
    HookStatus,
    /// Hook `index` has exceeded its timeout.
    HookTimeout,
    /// Waiting at the barrier.
    Barrier,
    /// Executing the payload.
    Exec,
}

impl Message {
    /// Encodes the message as four native-endian words: kind, step, index, number.
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

    /// Decodes a message; `None` for bytes that [`Message::encode`] does not produce.
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
    fn messages_are_decoded_as_they_were_encoded() {
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
    fn malformed_messages_are_rejected() {
        assert_eq!(Message::decode(&[]), None);
        assert_eq!(Message::decode(&[0; LEN]), None);
        assert_eq!(Message::decode(&[9; LEN]), None);
        assert_eq!(Message::decode(&[1; LEN + 1]), None);
        let mut bad_step = Message::Failure(Failure { step: Step::Exec, index: 0, errno: 0 }).encode();
        bad_step[4..8].copy_from_slice(&9999u32.to_ne_bytes());
        assert_eq!(Message::decode(&bad_step), None);
    }
}
