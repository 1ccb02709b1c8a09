//! A program of the host's that is started and goes on by itself, as one that logs.
//!
//! It begins with what the caller of the runtime had, not with what the runtime has made of that for itself: the limit
//! of open files, signals at their defaults, and no descriptors but those that are meant for it.

use core::cell::Cell;
use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
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
}

/// Starts it, and returns when it executes; gives its pid and pidfd.
///
/// # Errors
/// It cannot be executed, or there is no room for a process. Nothing is left.
pub fn start(program: &Program<'_>) -> io::Result<(i32, OwnedFd)> {
    let (said, says) = pipe_with(PipeFlags::CLOEXEC)?;
    // Above the numbers that are given away.
    let says = io::fcntl_dupfd_cloexec(says, RawFd::try_from(program.fds.len()).unwrap_or(RawFd::MAX))?;
    let (pid, pidfd) = match sys::clone_hook()? {
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
        let mut number: RawFd = 0;
        for fd in program.fds {
            sys::dup_onto(*fd, number)?;
            number += 1;
        }
        sys::cloexec_from(number.cast_unsigned())?;
        sys::default_signals()?;
        if let Some(limit) = &program.limit {
            identity::set_limit(limit)?;
        }
        Err(sys::execve(program.path, program.args, program.env))
    };
    let Err(errno) = try_it();
    let _ = io::write(says, &errno.raw_os_error().to_ne_bytes());
    sys::exit(127)
}
