//! The plan of an exec: what init's plan has in common with it, and the container's namespaces to join.

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

/// The running container as the exec finds it.
pub struct Target {
    /// Its init.
    pub init: OwnedFd,
    /// The directory of a thread of init's in /proc.
    pub directory: String,
    /// Its namespaces by kind (`CLONE_NEW*`), where init's pidfd does not give them.
    pub by_file: Vec<(u32, OwnedFd)>,
    /// An unprivileged caller works from inside the container's user namespace.
    pub inside: bool,
}

impl Target {
    /// A descriptor that names the namespace of this kind to setns(2).
    pub fn namespace(&self, kind: u32) -> &OwnedFd {
        self.by_file.iter().find(|(of, _)| *of == kind).map_or(&self.init, |(_, fd)| fd)
    }
}

/// The plan of an exec, and what its maker needs besides.
pub struct ExecPlan<'a> {
    /// For the child.
    pub plan: Plan<'a>,
    /// A v2 cgroup to be born in.
    pub born_in: Option<BorrowedFd<'a>>,
    /// CPUs to be born on.
    pub cpus: Option<Set>,
}

/// What an exec is planned from.
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
    /// Plans the exec; `channel` is the child's end of its channel.
    ///
    /// # Errors
    /// Names the field that cannot be had.
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
            // Labels of the container hold for an exec that names none.
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
