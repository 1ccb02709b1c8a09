//! exec: another process in a running container, through the same routine as its init.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::{
    plan::{Capabilities, Join, Namespaces, Plan},
    wire::{self, Message},
};
use oci_spec::runtime::Process;

use crate::{
    Context, Error, Kind, Result, Stdio,
    arena::Arena,
    cgroup::Cgroup,
    container::{
        pid_file, start_socket,
        state::{Container, Status},
    },
    host::{caller, kernel},
    leaves::{lsm, rlimit, scheduling, seccomp::agent, streams, user},
    namespace::{
        self,
        enter::{PreEntry, UsernsHelper},
    },
    plan::{
        self,
        process::{self, Defaults},
    },
    spawn::{
        self, Bounds, Outcome,
        failure::{self, Names},
    },
    spec::check::rootless,
    sys,
};

/// What to run and how.
pub struct Options<'a> {
    /// The process.
    pub process: &'a Process,
    /// Standard streams, unless the process has a terminal.
    pub stdio: Stdio,
    /// Gets the pid.
    pub pid_file: Option<&'a Path>,
    /// Fds from 3 on for the payload.
    pub preserve_fds: u32,
    /// Run even when the container is frozen; the process freezes with it.
    pub ignore_paused: bool,
    /// Becomes readable when the caller gives the process up, which is ended then.
    pub abort: Option<BorrowedFd<'a>>,
    /// Where to be instead of the container's cgroup: one [`crate::cgroup::Cgroup::nested`] it.
    pub cgroup: Option<&'a Cgroup>,
}

/// A process of a container.
pub struct Execed {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The pty master, when it has a terminal.
    pub console: Option<OwnedFd>,
}

/// Runs a process in a container; returns when execve has happened.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when the container is stopped or paused; the payload's own failure. Nothing is left.
pub fn exec(container: &Container, options: Options<'_>) -> Result<Execed> {
    run(container, options).map_err(kernel::explain)
}

fn run(container: &Container, options: Options<'_>) -> Result<Execed> {
    let mut lent = Vec::new();
    match container.status()? {
        Status::Stopped | Status::Creating => {
            return Err(Error::new(Kind::FailedPrecondition, "cannot exec in a stopped container"));
        }
        Status::Paused | Status::Pausing if !options.ignore_paused => {
            return Err(Error::new(Kind::FailedPrecondition, "cannot exec in a paused container"));
        }
        // Until it is started init hides, and the kernel lets none but root of the host at its namespaces.
        Status::Created if caller::is_user() => lent = borrow(container)?,
        _ => {}
    }
    let state = container.state();
    let init = container.init()?;
    let directory = init.directory()?;
    if lent.is_empty() {
        lent = init.namespaces_by_file(state.namespaces)?;
    }
    let init = init.pidfd;
    let filter = container.filter()?;
    let process = options.process;
    let program = process.args().iter().flatten().next().map_or("", String::as_str);

    rootless::check_process(process, !caller::is_user() || namespace::user::of_process(state.pid)?.setgroups)?;
    let inside = state.namespaces & namespace::kind::USER != 0 && caller::is_user();
    if state.namespaces & namespace::kind::USER != 0 && !inside {
        streams::chown_pipes_to_root(&options.stdio, || Ok(namespace::user::of_process(state.pid)?.ids))?;
    }
    let arena = Arena::default();
    let (ours, theirs) = spawn::channel()?;
    let joined = state.namespaces & !if inside { namespace::kind::USER } else { 0 };
    let by_init = Join { fd: init.as_fd(), flags: joined, path: None };
    let by_file = lent.iter().map(|(kind, fd)| Join { fd: fd.as_fd(), flags: kind & joined, path: None });
    let joins = by_file.chain(lent.is_empty().then_some(by_init)).filter(|join| join.flags != 0);
    let joins: Vec<_> = joins.map(|join| Join { fd: arena.inherit_borrowed(join.fd), ..join }).collect();
    let by_kind = |kind: u32| lent.iter().find(|(of, _)| *of == kind).map_or(&init, |(_, fd)| fd);
    let [bounding, effective, permitted, inheritable, ambient] = state.process.capabilities;
    let defaults = Defaults {
        capabilities: Capabilities { bounding, effective, permitted, inheritable, ambient },
        umask: state.process.umask,
        waits_for_start: false,
        // Labels of the container hold for an exec that names none.
        apparmor: state.process.apparmor.as_deref(),
        selinux: state.process.selinux.as_deref(),
        keep_groups: user::keeps_groups(&state.annotations),
    };
    let wanted = state.process.scheduling.overridden_by(process);
    let (born_in, cgroups) = match options.cgroup {
        _ if inside => (None, &[][..]),
        None => plan::entry(&arena, container.cgroup(), Some(&directory))?,
        Some(cgroup) => plan::entry(&arena, cgroup, None)
            .context("unable to start container process: error adding pid of the new process to cgroups")?,
    };
    let plan = Plan {
        channel: arena.inherit_raw(theirs.as_fd()),
        keep_fds: &[],
        image: sys::image(),
        preserve_fds: options.preserve_fds,
        cgroup_tasks: cgroups,
        namespaces: Namespaces {
            joins: arena.list(joins),
            unshare: 0,
            second_clone: false,
            unshare_cgroup: false,
            become_root: joined & namespace::kind::USER != 0,
            enter_pid: joined & namespace::kind::PID != 0,
        },
        all_cpus: !wanted.names_cpus(),
        oom_score_adj: plan::oom_score_adj(&arena, state.process.oom_score_adj.filter(|_| !inside)),
        keyring: plan::keyring(&arena, &state.id, !state.process.keyring)?,
        keyring_label: lsm::key_label(&arena, process, defaults.selinux)?,
        container: None,
        stdio: plan::stdio(&arena, process, &options.stdio)?,
        process: berth_init::plan::Process {
            scheduling: scheduling::plan(&arena, &wanted, true)?,
            ..process::plan(&arena, process, defaults, filter.as_deref())?
        },
        barrier: None,
        namespace_files: &[],
    };
    let plan = Plan { keep_fds: arena.fd_numbers(), ..plan };

    let init_cgroup = || Cgroup::of_process(&directory);
    let how = spawn::Clone {
        flags: 0,
        cgroup: born_in,
        // A container that manages cgroups has moved itself below its own, which then takes no more processes.
        instead: options.cgroup.is_none().then_some(&init_cgroup),
        cpus: wanted.initial_cpus()?,
        clocks: None,
        beside: inside,
    };
    // It freezes with the container, for as long as that is frozen.
    let patience = if options.ignore_paused { None } else { spawn::patience(&plan) };
    let bounds = Bounds { abort: options.abort, patience };
    let clone = || spawn::spawn(&plan, &how, bounds, (ours, theirs));
    let mut pending = if inside {
        let pre_entry = PreEntry {
            oom_score_adj: state.process.oom_score_adj,
            cgroup: Some(options.cgroup.unwrap_or(container.cgroup())),
            init: Some(directory.as_str()).filter(|_| options.cgroup.is_none()),
        };
        let users = by_kind(namespace::kind::USER);
        UsernsHelper::for_container(users.try_clone().context("dup a namespace")?).run_in_userns(&pre_entry, clone)?
    } else {
        clone()?
    };
    if inside && options.cgroup.is_none() {
        container.cgroup().attach_pid(pending.pid())?;
    }
    if plan.namespaces.become_root {
        rlimit::raise_hard_limits(pending.pid(), plan.process.rlimits);
    }
    state.rdt.as_ref().map_or(Ok(()), |group| group.add_exec_process(pending.pid()))?;
    pending.go()?;
    let mut outcome = pending.wait()?;
    if let (Outcome::SeccompListener(number), Some(listener)) = (&outcome, &state.process.listener) {
        let about = (state.oci_state(), "running", state.pid);
        agent::send(listener, about, (pending.pid(), pending.pidfd(), *number))?;
        pending.agent_ready()?;
        outcome = pending.wait()?;
    }
    match outcome {
        Outcome::MapIds(..) | Outcome::RunHooks | Outcome::SeccompListener(_) => return Err(spawn::foreign()),
        Outcome::Closed | Outcome::Ready => {}
        Outcome::Failed(failure, _) => {
            let names = Names { program, ..Names::default() };
            return Err(failure::to_error(failure, Some(&plan), &names).context("unable to start container process"));
        }
    }
    if let Some(path) = options.pid_file {
        pid_file::write(path, pending.pid()).context("exec")?;
    }
    log::debug!("exec: process {} runs {program}", pending.pid());
    let child = pending.keep()?;
    Ok(Execed { pid: child.pid, pidfd: child.pidfd, console: child.console })
}

/// The namespaces of an init that waits to be started, each with its kind (`CLONE_NEW*`), as it gives them.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when it does not give all.
fn borrow(container: &Container) -> Result<Vec<(u32, OwnedFd)>> {
    let what = "cannot exec in a container that has not been started, as an ordinary user";
    let channel = start_socket::connect(container.dir()).context(what)?;
    spawn::send_byte(channel.as_fd(), wire::GET_NAMESPACES).context(what)?;
    let (Some(Message::Namespaces), fds) = spawn::receive(channel.as_fd())? else { return Err(spawn::foreign()) };
    let lent: Vec<_> = fds.into_iter().map(|fd| Ok((sys::namespace_kind(&fd)?, fd))).collect::<Result<_>>()?;
    if lent.iter().fold(0, |all, (kind, _)| all | kind) == container.state().namespaces {
        Ok(lent)
    } else {
        Err(Error::new(Kind::FailedPrecondition, what))
    }
}
