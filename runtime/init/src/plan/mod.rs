//! The plan: all that the child needs, decided, opened and compiled by the parent before the clone.
//!
//! The plan consists of borrowed data, so the child carries it out without an allocation. The parent words the child's
//! failures with it.

mod process;

use core::{cell::Cell, ffi::CStr};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use crate::defence::Defence;

pub use process::{
    Capabilities, Label, Module, Process, Rlimit, SchedulerAttributes, Scheduling, Seccomp, SeccompWhen,
};

/// A `char *` of a vector for execve(2); null ends the vector.
pub type Ptr = *const core::ffi::c_char;

/// The work of the child, from the clone to execve.
pub struct Plan<'a> {
    /// The child's end of the `SOCK_SEQPACKET` channel ([`crate::wire`]). It is a number and no borrow: the parent closes
    /// its copy right after the clone, so that the death of the child ends the channel.
    pub channel: RawFd,
    /// Fds above 2 that stay open until execve, in ascending order. The child closes all others first.
    pub keep_fds: &'a [RawFd],
    /// The number of fds from 3 on that the payload inherits (`--preserve-fds`).
    pub preserve_fds: u32,
    /// The `tasks` files of the v1 cgroups to enter, open for writing.
    pub cgroup_tasks: &'a [BorrowedFd<'a>],
    /// The namespaces to join or to create after the clone.
    pub namespaces: Namespaces<'a>,
    /// The process may use all CPUs of its cgroup, also those that the runtime was not bound to.
    pub all_cpus: bool,
    /// The text for `/proc/PID/oom_score_adj`.
    pub oom_score_adj: Option<&'a [u8]>,
    /// The name of the session keyring to create or to join (keyrings(7)).
    pub keyring: Option<&'a CStr>,
    /// The SELinux context of a new session keyring.
    pub keyring_label: Option<&'a [u8]>,
    /// The container to build. An exec has none: it joins a container.
    pub container: Option<Container<'a>>,
    /// The source of stdin, stdout and stderr.
    pub stdio: Stdio<'a>,
    /// The payload's identity and rights.
    pub process: Process<'a>,
    /// The wait between create and start. An exec has none.
    pub barrier: Option<Barrier<'a>>,
    /// The memory that the process keeps with [`Namespaces::enter_pid`]. If it is absent, the process keeps all its memory:
    /// a dynamically linked program needs its libraries.
    pub image: Option<Image>,
    /// The files of the process's own namespaces in the host's /proc, at most [`crate::wire::MAX_NAMESPACES`]. The process
    /// at the barrier sends their fds to an exec that asks for them.
    pub namespace_files: &'a [&'a CStr],
}

/// The part of the runtime's address space that [`crate::shed`] keeps: the program itself.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The address of the first byte of the program.
    pub start: usize,
    /// The address after the last byte of the program.
    pub end: usize,
    /// The address after the stack; the runtime has no memory above it.
    pub top: usize,
    /// The size of a page, bytes.
    pub page: usize,
    /// The area that the C library has registered with rseq(2): its offset from the thread pointer, and the sizes in bytes
    /// that it may have been registered with.
    pub rseq: Option<(isize, [u32; 3])>,
}

/// The namespaces to join and to create, besides those that clone3 creates.
pub struct Namespaces<'a> {
    /// The namespaces to join, at most 32, in this order: a user namespace comes last.
    pub joins: &'a [Join<'a>],
    /// `CLONE_NEW*` of the namespaces to create after the joins, because they must belong to a joined user namespace.
    pub unshare: u32,
    /// `unshare` has a pid namespace. Only a child enters it, so a second clone follows.
    pub second_clone: bool,
    /// Create a cgroup namespace last: its root is the cgroup that the process is in (cgroup_namespaces(7)).
    pub unshare_cgroup: bool,
    /// Become uid 0 and gid 0 of the user namespace that was created or joined.
    pub become_root: bool,
    /// `joins` has a pid namespace. setns(2) puts only later children into it. The process that becomes the payload is
    /// therefore cloned into it, and as late as possible: processes of that namespace can see it, so it must have no more
    /// rights than the payload.
    pub enter_pid: bool,
}

impl Namespaces<'_> {
    /// True if the process enters a joined pid namespace at the end of its setup.
    pub(crate) fn enters_pid_last(&self) -> bool {
        self.enter_pid && Defence::PidNamespaceLast.stands()
    }

    /// True if the process enters a new pid namespace at the beginning of its setup.
    pub(crate) fn enters_pid_first(&self) -> bool {
        self.second_clone || self.enter_pid && !Defence::PidNamespaceLast.stands()
    }
}

/// One call of setns(2).
pub struct Join<'a> {
    /// A namespace file, or a pidfd (Linux 5.8) if `flags` has several kinds.
    pub fd: BorrowedFd<'a>,
    /// `CLONE_NEW*`.
    pub flags: u32,
    /// The path in config.json, for the parent's error message.
    pub path: Option<&'a CStr>,
}

/// The work of a container's init that an exec does not have.
pub struct Container<'a> {
    /// The network namespace is new, and its loopback device is to be set up.
    pub new_network: bool,
    /// The host name.
    pub hostname: Option<&'a [u8]>,
    /// The NIS domain name.
    pub domainname: Option<&'a [u8]>,
    /// The root file system and its mounts.
    pub rootfs: Rootfs<'a>,
    /// The kernel parameters to write.
    pub sysctls: &'a [Sysctl<'a>],
    /// The parent moves network devices or runs hooks between the mounts and the pivot.
    pub runtime_hooks: bool,
    /// The hooks that init runs after `runtime_hooks`.
    pub create_container: Hooks<'a>,
    /// The hooks that init runs right before execve.
    pub start_container: Hooks<'a>,
}

/// The hooks of one point of the container's lifecycle.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    /// The hooks, in order.
    pub list: &'a [Hook<'a>],
    /// The container's state as JSON, before and after the pid. The process that runs a hook fills in the pid.
    pub state: [&'a [u8]; 2],
    /// The working directory; by default that of the process that runs the hooks.
    pub directory: Option<&'a CStr>,
    /// A resource limit for the hooks. They inherit the other limits.
    pub limit: Option<Rlimit>,
    /// The signals that the process which runs the hooks ignores, one bit each; a hook ignores none.
    pub ignored_signals: u64,
}

impl Hooks<'_> {
    /// No hooks.
    pub const NONE: Hooks<'static> =
        Hooks { list: &[], state: [&[], &[]], directory: None, limit: None, ignored_signals: 0 };
}

/// One hook.
pub struct Hook<'a> {
    /// The absolute path of the program.
    pub path: &'a CStr,
    /// The arguments; null ends them.
    pub args: &'a [Ptr],
    /// The environment; null ends it.
    pub env: &'a [Cell<Ptr>],
    /// The hook is killed after this time, s.
    pub timeout: Option<u32>,
}

/// One kernel parameter of a namespace.
pub struct Sysctl<'a> {
    /// The file, such as `/proc/sys/net/ipv4/ip_forward`.
    pub path: &'a CStr,
    /// The value, written unchanged.
    pub value: &'a [u8],
}

/// The way to make the rootfs the root of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Enter<'a> {
    /// pivot_root(2) in a new mount namespace.
    Pivot,
    /// Move the rootfs onto `/` and chroot(2) (`--no-pivot`, for a host whose root is the initial ramfs). The host's mounts
    /// stay below the new root.
    MoveAndChroot {
        /// Mount points to unmount, relative to the host's root, the deepest first. A process that sees a procfs or sysfs
        /// as a whole may mount one of its own (`mount_too_revealing` of the kernel).
        hide: &'a [&'a CStr],
    },
    /// Attach the rootfs over itself in a mount namespace that is not new, and chroot(2), as runc does. The container's
    /// mounts then stay in that namespace.
    InHost,
    /// Only chroot(2): the container has no mounts.
    Chroot,
}

/// The root file system.
pub struct Rootfs<'a> {
    /// A detached clone of the rootfs; with [`Enter::Chroot`] the directory itself.
    pub tree: BorrowedFd<'a>,
    /// The directory to attach it at, if hooks look for it in the bundle or the mount namespace is not new; by default `/`.
    pub attach_at: Option<&'a CStr>,
    /// The propagation (`MS_*`) that all mounts of the copied host tree get first.
    pub host_propagation: u64,
    /// The way to make it the root.
    pub enter: Enter<'a>,
    /// The mounts, in order.
    pub mounts: &'a [Mount<'a>],
    /// The device nodes that are not in a `/dev` of the parent's making.
    pub devices: &'a [Device<'a>],
    /// Create the default links and `ptmx` in the image's own `/dev`.
    pub dev_links: bool,
    /// Bind the terminal over `/dev/console`.
    pub console: bool,
    /// The payload's working directory, which is created if it is missing.
    pub cwd: &'a CStr,
    /// The paths to make read-only.
    pub readonly_paths: &'a [Cover<'a>],
    /// The paths to mask.
    pub masked_paths: &'a [Cover<'a>],
    /// The options of the tmpfs that masks directories.
    pub mask_options: &'a [FsOption<'a>],
    /// Make the mount of the root read-only.
    pub readonly: bool,
    /// The propagation (`MS_*`) that the new root gets at the end; 0 leaves it unchanged.
    pub propagation: u64,
}

/// A path to cover.
pub struct Cover<'a> {
    /// The absolute path inside the root.
    pub path: &'a CStr,
    /// The mount of the plan that the path lies in.
    pub within: Option<Within<'a>>,
}

/// A path in a mount of the plan. It is resolved from the mount itself: another process may rename the directories above
/// the mount.
#[derive(Clone, Copy)]
pub struct Within<'a> {
    /// The index of the mount, which is [`Mount::kept`].
    pub mount: usize,
    /// The path below the mount's target, without a slash at its beginning; empty for the target.
    pub rest: &'a CStr,
}

/// One mount.
pub struct Mount<'a> {
    /// The absolute path of the target inside the root.
    pub target: &'a CStr,
    /// The source.
    pub source: Source<'a>,
    /// The target must be a directory that no symbolic link leads to (proc and sysfs: CVE-2019-19921, CVE-2023-27561).
    pub plain_directory: bool,
    /// If the target is a symbolic link, mount on the link itself.
    pub onto_link: bool,
    /// The propagations (`MS_*`) that the attached mount gets, in order.
    pub propagation: &'a [u64],
    /// The parent has created and filled this file system. The child clones it and attaches the clone, so that mountinfo
    /// lists the mounts in the order of config.json.
    pub reclone: bool,
    /// Make the mount read-only after all targets of other mounts have been created in it.
    pub readonly_at_end: bool,
    /// Later steps act on the mount and not on its path.
    pub kept: Cell<bool>,
    /// The attached mount while [`Mount::readonly_at_end`] is pending or it is [`Mount::kept`]; `None` in the plan.
    pub attached: Cell<Option<OwnedFd>>,
}

impl Mount<'_> {
    /// Calls `act` with the attached mount. Returns `None` if it is not there.
    pub(crate) fn with_attached<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let tree = self.attached.take()?;
        let done = act(tree.as_fd());
        self.attached.set(Some(tree));
        Some(done)
    }
}

/// The source of a mount.
pub enum Source<'a> {
    /// A detached mount that the parent has created, with its attributes.
    Tree {
        /// From open_tree(2) or fsmount(2).
        fd: BorrowedFd<'a>,
        /// The target must be a directory; otherwise it must be another file.
        directory: bool,
    },
    /// A part of the root file system as it is when the mount's turn comes, with the mounts before it.
    RootBind(RootBind<'a>),
    /// A file system that belongs to a namespace of the child.
    Fs {
        /// The type, such as `proc`.
        fstype: &'a CStr,
        /// The options for fsconfig(2), in order.
        options: &'a [FsOption<'a>],
        /// `MOUNT_ATTR_*`.
        attributes: u32,
        /// The SELinux context of the root, if the file system has no option for it.
        relabel: Option<&'a CStr>,
        /// The root gets the mode of the target if the target exists: a tmpfs without the option `mode`.
        target_mode: bool,
    },
    /// A symbolic link in place of a mount: the names of merged v1 controllers.
    Link {
        /// The content of the link.
        to: &'a CStr,
    },
    /// mount(2) with `MS_REMOUNT`.
    Remount {
        /// The index of the mount of the plan that is at the target, which is [`Mount::kept`].
        of: Option<usize>,
        /// `MS_*`.
        flags: u64,
        /// The options of the file system.
        data: &'a CStr,
    },
}

/// A bind mount of a part of the root file system.
pub struct RootBind<'a> {
    /// The absolute path inside the root.
    pub from: &'a CStr,
    /// Include the mounts below it.
    pub recursive: bool,
    /// The `MOUNT_ATTR_*` to set and to clear on the mount itself.
    pub attributes: (u64, u64),
    /// The `MOUNT_ATTR_*` to set and to clear on it and on all mounts below it.
    pub recursive_attributes: (u64, u64),
    /// The user namespace that maps its ids, and whether the mounts below it are mapped as well.
    pub idmap: Option<(BorrowedFd<'a>, bool)>,
}

/// One option of a file system.
pub enum FsOption<'a> {
    /// A flag, such as `ro`.
    Flag(&'a CStr),
    /// A flag that a file system may not know; it is left out then.
    Optional(&'a CStr),
    /// A key and a value, such as `mode=755`.
    Pair(&'a CStr, &'a CStr),
    /// The pid namespace that a procfs shows, instead of the namespace of the process that creates it.
    PidNamespace(BorrowedFd<'a>),
}

/// One device node or fifo.
pub struct Device<'a> {
    /// The absolute path inside the root.
    pub path: &'a CStr,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and the permission bits.
    pub mode: u32,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The standard streams.
pub enum Stdio<'a> {
    /// The runtime's own streams.
    Inherit,
    /// stdin, stdout and stderr.
    Fds([BorrowedFd<'a>; 3]),
    /// A terminal of the container's devpts; the parent gets the master.
    Terminal {
        /// The number of rows; 0 if config.json has no size.
        rows: u16,
        /// The number of columns; 0 if config.json has no size.
        columns: u16,
        /// Clear `ONLCR`: the terminal of the user turns newlines into two characters.
        bare_newlines: bool,
    },
}

/// The wait between create and start.
#[derive(Clone, Copy)]
pub enum Barrier<'a> {
    /// The byte [`crate::wire::START`] arrives over the plan's channel.
    Channel,
    /// The byte [`crate::wire::START`] arrives over a connection to this listening socket. The result of execve goes back
    /// over the same connection.
    Listen(BorrowedFd<'a>),
}
