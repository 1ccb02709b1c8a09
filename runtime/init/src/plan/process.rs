//! The part of the plan that describes the payload: program, identity, rights and restrictions.

use core::{cell::Cell, ffi::CStr};

use super::Ptr;

/// The payload's program, identity and rights.
#[derive(Clone, Copy)]
pub struct Process<'a> {
    /// The arguments; null ends them.
    pub args: &'a [Ptr],
    /// The environment; null ends it. With `find_home` the slot before the last null is free for HOME.
    pub env: &'a [Cell<Ptr>],
    /// Look HOME up in the container's /etc/passwd.
    pub find_home: bool,
    /// The paths to try, in order, as execvp(3) does.
    pub executables: &'a [&'a CStr],
    /// The paths were built from PATH, because the name of the payload has no slash.
    pub from_path: bool,
    /// The absolute path of the working directory.
    pub cwd: &'a CStr,
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
    /// All supplementary groups, in ascending order.
    pub groups: &'a [u32],
    /// Do not call setgroups(2): an unprivileged caller must keep its groups (user_namespaces(7), "setgroups"). `groups`
    /// has them.
    pub keep_groups: bool,
    /// The buffer for reading the groups back: one slot more than `groups`.
    pub groups_buffer: &'a [Cell<u32>],
    /// The file mode creation mask; by default that of the runtime.
    pub umask: Option<u32>,
    /// The five capability sets.
    pub capabilities: Capabilities,
    /// The resource limits.
    pub rlimits: &'a [Rlimit],
    /// The signals that the runtime ignores, one bit each; the payload ignores none.
    pub ignored_signals: u64,
    /// Set `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// The labels of the security modules, at most one for each module. They take effect at execve.
    pub labels: &'a [Label<'a>],
    /// The seccomp filter.
    pub seccomp: Option<Seccomp<'a>>,
    /// CPU affinity, scheduler, priorities and memory policy.
    pub scheduling: Option<Scheduling<'a>>,
    /// chown stdio to the process's uid, as runc does.
    pub chown_stdio: bool,
}

/// The scheduling of the payload; an absent value is inherited.
#[derive(Clone, Copy)]
pub struct Scheduling<'a> {
    /// The CPUs to run on, one bit each.
    pub cpus: Option<&'a [u64]>,
    /// The policy and its parameters.
    pub policy: Option<SchedulerAttributes>,
    /// Class and priority of the process group, as ioprio_set(2) takes them.
    pub io_priority: Option<u32>,
    /// The execution domain, as personality(2) takes it.
    pub personality: Option<u32>,
    /// The mode with its flags, and one bit for each node, as set_mempolicy(2) takes them.
    pub memory: Option<(u32, &'a [u64])>,
}

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerAttributes {
    /// The size of this structure, bytes.
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
    /// The minimum of the utilisation (Linux 5.3).
    pub util_min: u32,
    /// The maximum of the utilisation (Linux 5.3).
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

/// Capability sets as bit masks (capabilities(7)).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The limit of all sets that execve can give.
    pub bounding: u64,
    /// The capabilities that the kernel checks.
    pub effective: u64,
    /// The limit of the effective set.
    pub permitted: u64,
    /// The capabilities that an executable file can pass on.
    pub inheritable: u64,
    /// The capabilities that stay over an execve of an unprivileged program.
    pub ambient: u64,
}

/// One resource limit (getrlimit(2)).
#[derive(Clone, Copy)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// A label that takes effect at execve.
pub struct Label<'a> {
    /// The security module.
    pub module: Module,
    /// The file below /proc: `thread-self/attr/apparmor/exec` or `thread-self/attr/exec`.
    pub attribute: &'a CStr,
    /// The text to write.
    pub command: &'a [u8],
    /// The label that must be read back.
    pub name: &'a [u8],
}

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Its labels are profiles, or stacks of profiles.
    AppArmor,
    /// Its labels are contexts.
    Selinux,
}

/// A compiled filter for seccomp(2).
#[derive(Clone, Copy)]
pub struct Seccomp<'a> {
    /// The program, classic BPF.
    pub filter: &'a [libc::sock_filter],
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// The point at which it is loaded.
    pub when: SeccompWhen,
    /// The filter kills neither for prctl(2) nor for capget(2), with which the child reads its restrictions back.
    pub state_readable: bool,
    /// The filter has a listener, and its agent can take the listener only from a dumpable process.
    pub dumpable_for_agent: bool,
}

/// The point at which the filter is loaded. A filter that is loaded early must allow all calls that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeccompWhen {
    /// Before another process can see this one. The payload does not set no_new_privs, so loading takes CAP_SYS_ADMIN,
    /// which is dropped right afterwards. The filter has no listener, and allows [`crate::barrier::AT_BARRIER`] and
    /// [`crate::barrier::AT_PID_CLONE`]. There are no startContainer hooks.
    BeforeVisible,
    /// At create. The filter has a listener and can be loaded once only, and a missing agent is an error of create. It
    /// allows [`crate::barrier::AT_BARRIER`].
    BeforeBarrier,
    /// At start, before the hooks. The filter has a listener.
    AfterBarrier,
    /// Right before execve. The filter has to allow execve alone. Each startContainer hook loads it for itself.
    BeforeExec,
}
