//! The operation exec: runs another process in a running container. The same child code as for init carries it out.

use std::os::fd::{AsFd, OwnedFd};

use berth_init::wire::{self, Message};

use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    cgroup::Cgroup,
    container::{
        pid_file, start_socket,
        state::{Container, Status},
    },
    host::{caller, kernel},
    leaves::{rlimit, streams},
    namespace::{
        self,
        enter::{PreEntry, UsernsHelper},
        kind,
    },
    plan::exec::{ExecPlan, Sources, Target},
    spawn::{
        self, Bounds, Pending, Received,
        converse::{Answers, End, Peer, converse},
        failure::{self, Names},
    },
    spec::check::rootless,
    sys,
};

pub use crate::plan::options::ExecOptions as Options;

/// The process of an exec.
pub struct Execed {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The master of the process's pty, if it has a terminal.
    pub console: Option<OwnedFd>,
}

/// Runs a process in a container. Returns after its execve(2).
///
/// # Errors
/// [`Kind::FailedPrecondition`] if the container is stopped or paused, or stops meanwhile. The payload's own failure.
/// After an error no process is left.
pub fn exec(container: &Container, options: Options<'_>) -> Result<Execed> {
    run(container, options).map_err(|e| because_stopped(container, e)).map_err(kernel::explain)
}

/// The end of a container also ends a process that joins it, at any step: then that is the reason.
fn because_stopped(container: &Container, error: Error) -> Error {
    if matches!(error.kind(), Kind::FailedPrecondition | Kind::InvalidArgument) {
        return error;
    }
    let stopped = matches!(container.status(), Ok(Status::Stopped)) || is_of_an_end(&error) && container.ends_soon();
    if stopped { Error::new(Kind::FailedPrecondition, format!("{STOPPED}: {error}")) } else { error }
}

/// Returns true if the end of init or of the new process may have caused the error: a process is gone, its channel has
/// ended, its pid namespace takes no process (`ENOMEM`), or its cgroup is removed (`ENODEV`). The kernel ends the new
/// process before init when it kills a cgroup.
fn is_of_an_end(error: &Error) -> bool {
    let errnos = [libc::ESRCH, libc::EPIPE, libc::ECONNRESET, libc::ENOMEM, libc::ENODEV];
    error.errno().is_some_and(|errno| errnos.contains(&errno))
}

const STOPPED: &str = "cannot exec in a stopped container";

fn run(container: &Container, options: Options<'_>) -> Result<Execed> {
    let target = target(container, &options)?;
    let filter = container.filter()?;
    let state = container.state();
    let ids = || namespace::user::of_process(state.pid);
    rootless::check_process(options.process, !caller::is_user() || ids()?.setgroups)?;
    if state.namespaces & kind::USER != 0 && !target.inside {
        streams::chown_pipes_to_root(&options.stdio, || Ok(ids()?.ids))?;
    }
    let arena = Arena::default();
    let (ours, theirs) = spawn::channel()?;
    let sources = Sources { container, options: &options, target: &target, filter: filter.as_deref() };
    let plan = sources.plan(&arena, theirs.as_fd())?;
    let mut pending = clone(container, &options, &target, &plan, (ours, theirs))?;
    if target.inside && options.cgroup.is_none() {
        container.cgroup().attach_pid(pending.pid())?;
    }
    if plan.plan.namespaces.become_root {
        rlimit::raise_hard_limits(pending.pid(), plan.plan.process.rlimits);
    }
    state.rdt.as_ref().map_or(Ok(()), |group| group.add_exec_process(pending.pid()))?;
    pending.go()?;
    let answers = Answers {
        state: state.oci_state(),
        status: "running",
        init: Some(state.pid),
        listener: state.process.listener.as_ref(),
        setup: None,
    };
    let program = options.process.args().iter().flatten().next().map_or("", String::as_str);
    match converse(&mut Peer::Cloned(&mut pending), answers)? {
        End::Failed(failure, _) => {
            let names = Names { program, ..Names::default() };
            let error = failure::to_error(failure, Some(&plan.plan), &names);
            return Err(error.context("unable to start container process"));
        }
        End::Unheard => return Err(spawn::ended_early()),
        End::Ready | End::Closed => {}
    }
    if let Some(path) = options.pid_file {
        pid_file::write(path, pending.pid()).context("exec")?;
    }
    log::debug!("exec: process {} runs {program}", pending.pid());
    let child = pending.keep()?;
    Ok(Execed { pid: child.pid, pidfd: child.pidfd, console: child.console })
}

/// Opens the container's init and namespaces.
fn target(container: &Container, options: &Options<'_>) -> Result<Target> {
    let mut by_file = Vec::new();
    match container.status()? {
        Status::Stopped | Status::Creating => {
            return Err(Error::new(Kind::FailedPrecondition, STOPPED));
        }
        Status::Paused | Status::Pausing if !options.ignore_paused => {
            return Err(Error::new(Kind::FailedPrecondition, "cannot exec in a paused container"));
        }
        // init is not dumpable until start, so the kernel lets only root of the host open its namespaces.
        Status::Created if caller::is_user() => by_file = request_namespaces(container)?,
        _ => {}
    }
    let namespaces = container.state().namespaces;
    let init = container.init()?;
    let directory = init.directory()?;
    if by_file.is_empty() {
        by_file = init.namespaces_by_file(namespaces)?;
    }
    Ok(Target { init: init.pidfd, directory, by_file, inside: namespaces & kind::USER != 0 && caller::is_user() })
}

fn clone<'o>(
    container: &Container,
    options: &Options<'o>,
    target: &Target,
    plan: &ExecPlan<'_>,
    channel: (OwnedFd, OwnedFd),
) -> Result<Pending<'o>> {
    let init_cgroup = || Cgroup::of_process(&target.directory);
    let how = spawn::Clone {
        flags: 0,
        cgroup: plan.born_in,
        // A container that manages cgroups may have moved init to a sub-cgroup. Its own cgroup then accepts no
        // processes.
        instead: options.cgroup.is_none().then_some(&init_cgroup),
        cpus: plan.cpus,
        clocks: None,
        beside: target.inside,
    };
    // If the container is frozen, the new process is frozen too, so the wait for it has no limit.
    let timeout = if options.ignore_paused { None } else { spawn::child_timeout(&plan.plan) };
    let bounds = Bounds { abort: options.abort, timeout };
    let clone = || spawn::spawn(&plan.plan, &how, bounds, channel);
    if !target.inside {
        return clone();
    }
    let pre_entry = PreEntry {
        oom_score_adj: container.state().process.oom_score_adj,
        cgroup: Some(options.cgroup.unwrap_or(container.cgroup())),
        init: Some(target.directory.as_str()).filter(|_| options.cgroup.is_none()),
    };
    let users = target.namespace(kind::USER).try_clone().context("dup a namespace")?;
    UsernsHelper::for_container(users).run_in_userns(&pre_entry, clone)
}

/// Asks an init that waits for start for its namespaces. Returns each with its `CLONE_NEW*` flag.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if init does not send all of them.
fn request_namespaces(container: &Container) -> Result<Vec<(u32, OwnedFd)>> {
    let what = "cannot exec in a container that has not been started, as an unprivileged user";
    let channel = start_socket::connect(container.dir()).context(what)?;
    spawn::send_byte(channel.as_fd(), wire::GET_NAMESPACES).context(what)?;
    spawn::wait_readable(channel.as_fd(), Bounds { abort: None, timeout: Some(spawn::CHILD_TIMEOUT) })?;
    let fds = match spawn::receive(channel.as_fd())? {
        Received::Message(Message::Namespaces, fds) => fds,
        Received::Message(..) => return Err(spawn::foreign()),
        Received::Closed | Received::Unheard => return Err(spawn::ended_early()),
    };
    let namespaces: Vec<_> = fds.into_iter().map(|fd| Ok((sys::namespace_kind(&fd)?, fd))).collect::<Result<_>>()?;
    if namespaces.iter().fold(0, |all, (kind, _)| all | kind) == container.state().namespaces {
        Ok(namespaces)
    } else {
        Err(Error::new(Kind::FailedPrecondition, what))
    }
}
