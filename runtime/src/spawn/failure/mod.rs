//! The wording of failures in the child.
//!
//! The child reports a step, an index and an errno ([`berth_init::wire::Failure`]). The parent still has the plan, and
//! words the failure with the operand from there: the path, the namespace, the file descriptor.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use berth_init::{
    identity::Restriction,
    payload,
    plan::{Enter, Join, Module, Plan, Rootfs},
    wire::{Failure, Step},
};

use crate::{
    Error, Kind,
    error::errno_text,
    namespace::{self, kind},
};

/// Operands that the plan does not hold.
#[derive(Default)]
pub struct Names<'n> {
    /// `"proc" to rootfs at "/proc"`, by the index of the mount.
    pub mounts: &'n [String],
    /// `process.args[0]`.
    pub program: &'n str,
    /// The cpuset of the payload's cgroup has some of the CPUs only.
    pub cpus_bound: bool,
}

/// The error of a failure in the child. After start there is no plan; the steps that can fail then need none.
pub fn to_error(failure: Failure, plan: Option<&Plan<'_>>, names: &Names<'_>) -> Error {
    let Failure { step, index, errno } = failure;
    let words = Words { failure, plan, names };
    let program = names.program;
    match step {
        Step::NotOnPath => Error::new(Kind::NotFound, format!("exec: {program:?}: executable file not found in $PATH")),
        Step::Executable if index == payload::NOT_FOUND => {
            Error::new(Kind::NotFound, format!("exec: {program:?}: stat {program}: {}", errno_text(errno)))
        }
        Step::Executable => Error::new(Kind::Internal, format!("exec: {program:?}: {}", errno_text(errno))),
        Step::Exec => words.error().with_kind(Kind::NotExecuted),
        Step::CwdOutside | Step::NotPlainDirectory => words.error().with_kind(Kind::InvalidArgument),
        Step::MaskedPath if errno == 0 => words.error().with_kind(Kind::InvalidArgument),
        Step::Scheduler if errno == libc::EPERM && names.cpus_bound => {
            let text = "process.scheduler: process scheduler can't be used together with AllowedCPUs";
            Error::new(Kind::Unsupported, text)
        }
        Step::HookStatus => Error::new(Kind::Internal, format!("{}: wait status {errno:#x}", words.operation())),
        _ => words.error(),
    }
}

/// One failure, with all that its words are made from.
struct Words<'w> {
    failure: Failure,
    plan: Option<&'w Plan<'w>>,
    names: &'w Names<'w>,
}

impl<'w> Words<'w> {
    /// The operation, and the errno's text unless berth itself refused.
    fn error(&self) -> Error {
        match self.failure.errno {
            0 => Error::new(Kind::Internal, self.operation()),
            errno => Error::from_errno(errno).context(self.operation()),
        }
    }

    /// What the child was doing, with its operand, in runc's words where runc has words for it.
    fn operation(&self) -> String {
        let fixed = fixed(self.failure.step).map(str::to_owned);
        fixed.or_else(|| self.on_mount()).or_else(|| self.on_rootfs()).unwrap_or_else(|| self.on_process())
    }

    /// The steps of one mount.
    fn on_mount(&self) -> Option<String> {
        let mount = |verb: &str| {
            let name = self.names.mounts.get(self.index()).map_or("a mount of the container", String::as_str);
            Some(format!("error mounting {name}: {verb}"))
        };
        match self.failure.step {
            Step::MountSource => mount("bind it from the root file system"),
            Step::MountTarget => mount("create mountpoint"),
            Step::MountCreate => mount("create filesystem"),
            Step::MountLabel => mount("linux.mountLabel: set security.selinux"),
            Step::MountAttach => mount("move_mount"),
            Step::MountPropagation => mount("set propagation"),
            Step::NotPlainDirectory => {
                let target =
                    find(self.rootfs().and_then(|rootfs| rootfs.mounts.get(self.index())).map(|mount| mount.target));
                mount(&format!("{target:?} must be mounted on ordinary directory"))
            }
            _ => None,
        }
    }

    /// The steps that build the root file system.
    fn on_rootfs(&self) -> Option<String> {
        let container = self.plan.and_then(|plan| plan.container.as_ref());
        let rootfs = self.rootfs();
        let n = self.index();
        match self.failure.step {
            Step::HostPropagation => {
                let propagation = propagation(rootfs.map_or(0, |rootfs| rootfs.host_propagation));
                Some(format!("linux.rootfsPropagation: make the mounts of the host {propagation}"))
            }
            Step::AttachRootfs => {
                let place = rootfs.and_then(|rootfs| rootfs.attach_at).unwrap_or(c"/");
                Some(format!("root.path: attach the rootfs at {}", text(place)))
            }
            Step::Device => {
                let path = find(rootfs.and_then(|rootfs| rootfs.devices.get(n)).map(|device| device.path));
                Some(format!("error creating device nodes: {path}"))
            }
            Step::MakeCwd => Some(format!("process.cwd: mkdir {}", find(rootfs.map(|rootfs| rootfs.cwd)))),
            Step::ReadonlyPath => {
                let path = find(rootfs.and_then(|rootfs| rootfs.readonly_paths.get(n)).map(|cover| cover.path));
                Some(format!("can't make {path:?} read-only"))
            }
            Step::MaskedPath if self.failure.index == u32::MAX => Some("can't mask paths with /dev/null".to_owned()),
            Step::MaskedPath => {
                let path = find(rootfs.and_then(|rootfs| rootfs.masked_paths.get(n)).map(|cover| cover.path));
                let root = "leads to the root of the container, which cannot be masked";
                Some(match self.failure.errno {
                    0 => format!("linux.maskedPaths: {path:?} {root}"),
                    _ => format!("can't mask path {path:?}"),
                })
            }
            Step::RootPropagation => {
                let propagation = propagation(rootfs.map_or(0, |rootfs| rootfs.propagation));
                Some(format!("linux.rootfsPropagation: make the root of the container {propagation}"))
            }
            Step::EnterRoot => {
                Some(format!("root.path: enter the rootfs: {}", rootfs.map_or("chroot", |rootfs| entry(rootfs.enter))))
            }
            Step::Sysctl => {
                let path = find(container.and_then(|container| container.sysctls.get(n)).map(|sysctl| sysctl.path));
                Some(format!("linux.sysctl: write {path}"))
            }
            Step::Hostname => {
                let name = bytes(container.and_then(|container| container.hostname));
                Some(format!("hostname: sethostname {name:?}"))
            }
            Step::Domainname => {
                let name = bytes(container.and_then(|container| container.domainname));
                Some(format!("domainname: setdomainname {name:?}"))
            }
            _ => None,
        }
    }

    /// The steps that change the process itself.
    fn on_process(&self) -> String {
        let Failure { step, index, errno } = self.failure;
        let (n, process) = (self.index(), self.plan.map(|plan| &plan.process));
        match step {
            Step::Cgroup => {
                let file = self.plan.and_then(|plan| plan.cgroup_tasks.get(n)).map(|fd| path_of(*fd));
                format!("linux.cgroupsPath: write {}", file.unwrap_or_else(|| "the tasks file".to_owned()))
            }
            Step::OomScoreAdj => {
                let value = bytes(self.plan.and_then(|plan| plan.oom_score_adj));
                format!("process.oomScoreAdj: write {value} to /proc/thread-self/oom_score_adj")
            }
            Step::JoinNamespace => {
                let join = self.plan.and_then(|plan| plan.namespaces.joins.get(n));
                join.map_or_else(|| "linux.namespaces: join the container's namespaces".to_owned(), joined)
            }
            Step::Unshare => {
                let namespaces = self.plan.map(|plan| &plan.namespaces);
                let made = namespaces.map_or(0, |all| all.unshare | if all.unshare_cgroup { kind::CGROUP } else { 0 });
                format!("linux.namespaces: unshare {}", kinds(made))
            }
            Step::Keyring => format!("join session keyring {:?}", find(self.plan.and_then(|plan| plan.keyring))),
            Step::KeyringLabel => {
                let label = bytes(self.plan.and_then(|plan| plan.keyring_label));
                format!("process.selinuxLabel: {label:?}: can't set the keyring's label in attr/keycreate")
            }
            Step::Stdio => format!("set up {}", stream(index)),
            Step::Rlimit => {
                let limit = process.and_then(|process| process.rlimits.get(n));
                format!("error setting rlimit type {}", limit.map_or(index, |limit| limit.resource))
            }
            Step::Label => self.label("write"),
            Step::LabelReadBack if errno == 0 => self.label("another label is read back from"),
            Step::LabelReadBack => self.label("read"),
            Step::Groups => {
                let groups = process.map(|process| process.groups).unwrap_or_default();
                format!("process.user.additionalGids: setgroups {groups:?}")
            }
            Step::User => {
                let (uid, gid) = process.map_or((0, 0), |process| (process.uid, process.gid));
                format!("process.user: set uid {uid} and gid {gid}")
            }
            Step::Cwd => {
                let cwd = find(process.map(|process| process.cwd));
                format!("chdir to cwd ({cwd:?}) set in config.json failed")
            }
            Step::NotRestricted => {
                let restriction = restriction(Restriction::from_index(index));
                format!("refusing to run: {restriction} weaker than planned")
            }
            Step::HookStart => format!("start hook #{index}"),
            Step::HookStatus => format!("hook #{index} failed"),
            Step::HookTimeout => format!("hook #{index} ran past specified timeout"),
            _ => format!("exec {}", self.names.program),
        }
    }

    fn rootfs(&self) -> Option<&Rootfs<'w>> {
        self.plan.and_then(|plan| plan.container.as_ref()).map(|container| &container.rootfs)
    }

    fn index(&self) -> usize {
        usize::try_from(self.failure.index).unwrap_or(usize::MAX)
    }

    /// The field, the label, runc's words, and the file of the label that failed.
    fn label(&self, verb: &str) -> String {
        let Some(label) = self.plan.and_then(|plan| plan.process.labels.get(self.index())) else {
            return "open /proc to set the labels of the process".to_owned();
        };
        let (field, what) = match label.module {
            Module::AppArmor => {
                ("process.apparmorProfile", "unable to apply apparmor profile: apparmor failed to apply profile")
            }
            Module::Selinux => ("process.selinuxLabel", "can't set process label"),
        };
        format!("{field}: {:?}: {what}: {verb} /proc/{}", String::from_utf8_lossy(label.name), text(label.attribute))
    }
}

/// The words of a step without an operand in the plan; `None` for a step that has one. A new step does not compile until
/// it is listed here, and fails the test below until it has words.
fn fixed(step: Step) -> Option<&'static str> {
    match step {
        Step::Dumpable => Some("clear PR_SET_DUMPABLE"),
        Step::NotProcfs => {
            Some("refusing to write through /proc: it is no proc file system, or a part of it is covered")
        }
        Step::CloseFds => Some("close_range of the runtime's file descriptors"),
        Step::Channel => Some("wait on the channel for the runtime"),
        Step::Clone => Some("linux.namespaces: clone the process into the pid namespace"),
        Step::BecomeRoot => Some("linux.namespaces: user: become uid 0 and gid 0 of the user namespace"),
        Step::Session => Some("setsid of the container's process"),
        Step::Loopback => Some("linux.namespaces: network: set the loopback device up"),
        Step::DevLink => Some("error setting up /dev symlinks"),
        Step::Console => Some("open the container's terminal in /dev/pts"),
        Step::ConsoleBind => Some("bind the container's terminal over /dev/console"),
        Step::RootReadonly => Some("root.readonly: make the root of the container read-only"),
        Step::Passwd => Some("read /etc/passwd for HOME"),
        Step::Affinity => Some("process.execCPUAffinity.final: error setting final CPU affinity"),
        Step::Scheduler => Some("process.scheduler: error setting scheduler"),
        Step::IoPriority => Some("process.ioPriority: failed to set io priority"),
        Step::Personality => Some("linux.personality: personality"),
        Step::MemoryPolicy => Some("linux.memoryPolicy: set_mempolicy"),
        Step::BoundingSet => Some("process.capabilities.bounding: unable to apply caps"),
        Step::Capabilities => Some("process.capabilities: unable to apply caps"),
        Step::CwdOutside => Some(
            "process.cwd: current working directory is outside of container mount namespace root -- possible container breakout detected",
        ),
        Step::Signals => Some("reset the signal mask and the signal handlers"),
        Step::NoNewPrivs => Some("process.noNewPrivileges: set PR_SET_NO_NEW_PRIVS"),
        Step::Seccomp => Some("linux.seccomp: error loading seccomp filter"),
        Step::SeccompAgent => Some("linux.seccomp.listenerPath: the agent has not taken the listener"),
        Step::VerifyRestrictions => Some("refusing to run: read back the restrictions of the process"),
        Step::UnmapMemory => Some("unmap the memory of the runtime before the pid namespace is entered"),
        Step::RuntimeHooks => Some("wait on the channel for the runtime's hooks"),
        Step::Barrier => Some("wait for start"),
        Step::Cgroup | Step::JoinNamespace | Step::Unshare | Step::Keyring | Step::KeyringLabel => None,
        Step::HostPropagation
        | Step::AttachRootfs
        | Step::RootPropagation
        | Step::EnterRoot
        | Step::NotPlainDirectory => None,
        Step::MountSource
        | Step::MountTarget
        | Step::MountCreate
        | Step::MountLabel
        | Step::MountAttach
        | Step::MountPropagation => None,
        Step::Device
        | Step::MakeCwd
        | Step::ReadonlyPath
        | Step::MaskedPath
        | Step::Hostname
        | Step::Domainname
        | Step::Sysctl => None,
        Step::Stdio | Step::Rlimit | Step::Label | Step::LabelReadBack | Step::Groups | Step::User | Step::Cwd => None,
        Step::NotOnPath | Step::Executable | Step::Exec | Step::NotRestricted => None,
        Step::OomScoreAdj | Step::HookStart | Step::HookStatus | Step::HookTimeout => None,
    }
}

/// The restriction, as the subject of "is weaker than planned" or "are weaker than planned".
fn restriction(restriction: Option<Restriction>) -> &'static str {
    match restriction {
        Some(Restriction::Ids) => "user and group ids are",
        Some(Restriction::Groups) => "supplementary groups are",
        Some(Restriction::Capabilities) => "a capability set is",
        Some(Restriction::CapabilityBounds) => "the bounding or ambient set is",
        Some(Restriction::NoNewPrivs) => "no_new_privs is",
        Some(Restriction::Seccomp) => "the seccomp filter is",
        None => "a restriction is",
    }
}

/// The setns(2) that failed: its kinds, and the path in config.json.
fn joined(join: &Join<'_>) -> String {
    let path = join.path.map_or_else(|| path_of(join.fd), text);
    format!("linux.namespaces: join {}: {path}", kinds(join.flags))
}

/// The kinds of the namespaces in `flags` (`CLONE_NEW*`).
fn kinds(flags: u32) -> String {
    let kinds: Vec<_> =
        namespace::ALL.iter().filter(|(_, bit, _)| flags & bit != 0).map(|(name, ..)| name.to_string()).collect();
    match kinds.as_slice() {
        [one] => format!("{one} namespace"),
        more => format!("{} namespaces", more.join(", ")),
    }
}

/// The name of an fd's file: a path, or `net:[4026531840]`, or `fd N` if /proc cannot tell.
fn path_of(fd: BorrowedFd<'_>) -> String {
    let number = fd.as_raw_fd();
    let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
    link.map_or_else(|_| format!("fd {number}"), |path| path.display().to_string())
}

fn stream(number: u32) -> String {
    let name = match number {
        0 => "stdin",
        1 => "stdout",
        2 => "stderr",
        _ => "a stream",
    };
    format!("{name} (fd {number})")
}

/// `MS_*` in the words of config.json.
fn propagation(flags: u64) -> &'static str {
    match flags & !libc::MS_REC {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_UNBINDABLE => "unbindable",
        _ => "private",
    }
}

/// The call that makes the rootfs the root of the process.
fn entry(enter: Enter<'_>) -> &'static str {
    match enter {
        Enter::Pivot => "pivot_root",
        Enter::MoveAndChroot { .. } => "move_mount to / and chroot",
        Enter::InHost | Enter::Chroot => "chroot",
    }
}

fn text(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

fn find(found: Option<&CStr>) -> String {
    found.map(text).unwrap_or_default()
}

fn bytes(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests;
