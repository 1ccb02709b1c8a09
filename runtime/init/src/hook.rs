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
    At, Result, confine,
    plan::{Hook, Hooks, Process},
    program::{self, memory},
    sys::{self, Side},
    wire::{Failure, Step},
};

/// What a hook has written: standard output and standard error, each a file in memory.
pub type Output = [OwnedFd; 2];

/// A hook that did not end well.
pub struct Fault {
    /// [`Step::HookStart`], [`Step::HookStatus`] or [`Step::HookTimeout`].
    pub failure: Failure,
    /// What it wrote, once it could.
    pub output: Option<Output>,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { failure, output: None }
    }
}

/// Whom a hook depends on.
pub struct Ward<'a> {
    /// The container's process, as the hook sees it.
    pub pid: i32,
    /// A hook whose maker waits for nothing any more is ended when this has an error or is hung up.
    pub watch: Option<BorrowedFd<'a>>,
    /// The hook has the restrictions of this payload.
    pub confined: Option<&'a Process<'a>>,
}

/// Runs all hooks of a point, in order, up to the first that fails. What they write is dropped with them.
pub fn run_all(point: &Hooks<'_>, ward: &Ward<'_>) -> core::result::Result<(), Fault> {
    (0..point.list.len()).try_for_each(|n| run(point, n, ward).map(drop))
}

/// Runs the `n`th hook of a point to its end; gives what it wrote.
pub fn run(point: &Hooks<'_>, n: usize, ward: &Ward<'_>) -> core::result::Result<Output, Fault> {
    let Some(hook) = point.list.get(n) else {
        return Err(Errno::INVAL).at_index(Step::HookStart, n).map_err(Fault::from);
    };
    let files = || -> io::Result<(OwnedFd, Output)> {
        Ok((state(point.state, ward.pid)?, [memory(c"hook-stdout")?, memory(c"hook-stderr")?]))
    };
    let (stdin, output) = files().at_index(Step::HookStart, n)?;
    match watched(point, hook, [stdin.as_fd(), output[0].as_fd(), output[1].as_fd()], ward, n) {
        Ok(()) => Ok(output),
        Err(failure) => Err(Fault { failure, output: Some(output) }),
    }
}

fn watched(point: &Hooks<'_>, hook: &Hook<'_>, streams: [BorrowedFd<'_>; 3], ward: &Ward<'_>, n: usize) -> Result<()> {
    let (said, says) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).at_index(Step::HookStart, n)?;
    let maker = getpid();
    let pidfd = match sys::clone_hook().at_index(Step::HookStart, n)? {
        Side::Child => be_hook(point, hook, streams, ward.confined, maker, says),
        Side::Parent(_, pidfd) => pidfd,
    };
    drop(says);
    let ended = sys::wait_readable(pidfd.as_fd(), ward.watch, hook.timeout).at_index(Step::HookStatus, n)?;
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
    confined: Option<&Process<'_>>,
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
        program::shed(&streams, point.limit.as_ref(), point.ignored).map_err(raw)?;
        if let Some(directory) = point.directory {
            // A bundle that is gone by now (poststop) is no reason not to run.
            let _ = rustix::process::chdir(directory);
        }
        if let Some(process) = confined {
            confine(process, None).map_err(|f| f.errno)?;
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
    let file = memory(c"hook-state")?;
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

/// A pid or a descriptor, which is not negative, in decimal digits.
pub(crate) fn decimal(mut number: i32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for (n, slot) in digits.iter_mut().enumerate().rev() {
        *slot = b'0' + u8::try_from(number.rem_euclid(10)).unwrap_or(0);
        number /= 10;
        start = n;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (number, text) in [(0, "0"), (1, "1"), (10, "10"), (4_194_304, "4194304"), (i32::MAX, "2147483647")] {
            assert_eq!(decimal(number, &mut [0; 10]), text.as_bytes());
        }
    }
}
