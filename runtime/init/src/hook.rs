//! Programs that config.json wants run at points of the container's life: made, told the state, waited for.
//!
//! One routine for all six kinds: the runtime runs those of its own namespaces with it, init those of the container's
//! (a child of init is in every namespace and cgroup of the container). Which hooks there are, and words for what goes
//! wrong, are left to the runtime.
//!
//! ```text
//! maker                          hook
//!   clone3  ----------------->   dies with its maker, takes the streams, confines itself, execve
//!   waits for its end, the timeout, or the end of whoever waits for the maker
//! ```

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{self, Errno},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, pidfd_send_signal, waitid},
};

use crate::{
    digits::decimal,
    error::{At, Result},
    plan::{Container, Hook, Hooks, Process, SeccompWhen},
    program::{self, memfd},
    report::Report,
    rootfs::HostTree,
    seccomp,
    sys::{self, Side},
    wire::{self, Failure, Message, Step},
};

/// What a hook has written: standard output and standard error, each a file in memory.
pub type Output = [OwnedFd; 2];

/// A hook that did not end well.
pub struct HookError {
    /// [`Step::HookStart`], [`Step::HookStatus`] or [`Step::HookTimeout`].
    pub failure: Failure,
    /// What it wrote, once it could.
    pub output: Option<Output>,
}

impl From<Failure> for HookError {
    fn from(failure: Failure) -> Self {
        Self { failure, output: None }
    }
}

/// Whom a hook depends on.
pub struct HookContext<'a> {
    /// The container's process, as the hook sees it.
    pub pid: i32,
    /// A hook whose maker waits for nothing any more is ended when this has an error or is hung up.
    pub watch: Option<BorrowedFd<'a>>,
    /// The hook has the restrictions of this payload.
    pub filtered: Option<&'a Process<'a>>,
}

/// Runs all hooks of a point, in order, up to the first that fails. What they write is dropped with them.
pub fn run_all(point: &Hooks<'_>, context: &HookContext<'_>) -> core::result::Result<(), HookError> {
    (0..point.list.len()).try_for_each(|n| run(point, n, context).map(drop))
}

/// Runs the `n`th hook of a point to its end; gives what it wrote.
pub fn run(point: &Hooks<'_>, n: usize, context: &HookContext<'_>) -> core::result::Result<Output, HookError> {
    let Some(hook) = point.list.get(n) else {
        return Err(Errno::INVAL).at_index(Step::HookStart, n).map_err(HookError::from);
    };
    let files = || -> io::Result<(OwnedFd, Output)> {
        Ok((state(point.state, context.pid)?, [memfd(c"hook-stdout")?, memfd(c"hook-stderr")?]))
    };
    let (stdin, output) = files().at_index(Step::HookStart, n)?;
    match watched(point, hook, [stdin.as_fd(), output[0].as_fd(), output[1].as_fd()], context, n) {
        Ok(()) => Ok(output),
        Err(failure) => Err(HookError { failure, output: Some(output) }),
    }
}

/// Runs the hooks that belong between the mounts and the pivot: the parent's, then createContainer. Both end with the parent:
/// if the parent is gone, no process would take over the container.
pub(crate) fn run_before_pivot(container: &Container<'_>, host: Option<&HostTree>, report: &Report<'_>) -> Result<()> {
    if container.runtime_hooks {
        report.send(Message::RunHooks, &[]);
        report.wait_for(wire::HOOKS_DONE).at(Step::RuntimeHooks)?;
    }
    // The hooks have the umask of the runtime's caller, and not the one that the root was built with.
    let umask = host.filter(|_| !container.create_container.list.is_empty());
    let umask = umask.map(|host| rustix::process::umask(host.caller_umask));
    run_in_init(&container.create_container, None, Some(report.channel), report)?;
    umask.map(rustix::process::umask);
    Ok(())
}

/// Runs the startContainer hooks, with the rights of the payload. A filter that is loaded at execve is loaded by each hook
/// for itself, because init could not create a hook under it.
pub(crate) fn run_before_exec(hooks: &Hooks<'_>, process: &Process<'_>, report: &Report<'_>) -> Result<()> {
    let filtered = seccomp::is_loaded_at(SeccompWhen::BeforeExec, process).then_some(process);
    run_in_init(hooks, filtered, None, report)
}

/// Runs hooks as children of init. If one of them fails, its output is sent with the failure.
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
    run_all(hooks, &HookContext { pid, watch, filtered }).map_err(|error| {
        if let Some([stdout, stderr]) = &error.output {
            report.send(Message::Failure(error.failure), &[stdout.as_fd(), stderr.as_fd()]);
        }
        error.failure
    })
}

fn watched(
    point: &Hooks<'_>,
    hook: &Hook<'_>,
    streams: [BorrowedFd<'_>; 3],
    context: &HookContext<'_>,
    n: usize,
) -> Result<()> {
    let (said, says) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).at_index(Step::HookStart, n)?;
    let maker = getpid();
    let pidfd = match sys::clone_hook().at_index(Step::HookStart, n)? {
        Side::Child => be_hook(point, hook, streams, context.filtered, maker, says),
        Side::Parent(_, pidfd) => pidfd,
    };
    drop(says);
    let ended = sys::wait_readable(pidfd.as_fd(), context.watch, hook.timeout).at_index(Step::HookStatus, n)?;
    if !ended {
        // EPERM or ESRCH change nothing: the wait below tells.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let status = loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => break other.at_index(Step::HookStatus, n)?,
        }
    };
    if !ended {
        return Err(Failure { step: Step::HookTimeout, index: index(n), errno: 0 });
    }
    let mut errno = [0u8; 4];
    if matches!(io::read(&said, &mut errno), Ok(4)) {
        return Err(Failure { step: Step::HookStart, index: index(n), errno: i32::from_ne_bytes(errno) });
    }
    // The layout of wait(2).
    let status = status.map_or(0, |s| match (s.exit_status(), s.terminating_signal()) {
        (Some(code), _) => code << 8,
        (None, Some(signal)) => signal | if s.dumped() { 0x80 } else { 0 },
        (None, None) => 0xff00,
    });
    if status == 0 { Ok(()) } else { Err(Failure { step: Step::HookStatus, index: index(n), errno: status }) }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The hook, up to its execve; what keeps it from that goes to the maker.
fn be_hook(
    point: &Hooks<'_>,
    hook: &Hook<'_>,
    streams: [BorrowedFd<'_>; 3],
    filtered: Option<&Process<'_>>,
    maker: Pid,
    says: OwnedFd,
) -> ! {
    let become_it = || -> core::result::Result<(), i32> {
        let raw = |e: Errno| e.raw_os_error();
        // Who is killed while it waits for a hook leaves none behind. The second look is for the moment before.
        sys::prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs()), 0).map_err(raw)?;
        if getppid() != Some(maker) {
            return Err(libc::ECANCELED);
        }
        // Fds that the payload would inherit are nothing to a hook.
        program::shed(&streams, point.limit.as_ref(), point.ignored_signals).map_err(raw)?;
        if let Some(directory) = point.directory {
            // A bundle that is gone by now (poststop) is no reason not to run.
            let _ = rustix::process::chdir(directory);
        }
        if let Some(process) = filtered {
            seccomp::load(process, None).map_err(|f| f.errno)?;
        }
        Err(sys::execve(hook.path, hook.args, hook.env).raw_os_error())
    };
    if let Err(errno) = become_it() {
        let _ = io::write(&says, &errno.to_ne_bytes());
    }
    sys::exit(127)
}

/// The state of the container as JSON, to be read from its start.
fn state([before, after]: [&[u8]; 2], pid: i32) -> io::Result<OwnedFd> {
    let file = memfd(c"hook-state")?;
    let mut digits = [0u8; 10];
    for part in [before, decimal(pid, &mut digits), after] {
        let mut left = part;
        while !left.is_empty() {
            let written = io::write(&file, left)?;
            left = left.get(written..).unwrap_or_default();
        }
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}
