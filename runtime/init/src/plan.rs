//! The plan: everything the child needs, decided, opened and compiled by the parent before the clone.
//!
//! It is borrowed and flat, so that carrying it out allocates nothing; the parent words the child's failures with it.

use core::{cell::Cell, ffi::CStr};

use rustix::fd::{BorrowedFd, OwnedFd, RawFd};

/// A `char *` for execve; null ends the vector.
pub type Ptr = *const core::ffi::c_char;

/// What the child carries out, from the clone to execve.
pub struct Plan<'a> {
    /// `SOCK_SEQPACKET` to the parent; see [`crate::wire`]. A number: the parent closes its copy of the child's end
    /// right after the clone, since the end of the child must be the end of the channel.
    pub channel: RawFd,
    /// Fds above 2 that stay open until execve, ascending; every other one is closed first of all.
    pub keep_fds: &'a [RawFd],
    /// How many fds from 3 on go to the payload (`--preserve-fds`).
    pub preserve_fds: u32,
    /// v1 `tasks` files of the cgroups to enter, open for writing.
    pub cgroup_tasks: &'a [BorrowedFd<'a>],
    /// Namespaces to enter or make after the clone.
    pub namespaces: Namespaces<'a>,
    /// Takes every CPU that its cgroup has, and not only those that the runtime was bound to.
    pub all_cpus: bool,
    /// Host-side adjustments of the process itself.
    pub oom_score_adj: Option<&'a [u8]>,
    /// Session keyring to create or join, by name; `keyrings(7)`.
    pub keyring: Option<&'a CStr>,
    /// SELinux context that it is made with.
    pub keyring_label: Option<&'a [u8]>,
    /// The container to build; absent for an exec, which finds it built.
    pub container: Option<Container<'a>>,
    /// Where stdin, stdout and stderr come from.
    pub stdio: Stdio<'a>,
    /// Who the payload is and what it may do.
    pub process: Process<'a>,
    /// What to wait for between `create` and `start`; absent for an exec.
    pub barrier: Option<Barrier<'a>>,
    /// The program, with [`Namespaces::enter_pid`]; absent where it is not linked statically, and so needs more.
    pub image: Option<Image>,
    /// Files of its own namespaces in the host's /proc, given to whoever asks for them until then; at most 8.
    pub namespace_files: &'a [&'a CStr],
}

/// What of the runtime's address space a process keeps when it gives up the rest ([`crate::shed`]): the program itself.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Address of its first byte.
    pub start: usize,
    /// Address after its last byte.
    pub end: usize,
    /// Address after the stack, above which the runtime has nothing.
    pub top: usize,
    /// The size of a page, bytes.
    pub page: usize,
    /// Where the C library has registered an area with rseq(2), from the thread pointer on, and sizes that the area may
    /// have been registered with, bytes.
    pub rseq: Option<(isize, [u32; 3])>,
}

/// Namespaces to enter and to make, beyond those that clone3 itself made.
pub struct Namespaces<'a> {
    /// Entered in this order, a user namespace last; at most 32.
    pub joins: &'a [Join<'a>],
    /// Made after the joins: needed when they must belong to a joined user namespace.
    pub unshare: u32,
    /// The pid namespace among `unshare` is only entered by a second clone.
    pub second_clone: bool,
    /// Made last of all, once the process is in its cgroup: its root is the maker's cgroup (cgroup_namespaces(7)).
    pub unshare_cgroup: bool,
    /// Become uid and gid 0 of a user namespace that was made or joined.
    pub become_root: bool,
    /// A pid namespace is among `joins`. setns(2) puts only later children into it, so the process that becomes the
    /// payload is cloned into it at the end, when it holds no more than the payload: those that live there see it.
    pub enter_pid: bool,
}

/// One setns(2).
pub struct Join<'a> {
    /// A namespace file, or a pidfd (Linux 5.8) with several flags.
    pub fd: BorrowedFd<'a>,
    /// `CLONE_NEW*`.
    pub flags: u32,
}

/// What only a container's init does.
pub struct Container<'a> {
    /// The network namespace is new: its loopback device is to be set up.
    pub new_network: bool,
    /// UTS names.
    pub hostname: Option<&'a [u8]>,
    /// NIS domain name.
    pub domainname: Option<&'a [u8]>,
    /// The root file system and what is mounted in it.
    pub rootfs: Rootfs<'a>,
    /// Paths below /proc/sys and the values to write.
    pub sysctls: &'a [Sysctl<'a>],
    /// The parent has network devices to bring or hooks to run between the mounts and the way into the root.
    pub runtime_hooks: bool,
    /// Run by init, right after those.
    pub create_container: Hooks<'a>,
    /// Run by init, right before execve.
    pub start_container: Hooks<'a>,
}

/// The hooks of one point of the container's life.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    /// In order.
    pub list: &'a [Hook<'a>],
    /// The state as JSON, before and after the pid, which the maker of a hook fills in.
    pub state: [&'a [u8]; 2],
    /// Working directory; absent: that of the maker.
    pub directory: Option<&'a CStr>,
    /// A limit that they have; the others are those of the maker.
    pub limit: Option<Rlimit>,
    /// Signals that the maker ignores, by bit.
    pub ignored_signals: u64,
}

impl Hooks<'_> {
    /// No hooks.
    pub const NONE: Hooks<'static> =
        Hooks { list: &[], state: [&[], &[]], directory: None, limit: None, ignored_signals: 0 };
}

/// One hook.
pub struct Hook<'a> {
    /// Absolute.
    pub path: &'a CStr,
    /// Ends in null.
    pub args: &'a [Ptr],
    /// Ends in null.
    pub env: &'a [Cell<Ptr>],
    /// Seconds after which it is killed.
    pub timeout: Option<u32>,
}

/// One kernel parameter of a namespace.
pub struct Sysctl<'a> {
    /// `/proc/sys/net/ipv4/ip_forward`.
    pub path: &'a CStr,
    /// Written as it is.
    pub value: &'a [u8],
}

/// How the root is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Enter<'a> {
    /// pivot_root(2) in a mount namespace of its own.
    Pivot,
    /// Mount over `/` and chroot (`--no-pivot`, for a host whose root is the initial ramfs). The host's mounts stay
    /// below it; those of `hide` go, since whoever sees a whole procfs or sysfs may mount one of his own.
    MoveAndChroot {
        /// Mountpoints, relative to the host's root, the deepest first.
        hide: &'a [&'a CStr],
    },
    /// Hang the tree over the rootfs in a mount namespace that is the host's or somebody else's, and chroot: what is
    /// mounted for the container is then theirs, and stays (runc's way).
    InHost,
    /// chroot only: nothing is mounted there.
    Chroot,
}

/// The root file system.
pub struct Rootfs<'a> {
    /// A detached clone of the rootfs (or, with [`Enter::Chroot`], the directory itself).
    pub tree: BorrowedFd<'a>,
    /// Where in the copied host tree it is hung, for hooks that look for it in the bundle, or in the host's own; absent:
    /// over `/`.
    pub attach_at: Option<&'a CStr>,
    /// `MS_*` propagation put recursively on the copied host tree first.
    pub host_propagation: u64,
    /// How the root is entered.
    pub enter: Enter<'a>,
    /// In order.
    pub mounts: &'a [Mount<'a>],
    /// Nodes outside a `/dev` that the parent built.
    pub devices: &'a [Device<'a>],
    /// The default links and `ptmx`, when `/dev` is the image's own directory.
    pub dev_links: bool,
    /// Bind the terminal over `/dev/console`.
    pub console: bool,
    /// Made when missing (the payload's cwd).
    pub cwd: &'a CStr,
    /// Remounted read-only.
    pub readonly_paths: &'a [&'a CStr],
    /// Hidden.
    pub masked_paths: &'a [&'a CStr],
    /// Options of the tmpfs that hides directories.
    pub mask_options: &'a [FsOption<'a>],
    /// The root mount is read-only.
    pub readonly: bool,
    /// `MS_SHARED`… put on the new root at the end; 0 leaves it.
    pub propagation: u64,
}

/// One mount.
pub struct Mount<'a> {
    /// Absolute, inside the root.
    pub target: &'a CStr,
    /// What is mounted.
    pub source: Source<'a>,
    /// The target must be a plain directory, no link (proc and sysfs: CVE-2019-19921, CVE-2023-27561).
    pub plain_directory: bool,
    /// A target that is a link is mounted on, instead of what it leads to.
    pub onto_link: bool,
    /// `MS_*` propagation, each put on the attached mount in order.
    pub propagation: &'a [u64],
    /// The parent has made and filled its file system, and it is attached by a mount that is made in its turn.
    pub reclone: bool,
    /// It becomes read-only when nothing has to be made in it any more: other mounts may lie in it.
    pub readonly_at_end: bool,
    /// The attached mount until then; empty in the plan.
    pub attached: Cell<Option<OwnedFd>>,
}

/// What is mounted.
pub enum Source<'a> {
    /// A detached mount that the parent made, attributes set.
    Tree {
        /// From open_tree(2) or fsmount(2).
        fd: BorrowedFd<'a>,
        /// The target is a directory; else a file.
        directory: bool,
    },
    /// What is at a place in the tree by then: it shows what was mounted before it.
    RootBind(RootBind<'a>),
    /// A file system that belongs to a namespace of the child.
    Fs {
        /// `proc`.
        fstype: &'a CStr,
        /// For fsconfig(2), in order.
        options: &'a [FsOption<'a>],
        /// `MOUNT_ATTR_*`.
        attributes: u32,
        /// SELinux context for its root, where the file system takes none as an option.
        relabel: Option<&'a CStr>,
        /// The root gets the mode of the target directory, if that exists: a tmpfs without the option `mode`.
        target_mode: bool,
    },
    /// A symbolic link, not a mount: the names of merged v1 controllers.
    Link {
        /// Where it points.
        to: &'a CStr,
    },
    /// mount(2) with `MS_REMOUNT`.
    Remount {
        /// `MS_*`.
        flags: u64,
        /// For the file system.
        data: &'a CStr,
    },
}

/// A bind mount of a part of the root file system.
pub struct RootBind<'a> {
    /// Absolute, inside the root.
    pub from: &'a CStr,
    /// With all that is mounted below it.
    pub recursive: bool,
    /// `MOUNT_ATTR_*` to set and to clear.
    pub attributes: (u64, u64),
    /// The same for all that is mounted below it, too.
    pub recursive_attributes: (u64, u64),
    /// A user namespace whose ids it is mapped by, and whether all below it are.
    pub idmap: Option<(BorrowedFd<'a>, bool)>,
}

/// One option of a file system.
pub enum FsOption<'a> {
    /// `ro`.
    Flag(&'a CStr),
    /// A flag that a file system which does not know it has no use for.
    Optional(&'a CStr),
    /// `mode=755`.
    Pair(&'a CStr, &'a CStr),
    /// The pid namespace that a procfs shows, in place of the maker's own.
    PidNamespace(BorrowedFd<'a>),
}

/// One device node, or fifo.
pub struct Device<'a> {
    /// Absolute, inside the root.
    pub path: &'a CStr,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and the permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Standard streams.
pub enum Stdio<'a> {
    /// As they are.
    Inherit,
    /// stdin, stdout, stderr.
    Fds([BorrowedFd<'a>; 3]),
    /// A terminal of the container's devpts; the master goes to the parent.
    Terminal {
        /// Rows, when the spec names a size.
        rows: u16,
        /// Columns; 0 when none is named.
        columns: u16,
        /// Newlines are not turned into two characters: the terminal that shows it will do that.
        bare_newlines: bool,
    },
}

/// The gate between `create` and `start`.
#[derive(Clone, Copy)]
pub enum Barrier<'a> {
    /// A byte on the plan's channel.
    Channel,
    /// A connection to this listening socket, and a byte on it; its other end learns how execve went.
    Listen(BorrowedFd<'a>),
}

/// Who the payload is.
#[derive(Clone, Copy)]
pub struct Process<'a> {
    /// Ends in null.
    pub args: &'a [Ptr],
    /// Ends in null; the slot before it is free for HOME when `home` is set.
    pub env: &'a [Cell<Ptr>],
    /// HOME is looked up in the container's passwd.
    pub find_home: bool,
    /// Tried in order, as execvp(3) would.
    pub executables: &'a [&'a CStr],
    /// They were made from PATH: the payload was named without a slash.
    pub from_path: bool,
    /// Absolute.
    pub cwd: &'a CStr,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, all of them, ascending.
    pub groups: &'a [u32],
    /// They are the runtime's own, which stay (user_namespaces(7), "setgroups").
    pub keep_groups: bool,
    /// Where those that the kernel has are read back to: room for one more than there may be.
    pub groups_buffer: &'a [Cell<u32>],
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// The five sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: &'a [Rlimit],
    /// Signals that the runtime ignores, by bit; the payload ignores none.
    pub ignored_signals: u64,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Security module labels for execve, one a module.
    pub labels: &'a [Label<'a>],
    /// Filter, loaded last.
    pub seccomp: Option<Seccomp<'a>>,
    /// CPUs, priorities and the like; absent: as they come.
    pub scheduling: Option<Scheduling<'a>>,
    /// The user may not own the streams that it is given (stdio is chowned to it, as runc does).
    pub chown_stdio: bool,
}

/// How the kernel treats the payload; what is absent stays as it comes.
#[derive(Clone, Copy)]
pub struct Scheduling<'a> {
    /// CPUs to run on, a bit each.
    pub cpus: Option<&'a [u64]>,
    /// Policy and its parameters.
    pub policy: Option<SchedulerAttributes>,
    /// Of the process group: class and priority, ioprio_set(2).
    pub io_priority: Option<u32>,
    /// Execution domain, personality(2).
    pub personality: Option<u32>,
    /// Mode with its flags, and a bit for each node, set_mempolicy(2).
    pub memory: Option<(u32, &'a [u64])>,
}

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerAttributes {
    /// Of this structure, bytes.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, ns.
    pub runtime: u64,
    /// For SCHED_DEADLINE, ns.
    pub deadline: u64,
    /// For SCHED_DEADLINE, ns.
    pub period: u64,
    /// Utilisation at least (Linux 5.3).
    pub util_min: u32,
    /// Utilisation at most (Linux 5.3).
    pub util_max: u32,
}

impl Default for SchedulerAttributes {
    fn default() -> Self {
        Self {
            size: 56,
            policy: 0,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
            util_min: 0,
            util_max: 0,
        }
    }
}

/// Capability sets as bit masks, capabilities(7).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What may ever be gained.
    pub bounding: u64,
    /// What holds now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What a file may pass on.
    pub inheritable: u64,
    /// What survives execve of an unprivileged program.
    pub ambient: u64,
}

/// One resource limit, getrlimit(2).
#[derive(Clone, Copy)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A label that takes effect at execve.
pub struct Label<'a> {
    /// Whose it is.
    pub module: Module,
    /// Below /proc: `thread-self/attr/apparmor/exec` or `thread-self/attr/exec`.
    pub attribute: &'a CStr,
    /// What to write there.
    pub command: &'a [u8],
    /// What must then be read.
    pub name: &'a [u8],
}

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Labels are profiles, or stacks of them.
    AppArmor,
    /// Labels are contexts.
    Selinux,
}

/// A compiled filter, seccomp(2).
#[derive(Clone, Copy)]
pub struct Seccomp<'a> {
    /// Classic BPF.
    pub filter: &'a [libc::sock_filter],
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// When it is loaded.
    pub when: SeccompWhen,
    /// The filter does not kill for prctl(2) and capget(2), with which the process verifies its restrictions.
    pub state_readable: bool,
    /// The filter has a listener, and its agent may take the listener only from a dumpable process.
    pub dumpable_for_agent: bool,
}

/// The point at which the filter is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeccompWhen {
    /// Before another process can see the payload's process. The payload does not set no_new_privs, so loading takes
    /// CAP_SYS_ADMIN, which is dropped right after. The filter has no listener, there are no startContainer hooks, and the
    /// filter allows all calls that follow ([`crate::barrier::AT_BARRIER`], [`crate::barrier::AT_PID_CLONE`]).
    BeforeVisible,
    /// At create. The filter has a listener, so it can be loaded once only, and its agent is checked at create. It allows
    /// [`crate::barrier::AT_BARRIER`].
    BeforeBarrier,
    /// At start, before the hooks. The filter has a listener.
    AfterBarrier,
    /// Right before execve. The filter need not allow anything but execve. Each startContainer hook loads it for itself.
    BeforeExec,
}
