//! Words for what went wrong in the child. It reports a step, an index and an errno; the plan says the rest.

use berth_init::{
    payload,
    plan::{Module, Plan},
    wire::{Failure, Step},
};

use crate::{Error, Kind, error::errno_text};

/// What the plan itself does not hold.
#[derive(Default)]
pub struct Names<'n> {
    /// `"proc" to rootfs at "/proc"`, by index.
    pub mounts: &'n [String],
    /// `process.args[0]`.
    pub program: &'n str,
    /// Its cgroup has some of the CPUs only.
    pub cpus_bound: bool,
}

/// The error of a child's failure, as runc's users know it.
pub fn to_error(failure: Failure, plan: Option<&Plan<'_>>, names: &Names<'_>) -> Error {
    let Failure { step, index, errno } = failure;
    let n = usize::try_from(index).unwrap_or(usize::MAX);
    let error = if errno == 0 { None } else { Some(Error::from_errno(errno)) };
    let why = |what: String| match error {
        Some(e) => e.context(what),
        None => Error::new(Kind::Internal, what),
    };
    let program = names.program;
    let text = |c: Option<&std::ffi::CStr>| c.map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    let container = plan.and_then(|p| p.container.as_ref());
    let rootfs = container.map(|c| &c.rootfs);
    let mount = || names.mounts.get(n).cloned().unwrap_or_default();
    match step {
        Step::NotOnPath => Error::new(Kind::NotFound, format!("exec: {program:?}: executable file not found in $PATH")),
        Step::Executable if index == payload::NOT_FOUND => {
            Error::new(Kind::NotFound, format!("exec: {program:?}: stat {program}: {}", errno_text(errno)))
        }
        Step::Executable => Error::new(Kind::Internal, format!("exec: {program:?}: {}", errno_text(errno))),
        Step::Exec => why(format!("exec {program}")).with_kind(Kind::NotExecuted),
        Step::Cwd => {
            let cwd = text(plan.map(|p| p.process.cwd));
            why(format!("chdir to cwd ({cwd:?}) set in config.json failed"))
        }
        Step::CwdOutside => Error::invalid(
            "process.cwd: current working directory is outside of container mount namespace root -- possible container breakout detected",
        ),
        Step::NotPlainDirectory => {
            let target = text(rootfs.and_then(|r| r.mounts.get(n)).map(|m| m.target));
            Error::invalid(format!("error mounting {}: {target:?} must be mounted on ordinary directory", mount()))
        }
        Step::MountSource => why(format!("error mounting {}: bind it from the root file system", mount())),
        Step::MountTarget => why(format!("error mounting {}: create mountpoint", mount())),
        Step::MountCreate => why(format!("error mounting {}: create filesystem", mount())),
        Step::MountAttach => why(format!("error mounting {}: move_mount", mount())),
        Step::MountPropagation => why(format!("error mounting {}: set propagation", mount())),
        Step::Device => {
            let path = text(rootfs.and_then(|r| r.devices.get(n)).map(|d| d.path));
            why(format!("error creating device nodes: {path}"))
        }
        Step::MaskedPath => {
            let path = text(rootfs.and_then(|r| r.masked_paths.get(n)).copied());
            if errno == 0 {
                let text =
                    format!("linux.maskedPaths: {path:?} leads to the root of the container, which cannot be masked");
                return Error::invalid(text);
            }
            why(format!("can't mask path {path:?}"))
        }
        Step::ReadonlyPath => {
            let path = text(rootfs.and_then(|r| r.readonly_paths.get(n)).copied());
            why(format!("can't make {path:?} read-only"))
        }
        Step::Sysctl => {
            let path = text(container.and_then(|c| c.sysctls.get(n)).map(|s| s.path));
            why(format!("linux.sysctl: write {path}"))
        }
        Step::Affinity => why("process.execCPUAffinity.final: error setting final CPU affinity".into()),
        Step::Scheduler if errno == libc::EPERM && names.cpus_bound => {
            let text = "process.scheduler: process scheduler can't be used together with AllowedCPUs";
            Error::new(Kind::Unsupported, text)
        }
        Step::Scheduler => why("process.scheduler: error setting scheduler".into()),
        Step::IoPriority => why("process.ioPriority: failed to set io priority".into()),
        Step::Personality => why("linux.personality: personality".into()),
        Step::MemoryPolicy => why("linux.memoryPolicy: set_mempolicy".into()),
        Step::Rlimit => {
            let resource = plan.and_then(|p| p.process.rlimits.get(n)).map_or(0, |l| l.resource);
            why(format!("error setting rlimit type {resource}"))
        }
        Step::JoinNamespace => why(format!("linux.namespaces: join namespace {index}")),
        Step::MountLabel => why(format!("error mounting {}: linux.mountLabel: set security.selinux", mount())),
        Step::Label => why(label(plan, n, "write")),
        Step::LabelReadBack if errno == 0 => why(label(plan, n, "another label is read back from")),
        Step::LabelReadBack => why(label(plan, n, "read")),
        Step::KeyringLabel => {
            let name = plan.and_then(|p| p.keyring_label).map(String::from_utf8_lossy).unwrap_or_default();
            why(format!("process.selinuxLabel: {name:?}: can't set the keyring's label in attr/keycreate"))
        }
        Step::VerifyRestrictions => why("read back the restrictions of the process".into()),
        Step::NotRestricted => why(format!("refusing to run: {} weaker than planned", restriction(index))),
        Step::Cgroup => why("linux.cgroupsPath: enter the cgroup".into()),
        Step::OomScoreAdj => why("process.oomScoreAdj: write oom_score_adj".into()),
        Step::User | Step::BecomeRoot => why("process.user: setresuid".into()),
        Step::Groups => why("process.user.additionalGids: setgroups".into()),
        Step::SeccompAgent => why("linux.seccomp.listenerPath: nobody has taken the listener".into()),
        Step::Seccomp => why("linux.seccomp: error loading seccomp filter".into()),
        Step::Capabilities | Step::BoundingSet => why("process.capabilities: unable to apply caps".into()),
        Step::Console | Step::ConsoleBind => why("open the container's terminal in /dev/pts".into()),
        Step::Loopback => why("linux.namespaces: network: set the loopback device up".into()),
        Step::Unshare => why("linux.namespaces: unshare".into()),
        Step::Hostname => why("hostname: sethostname".into()),
        Step::Domainname => why("domainname: setdomainname".into()),
        Step::Clone => why("linux.namespaces: clone the process into the pid namespace".into()),
        Step::UnmapMemory => why("give up the memory of the runtime before the pid namespace is entered".into()),
        Step::MakeCwd => why("process.cwd: mkdir".into()),
        other => why(format!("{other:?}").to_lowercase()),
    }
}

/// What did not work with the `n`th label: field, label, runc's words, file.
fn label(plan: Option<&Plan<'_>>, n: usize, verb: &str) -> String {
    let Some(label) = plan.and_then(|p| p.process.labels.get(n)) else { return "open /proc".into() };
    let (field, what) = match label.module {
        Module::AppArmor => {
            ("process.apparmorProfile", "unable to apply apparmor profile: apparmor failed to apply profile")
        }
        Module::Selinux => ("process.selinuxLabel", "can't set process label"),
    };
    let (name, file) = (String::from_utf8_lossy(label.name), label.attribute.to_string_lossy());
    format!("{field}: {name:?}: {what}: {verb} /proc/{file}")
}

fn restriction(index: u32) -> &'static str {
    match index {
        0 => "user and group ids are",
        1 => "supplementary groups are",
        2 => "a capability set is",
        3 => "the bounding or ambient set is",
        4 => "no_new_privs is",
        _ => "the seccomp filter is",
    }
}
