//! Builds the plan of a container's init or of an exec. Calls every leaf once, in order.

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

/// Returns the path of the root file system: `root.path`, relative to the bundle.
pub fn rootfs_path(bundle: &Bundle) -> PathBuf {
    bundle.spec.root().as_ref().map_or_else(|| bundle.dir.clone(), |root| bundle.dir.join(root.path()))
}

/// Returns the compiled filter of config.json, or the filter in its annotations.
///
/// An annotation must not replace a profile: a caller that may set annotations could otherwise remove the profile.
///
/// # Errors
/// As [`seccomp::compile`] and [`seccomp::bpf_annotation::decode`]. [`Error::invalid`] if there are both.
pub fn filter(spec: &Spec) -> Result<Option<Arc<Filter>>> {
    use seccomp::bpf_annotation::{ANNOTATION, decode};
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    match (profile, spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION))) {
        (Some(_), Some(_)) => Err(Error::invalid(format!("annotations.{ANNOTATION}: there is linux.seccomp already"))),
        (None, Some(text)) => decode(text).map(Some),
        (profile, None) => profile.map(seccomp::compile).transpose(),
    }
}

/// The parts that the plans of init and of an exec share.
struct Common<'c, 'a> {
    /// The child's end of the channel.
    channel: BorrowedFd<'c>,
    preserve_fds: u32,
    cgroup_tasks: &'a [BorrowedFd<'a>],
    namespaces: Namespaces<'a>,
    all_cpus: bool,
    oom_score_adj: Option<i32>,
    /// The container's id, from which runc derives the keyring's name. `None` keeps the caller's session keyring.
    keyring: Option<&'c str>,
    /// The SELinux label for a process without its own.
    selinux: Option<&'c str>,
    stdio: &'c Stdio,
    spec: &'c Process,
    process: berth_init::plan::Process<'a>,
}

impl<'a> Common<'_, 'a> {
    /// Returns a plan without a container and without a barrier.
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

/// Adds the list of all descriptors that the child must keep open.
fn finish<'a>(arena: &'a Arena, plan: Plan<'a>) -> Plan<'a> {
    Plan { keep_fds: arena.fd_numbers(), image: sys::image(), ..plan }
}

/// Returns the ways into the container's cgroup: the v2 directory for `CLONE_INTO_CGROUP`, and the v1 files to which
/// the child writes its pid. For an exec, `init` is the directory of init in /proc, as for [`Cgroup::join_fds`].
fn entry<'a>(
    arena: &'a Arena,
    cgroup: &Cgroup,
    init: Option<&str>,
) -> Result<(Option<BorrowedFd<'a>>, &'a [BorrowedFd<'a>])> {
    let fds = cgroup.join_fds(init)?;
    let join = fds.tasks.into_iter().map(|fd| arena.fd(fd)).collect();
    Ok((fds.clone_into.map(|fd| arena.fd(fd)), arena.list(join)))
}

/// Plans the standard streams of a process.
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
