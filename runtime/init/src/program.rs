//! Programs of the host's that are started: one that logs, one that maps ids. Hooks begin the same way.
//!
//! A program begins with what the caller of the runtime had, not with what the runtime has made of that for itself: the
//! limit of open files, signals at their defaults, and no descriptors but those that are meant for it. The umask, the
//! working directory and all else are those of its maker.

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

/// What to start, and with what.
pub struct Program<'a> {
    /// Absolute.
    pub path: &'a CStr,
    /// Ends in null.
    pub args: &'a [Ptr],
    /// Ends in null.
    pub env: &'a [Cell<Ptr>],
    /// Its descriptors from 0 on, each open above all of these numbers. It gets no others.
    pub fds: &'a [BorrowedFd<'a>],
    /// A limit that it has; the others are those of its maker.
    pub limit: Option<Rlimit>,
    /// Signals that its maker ignores, by bit.
    pub ignored_signals: u64,
}

/// Starts it, and returns when it executes; gives its pid and pidfd.
///
/// # Errors
/// It cannot be executed, or there is no room for a process. Nothing is left.
pub fn start(program: &Program<'_>) -> io::Result<(i32, OwnedFd)> {
    let (said, says) = pipe_with(PipeFlags::CLOEXEC)?;
    // Above the numbers that are given away.
    let says = io::fcntl_dupfd_cloexec(says, RawFd::try_from(program.fds.len()).unwrap_or(RawFd::MAX))?;
    let (pid, pidfd) = match sys::clone_program()? {
        Side::Child => become_it(program, &says),
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(says);
    let mut errno = [0u8; 4];
    let told = loop {
        match io::read(&said, &mut errno) {
            Err(Errno::INTR) => {}
            told => break told,
        }
    };
    if told? == 0 {
        return Ok((pid, pidfd));
    }
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {}
    Err(Errno::from_raw_os_error(i32::from_ne_bytes(errno)))
}

/// The program, up to its execve; what keeps it from that goes to the maker.
fn become_it(program: &Program<'_>, says: &OwnedFd) -> ! {
    let try_it = || -> io::Result<core::convert::Infallible> {
        shed(program.fds, program.limit.as_ref(), program.ignored_signals)?;
        Err(sys::execve(program.path, program.args, program.env))
    };
    let Err(errno) = try_it();
    let _ = io::write(says, &errno.raw_os_error().to_ne_bytes());
    sys::exit(127)
}

/// Puts the streams in their places, and leaves behind what a program is not to have of its maker.
pub(crate) fn shed(streams: &[BorrowedFd<'_>], limit: Option<&Rlimit>, ignored: u64) -> io::Result<()> {
    for (number, stream) in (0..).zip(streams) {
        sys::dup_onto(*stream, number)?;
    }
    sys::cloexec_from(u32::try_from(streams.len()).unwrap_or(0))?;
    sys::reset_signals(ignored)?;
    limit.map_or(Ok(()), identity::set_limit)
}

/// A file in memory, above the numbers of the standard streams.
///
/// # Errors
/// As memfd_create(2).
pub fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    // Linux 6.3, and asked for where vm.memfd_noexec is 2; older kernels do not know it.
    let file = match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    if file.as_raw_fd() > 2 { Ok(file) } else { io::fcntl_dupfd_cloexec(file, 3) }
}
