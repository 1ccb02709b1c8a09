//! Programs of the host that the runtime starts: a log program, newuidmap(1). Hooks start the same way.
//!
//! A program gets the limit of open files and the signal dispositions that the runtime's caller had, and no fds but
//! its own. It inherits the umask, the working directory and all else from the process that starts it.

use core::{cell::Cell, ffi::CStr};

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    fs::MemfdFlags,
    io::{self, Errno},
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::{
    identity,
    plan::{Ptr, Rlimit},
    sys::{self, Side},
};

/// A program to start.
pub struct Program<'a> {
    /// The absolute path.
    pub path: &'a CStr,
    /// The arguments; null ends them.
    pub args: &'a [Ptr],
    /// The environment; null ends it.
    pub env: &'a [Cell<Ptr>],
    /// Its fds from 0 on. Each of them must have a number above all of these. The program gets no other fds.
    pub fds: &'a [BorrowedFd<'a>],
    /// A resource limit for the program. It inherits the other limits.
    pub limit: Option<Rlimit>,
    /// The signals that this process ignores, one bit each; the program ignores none.
    pub ignored_signals: u64,
}

/// Starts the program, waits for its execve, and returns its pid and pidfd.
///
/// # Errors
/// As clone(2) and execve(2). No process is left then.
pub fn start(program: &Program<'_>) -> io::Result<(i32, OwnedFd)> {
    let (errno_pipe, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // The pipe must lie above the numbers that the program's fds get.
    let writer = io::fcntl_dupfd_cloexec(writer, RawFd::try_from(program.fds.len()).unwrap_or(RawFd::MAX))?;
    let (pid, pidfd) = match sys::clone_program()? {
        Side::Child => become_program(program, &writer),
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(writer);
    let mut errno = [0u8; 4];
    let length = loop {
        match io::read(&errno_pipe, &mut errno) {
            Err(Errno::INTR) => {}
            length => break length,
        }
    };
    if length? == 0 {
        return Ok((pid, pidfd));
    }
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {}
    Err(Errno::from_raw_os_error(i32::from_ne_bytes(errno)))
}

/// The child that becomes the program. It writes the errno of a failure to `errno_pipe`.
fn become_program(program: &Program<'_>, errno_pipe: &OwnedFd) -> ! {
    let execute = || -> io::Result<core::convert::Infallible> {
        set_up(program.fds, program.limit.as_ref(), program.ignored_signals)?;
        Err(sys::execve(program.path, program.args, program.env))
    };
    let Err(errno) = execute();
    let _ = io::write(errno_pipe, &errno.raw_os_error().to_ne_bytes());
    sys::exit(127)
}

/// Puts the fds in their places, marks all others close-on-exec, and sets dispositions and the limit.
pub(crate) fn set_up(fds: &[BorrowedFd<'_>], limit: Option<&Rlimit>, ignored_signals: u64) -> io::Result<()> {
    for (number, fd) in (0..).zip(fds) {
        sys::dup_onto(*fd, number)?;
    }
    sys::cloexec_from(u32::try_from(fds.len()).unwrap_or(0))?;
    sys::reset_signals(ignored_signals)?;
    limit.map_or(Ok(()), identity::set_limit)
}

/// Creates a file in memory, with a number above the standard streams.
///
/// # Errors
/// As memfd_create(2).
pub fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    // `MFD_NOEXEC_SEAL` (Linux 6.3) is required if the sysctl vm.memfd_noexec is 2. Older kernels fail with EINVAL.
    let file = match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    if file.as_raw_fd() > 2 { Ok(file) } else { io::fcntl_dupfd_cloexec(file, 3) }
}
