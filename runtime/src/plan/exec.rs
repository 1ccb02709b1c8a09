//! Plans an exec: the parts that it shares with init, and the container's namespaces to join.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_init::plan::{Capabilities, Join, Namespaces, Plan};

use super::{
    Common, entry, finish,
    options::ExecOptions,
    process::{self, Defaults},
};
use crate::{
    Context, Result,
    arena::Arena,
    container::state::Container,
    leaves::{scheduling::Set, seccomp::Filter, user},
    namespace::kind,
};

/// The running container that the exec enters.
pub struct Target {
    /// A pidfd of its init.
    pub init: OwnedFd,
    /// The directory in /proc of a living thread of init.
    pub directory: String,
    /// Its namespaces with their `CLONE_NEW*` flags, if setns(2) with init's pidfd cannot join them.
    pub by_file: Vec<(u32, OwnedFd)>,
    /// The caller is unprivileged and works inside the container's user namespace.
    pub inside: bool,
}

impl Target {
    /// Returns a descriptor with which setns(2) joins the namespace of this type.
    pub fn namespace(&self, kind: u32) -> &OwnedFd {
        self.by_file.iter().find(|(of, _)| *of == kind).map_or(&self.init, |(_, fd)| fd)
    }
}

/// The plan of an exec, with the parent's part.
pub struct ExecPlan<'a> {
    /// The child's part.
    pub plan: Plan<'a>,
    /// The v2 cgroup for `CLONE_INTO_CGROUP`.
    pub born_in: Option<BorrowedFd<'a>>,
    /// The CPUs on which the process is cloned.
    pub cpus: Option<Set>,
}

/// The input for the plan of an exec.
pub struct Sources<'s, 'a> {
    /// The container.
    pub container: &'s Container,
    /// The request.
    pub options: &'s ExecOptions<'s>,
    /// The running container.
    pub target: &'a Target,
    /// The container's seccomp filter.
    pub filter: Option<&'a Filter>,
}

impl<'a> Sources<'_, 'a> {
    /// Plans the exec. `channel` is the child's end of the channel.
    ///
    /// # Errors
    /// Names the field that the host refuses.
    pub fn plan(&self, arena: &'a Arena, channel: BorrowedFd<'_>) -> Result<ExecPlan<'a>> {
        let (record, inside) = (self.container.state(), self.target.inside);
        let scheduling = record.process.scheduling.overridden_by(self.options.process);
        let namespaces = self.namespaces(arena);
        let (born_in, cgroup_tasks) = match self.options.cgroup {
            _ if inside => (None, &[][..]),
            None => entry(arena, self.container.cgroup(), Some(&self.target.directory))?,
            Some(cgroup) => entry(arena, cgroup, None)
                .context("unable to start container process: error adding pid of the new process to cgroups")?,
        };
        let [bounding, effective, permitted, inheritable, ambient] = record.process.capabilities;
        let defaults = Defaults {
            capabilities: Capabilities { bounding, effective, permitted, inheritable, ambient },
            umask: record.process.umask,
            waits_for_start: false,
            // The container's labels apply to an exec without its own.
            apparmor: record.process.apparmor.as_deref(),
            selinux: record.process.selinux.as_deref(),
            keep_groups: user::keeps_groups(&record.annotations),
            scheduling: &scheduling,
        };
        let common = Common {
            channel,
            preserve_fds: self.options.preserve_fds,
            cgroup_tasks,
            namespaces,
            all_cpus: !scheduling.names_cpus(),
            oom_score_adj: record.process.oom_score_adj.filter(|_| !inside),
            keyring: Some(record.id.as_str()).filter(|_| record.process.keyring),
            selinux: defaults.selinux,
            stdio: &self.options.stdio,
            spec: self.options.process,
            process: process::plan(arena, self.options.process, defaults, self.filter)?,
        };
        let plan = finish(arena, common.plan(arena)?);
        Ok(ExecPlan { plan, born_in, cpus: scheduling.initial_cpus()? })
    }

    fn namespaces(&self, arena: &'a Arena) -> Namespaces<'a> {
        let target = self.target;
        let joined = self.container.state().namespaces & !if target.inside { kind::USER } else { 0 };
        let by_init = Join { fd: target.init.as_fd(), flags: joined, path: None };
        let by_file = target.by_file.iter().map(|(kind, fd)| Join { fd: fd.as_fd(), flags: kind & joined, path: None });
        let joins = by_file.chain(target.by_file.is_empty().then_some(by_init)).filter(|join| join.flags != 0);
        let joins = joins.map(|join| Join { fd: arena.inherit_borrowed(join.fd), ..join }).collect();
        Namespaces {
            joins: arena.list(joins),
            unshare: 0,
            second_clone: false,
            unshare_cgroup: false,
            become_root: joined & kind::USER != 0,
            enter_pid: joined & kind::PID != 0,
        }
    }
}
