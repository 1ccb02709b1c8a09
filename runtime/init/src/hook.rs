//! Hooks: programs that run at points of the container's lifecycle, with the container's state on standard input.
//!
//! One routine runs all six kinds. The runtime runs the hooks of its own namespaces with it, and init those of the
//! container's namespaces: a child of init is in all namespaces and cgroups of the container. The runtime decides
//! which hooks run, and words their failures.
//!
//! ```text
//! runner (runtime or init)       hook
//!   clone3  ----------------->   sets PR_SET_PDEATHSIG, takes its streams, loads the filter, execve
//!   waits for its end, for the timeout, or for the end of `watch`
//! ```

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{self, Errno},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, getpid, getppid, pidfd_send_signal},
};

use crate::{
    digits::decimal,
    error::{At, Result},
    hook_tree::{self, End},
    plan::{Container, Hook, Hooks, Process, SeccompWhen},
    program::{self, memfd},
    report::Report,
    rootfs::HostTree,
    seccomp,
    sys::{self, Side},
    wire::{self, Failure, Message, Step},
};

/// The output of a hook: standard output and standard error, each in a file in memory.
pub type Output = [OwnedFd; 2];

/// The failure of a hook.
pub struct HookError {
    /// [`Step::HookStart`], [`Step::HookStatus`] or [`Step::HookTimeout`].
    pub failure: Failure,
    /// Its output, if it was started.
    pub output: Option<Output>,
}

impl From<Failure> for HookError {
    fn from(failure: Failure) -> Self {
        Self { failure, output: None }
    }
}

/// The processes that a hook leaves behind when it is killed after its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descendants {
    /// They are killed with the hook.
    EndAfterTimeout,
    /// They are in the container, and end with it: the failure of the hook ends the container.
    EndWithContainer,
}

/// The circumstances of a hook.
pub struct HookContext<'a> {
    /// The pid of the container's process, in the pid namespace of the hook.
    pub pid: i32,
    /// The hook is killed when this fd is hung up or has an error: no process waits for the runner any more.
    pub watch: Option<BorrowedFd<'a>>,
    /// The payload whose filter the hook loads for itself.
    pub filtered: Option<&'a Process<'a>>,
    /// The end of the hook's own children.
    pub descendants: Descendants,
}

/// Runs all hooks of a point in order, and stops at the first failure. The output is dropped unless a hook fails.
pub fn run_all(point: &Hooks<'_>, context: &HookContext<'_>) -> core::result::Result<(), HookError> {
    (0..point.list.len()).try_for_each(|n| run(point, n, context).map(drop))
}

/// Runs the `n`th hook of a point, waits for its end, and returns its output.
pub fn run(point: &Hooks<'_>, n: usize, context: &HookContext<'_>) -> core::result::Result<Output, HookError> {
    let Some(hook) = point.list.get(n) else {
        return Err(Errno::INVAL).at_index(Step::HookStart, n).map_err(HookError::from);
    };
    let files = || -> io::Result<(OwnedFd, Output)> {
        Ok((state_file(point.state, context.pid)?, [memfd(c"hook-stdout")?, memfd(c"hook-stderr")?]))
    };
    let (stdin, output) = files().at_index(Step::HookStart, n)?;
    match run_watched(point, hook, [stdin.as_fd(), output[0].as_fd(), output[1].as_fd()], context, n) {
        Ok(()) => Ok(output),
        Err(failure) => Err(HookError { failure, output: Some(output) }),
    }
}

/// Runs the hooks between the mounts and the pivot: the parent's, then createContainer. The hooks of both are killed
/// when the parent is gone, because no process would take over the container.
pub(crate) fn run_before_pivot(container: &Container<'_>, host: Option<&HostTree>, report: &Report<'_>) -> Result<()> {
    if container.runtime_hooks {
        report.send(Message::RunHooks, &[]).at(Step::Channel)?;
        report.wait_for(wire::HOOKS_DONE).at(Step::RuntimeHooks)?;
    }
    // The hooks run with the umask of the runtime's caller, and not with the one that the root was built with.
    let umask = host.filter(|_| !container.create_container.list.is_empty());
    let umask = umask.map(|host| rustix::process::umask(host.caller_umask));
    run_in_init(&container.create_container, None, Some(report.channel), report)?;
    umask.map(rustix::process::umask);
    Ok(())
}

/// Runs the startContainer hooks, with the rights of the payload. A filter that is loaded right before execve is
/// loaded by each hook for itself: init could not create a hook under it.
pub(crate) fn run_before_exec(hooks: &Hooks<'_>, process: &Process<'_>, report: &Report<'_>) -> Result<()> {
    let filtered = seccomp::is_loaded_at(SeccompWhen::BeforeExec, process).then_some(process);
    run_in_init(hooks, filtered, None, report)
}

/// Runs hooks as children of init. The output of a failed hook goes to the parent with the failure.
fn run_in_init(
    hooks: &Hooks<'_>,
    filtered: Option<&Process<'_>>,
    watch: Option<BorrowedFd<'_>>,
    report: &Report<'_>,
) -> Result<()> {
    if hooks.list.is_empty() {
        return Ok(());
    }
    let pid = getpid().as_raw_nonzero().get();
    run_all(hooks, &HookContext { pid, watch, filtered, descendants: Descendants::EndWithContainer }).map_err(|error| {
        if let Some([stdout, stderr]) = &error.output {
            let _ = report.send(Message::Failure(error.failure), &[stdout.as_fd(), stderr.as_fd()]);
        }
        error.failure
    })
}

/// Clones the hook, waits for it, and returns its failure.
fn run_watched(
    point: &Hooks<'_>,
    hook: &Hook<'_>,
    streams: [BorrowedFd<'_>; 3],
    context: &HookContext<'_>,
    n: usize,
) -> Result<()> {
    let (errno_pipe, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).at_index(Step::HookStart, n)?;
    let runner = getpid();
    let end = match (hook.timeout, context.descendants) {
        (Some(seconds), Descendants::EndAfterTimeout) => {
            let (report, report_writer) =
                pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).at_index(Step::HookStart, n)?;
            let pidfd = match sys::clone_hook().at_index(Step::HookStart, n)? {
                Side::Child => hook_tree::keep(runner, seconds, streams, [writer, report_writer], |keeper, writer| {
                    become_hook(point, hook, streams, context.filtered, keeper, writer)
                }),
                Side::Parent(_, pidfd) => pidfd,
            };
            drop((writer, report_writer));
            let ended = wait_or_kill(&pidfd, context.watch, Some(seconds.saturating_add(hook_tree::MARGIN)));
            ended.at_index(Step::HookStatus, n)?;
            End::read(&report).unwrap_or(End::TimedOut)
        }
        _ => {
            let pidfd = match sys::clone_hook().at_index(Step::HookStart, n)? {
                Side::Child => become_hook(point, hook, streams, context.filtered, runner, writer),
                Side::Parent(_, pidfd) => pidfd,
            };
            drop(writer);
            wait_or_kill(&pidfd, context.watch, hook.timeout)
                .at_index(Step::HookStatus, n)?
                .map_or(End::TimedOut, End::Status)
        }
    };
    let failure = |step, errno| Err(Failure { step, index: index(n), errno });
    let mut errno = [0u8; 4];
    match end {
        End::TimedOut => failure(Step::HookTimeout, 0),
        End::Status(_) if matches!(io::read(&errno_pipe, &mut errno), Ok(4)) => {
            failure(Step::HookStart, i32::from_ne_bytes(errno))
        }
        End::Status(0) => Ok(()),
        End::Status(status) => failure(Step::HookStatus, status),
    }
}

/// Waits for the end of a process, and returns its wait(2) status. Kills it after `seconds`, or when `watch` is hung up,
/// and returns `None`.
fn wait_or_kill(pidfd: &OwnedFd, watch: Option<BorrowedFd<'_>>, seconds: Option<u32>) -> io::Result<Option<i32>> {
    let ended = sys::wait_readable(pidfd.as_fd(), watch, seconds)?;
    if !ended {
        // An error is ignored: the wait below returns in any case.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    let status = hook_tree::reap(pidfd)?;
    Ok(ended.then_some(status))
}

fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The child that becomes the hook. It writes the errno of a failure to `errno_pipe`.
fn become_hook(
    point: &Hooks<'_>,
    hook: &Hook<'_>,
    streams: [BorrowedFd<'_>; 3],
    filtered: Option<&Process<'_>>,
    runner: Pid,
    errno_pipe: OwnedFd,
) -> ! {
    let execute = || -> core::result::Result<(), i32> {
        let raw = |e: Errno| e.raw_os_error();
        // If the runner is killed, the kernel kills the hook. The runner may have died before prctl(2), which
        // getppid(2) shows.
        sys::prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs()), 0).map_err(raw)?;
        if getppid() != Some(runner) {
            return Err(libc::ECANCELED);
        }
        // A hook does not get the fds that the payload inherits.
        program::set_up(&streams, point.limit.as_ref(), point.ignored_signals).map_err(raw)?;
        if let Some(directory) = point.directory {
            // The bundle may be gone by now (poststop), which is no reason not to run.
            let _ = rustix::process::chdir(directory);
        }
        if let Some(process) = filtered {
            seccomp::load(process, None).map_err(|f| f.errno)?;
        }
        Err(sys::execve(hook.path, hook.args, hook.env).raw_os_error())
    };
    if let Err(errno) = execute() {
        let _ = io::write(&errno_pipe, &errno.to_ne_bytes());
    }
    sys::exit(127)
}

/// Writes the state of the container as JSON to a file in memory, and returns it at offset 0.
fn state_file([before, after]: [&[u8]; 2], pid: i32) -> io::Result<OwnedFd> {
    let file = memfd(c"hook-state")?;
    let mut digits = [0u8; 10];
    for part in [before, decimal(pid, &mut digits), after] {
        let mut unwritten = part;
        while !unwritten.is_empty() {
            let written = io::write(&file, unwritten)?;
            unwritten = unwritten.get(written..).unwrap_or_default();
        }
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}
