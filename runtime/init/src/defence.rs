//! The defences that `berth-weak`, a program of the tests, can leave out.
//!
//! A test of a defence has a control: the same attack succeeds on a berth without the defence. In each program that is
//! installed, [`Defence::stands`] is the constant `true`, and the compiler removes the question. The feature `weak` makes
//! it a question to a static, which the program sets before it clones, so the child finds the same answer.

/// A defence against published faults of container runtimes. docs/security/ledger.md lists the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Defence {
    /// The third field of a line of passwd(5) is the uid; a name that looks like a number is none.
    PasswdUid,
    /// The length up to which the image's /etc/passwd is read.
    PasswdBound,
    /// A capability set that config.json does not have is empty.
    AbsentSets,
    /// The process is not dumpable until execve(2).
    NotDumpable,
    /// A joined pid namespace is entered last, with the payload's rights.
    PidNamespaceLast,
    /// The runtime runs from a file that no process can write.
    SealedProgram,
    /// No mount of config.json covers a file of procfs that the runtime writes to.
    NoMountInProc,
    /// Labels and kernel parameters are written through the host's /proc.
    HostProc,
    /// Paths inside the root are resolved with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`.
    InRoot,
    /// proc and sysfs are mounted on directories that no symbolic link leads to.
    PlainTarget,
    /// Mounts of cgroups are read-only in a user namespace without a cgroup namespace.
    CgroupReadonly,
    /// The terminal is one of a devpts at /dev/pts.
    OwnDevpts,
    /// The console is bound by the descriptor of the terminal, and not by its name.
    ConsoleByFd,
    /// The child closes the descriptors that the plan does not name.
    ClosedFds,
    /// The working directory is inside the root.
    CwdInside,
    /// Kernel parameters belong to a namespace of the container.
    SysctlNames,
    /// A key of `unified` is the name of a file in the container's cgroup.
    UnifiedNames,
    /// The supplementary groups are those of config.json.
    ExactGroups,
    /// The id that setresuid(2) takes for "unchanged" is refused.
    NoUnchangedId,
    /// Identity, rights and labels are read back before execve(2).
    ReadBack,
    /// The process is born in the container's cgroup, or enters it before all other work.
    OwnCgroup,
    /// The state directory of a container is for its owner alone.
    PrivateState,
}

impl Defence {
    /// True unless a test has taken the defence out of its own program.
    #[cfg(not(feature = "weak"))]
    #[inline(always)]
    pub const fn stands(self) -> bool {
        true
    }

    /// True unless [`take_out`] was called for the defence.
    #[cfg(feature = "weak")]
    pub fn stands(self) -> bool {
        TAKEN_OUT.load(core::sync::atomic::Ordering::Relaxed) & self.bit() == 0
    }

    /// The bit of the defence in the mask of the variable `BERTH_WEAK`.
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }
}

#[cfg(feature = "weak")]
static TAKEN_OUT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Takes the defences of a mask of [`Defence::bit`]s out of this process and of all that it clones.
#[cfg(feature = "weak")]
pub fn take_out(mask: u64) {
    TAKEN_OUT.store(mask, core::sync::atomic::Ordering::Relaxed);
}
