//! The plan: every leaf called once, in order, for a container's init or for an exec.

pub mod exec;
pub mod init;
pub mod options;
pub mod process;
mod rootfs;

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use berth_init::plan::{Namespaces, Plan, Stdio as PlanStdio};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};

use crate::{
    Context, Error, Result, Stdio,
    arena::Arena,
    cgroup::Cgroup,
    leaves::{
        lsm,
        seccomp::{self, Filter},
    },
    spec::bundle::Bundle,
    sys,
};

/// The absolute path of the root file system.
pub fn rootfs_path(bundle: &Bundle) -> PathBuf {
    bundle.spec.root().as_ref().map_or_else(|| bundle.dir.clone(), |root| bundle.dir.join(root.path()))
}

/// The compiled filter of a config.json, or the one of its annotations. Whoever may set annotations must not be able to
/// take a profile away with them, so there is no filter in the place of another.
///
/// # Errors
/// As [`seccomp::compile`] and [`seccomp::bpf_annotation::decode`]; both are given.
pub fn filter(spec: &Spec) -> Result<Option<Arc<Filter>>> {
    use seccomp::bpf_annotation::{ANNOTATION, decode};
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    match (profile, spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION))) {
        (Some(_), Some(_)) => Err(Error::invalid(format!("annotations.{ANNOTATION}: there is linux.seccomp already"))),
        (None, Some(text)) => decode(text).map(Some),
        (profile, None) => profile.map(seccomp::compile).transpose(),
    }
}

/// The parts that the plans of an init and of an exec have in common.
struct Common<'c, 'a> {
    /// The child's end of its channel.
    channel: BorrowedFd<'c>,
    preserve_fds: u32,
    cgroup_tasks: &'a [BorrowedFd<'a>],
    namespaces: Namespaces<'a>,
    all_cpus: bool,
    oom_score_adj: Option<i32>,
    /// The id of the container, after which runc names the session keyring; `None` keeps the caller's keyring.
    keyring: Option<&'c str>,
    /// The SELinux label of a process that names none.
    selinux: Option<&'c str>,
    stdio: &'c Stdio,
    spec: &'c Process,
    process: berth_init::plan::Process<'a>,
}

impl<'a> Common<'_, 'a> {
    /// A plan without a container and a barrier.
    fn plan(self, arena: &'a Arena) -> Result<Plan<'a>> {
        Ok(Plan {
            channel: arena.inherit_raw(self.channel),
            keep_fds: &[],
            image: None,
            preserve_fds: self.preserve_fds,
            cgroup_tasks: self.cgroup_tasks,
            namespaces: self.namespaces,
            all_cpus: self.all_cpus,
            oom_score_adj: self.oom_score_adj.map(|value| arena.bytes(value.to_string().as_bytes())),
            keyring: self.keyring.map(|id| arena.text(format!("_ses.{id}"), "id")).transpose()?,
            keyring_label: lsm::key_label(arena, self.spec, self.selinux)?,
            container: None,
            stdio: stdio(arena, self.spec, self.stdio)?,
            process: self.process,
            namespace_files: &[],
            barrier: None,
        })
    }
}

/// The plan with the fds that all of its parts keep open.
fn finish<'a>(arena: &'a Arena, plan: Plan<'a>) -> Plan<'a> {
    Plan { keep_fds: arena.fd_numbers(), image: sys::image(), ..plan }
}

/// The ways into the container's cgroup: the v2 directory to be born in, the v1 files to write oneself to. `init` is that of
/// an exec's container, as [`Cgroup::join_fds`] takes it.
fn entry<'a>(
    arena: &'a Arena,
    cgroup: &Cgroup,
    init: Option<&str>,
) -> Result<(Option<BorrowedFd<'a>>, &'a [BorrowedFd<'a>])> {
    let fds = cgroup.join_fds(init)?;
    let join = fds.tasks.into_iter().map(|fd| arena.fd(fd)).collect();
    Ok((fds.clone_into.map(|fd| arena.fd(fd)), arena.list(join)))
}

/// The streams of a process.
fn stdio<'a>(arena: &'a Arena, process: &Process, stdio: &Stdio) -> Result<PlanStdio<'a>> {
    if process.terminal() == Some(true) {
        let size = process.console_size().unwrap_or_default();
        let cells = |value: u64, field: &str| {
            u16::try_from(value)
                .map_err(|_| Error::invalid(format!("process.consoleSize.{field}: {value} is out of range")))
        };
        return Ok(PlanStdio::Terminal {
            rows: cells(size.height(), "height")?,
            columns: cells(size.width(), "width")?,
            bare_newlines: matches!(stdio, Stdio::Relayed),
        });
    }
    let keep = |fd: &OwnedFd| -> Result<BorrowedFd<'a>> { Ok(arena.fd(fd.try_clone().context("dup stdio")?)) };
    match stdio {
        Stdio::Inherit => Ok(PlanStdio::Inherit),
        Stdio::Null | Stdio::Relayed => {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            let null = arena.fd(null.context("open /dev/null")?);
            Ok(PlanStdio::Fds([null; 3]))
        }
        Stdio::Fds([stdin, stdout, stderr]) => Ok(PlanStdio::Fds([keep(stdin)?, keep(stdout)?, keep(stderr)?])),
    }
}
