//! The few system calls of the command line that no crate wraps safely.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use berth_runtime::{Error, Result};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Gives SIGCHLD its default back: a caller may have left it ignored, and then the kernel reaps children itself and
/// their exit statuses are lost (sigaction(2), `SIG_IGN`).
///
/// # Errors
/// Those of sigaction(2).
pub fn default_sigchld() -> Result<()> {
    // SAFETY: SIG_DFL runs no code of ours, so nothing has to be async-signal-safe, and nobody else in this program
    // installs a handler for SIGCHLD whose loss could matter.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Whether this process was given the descriptor `number` by whoever started it: it is open, and would have outlived the
/// execve(2) that this program began with. One of its own has `FD_CLOEXEC`.
pub fn was_given(number: u32) -> bool {
    let Ok(number) = i32::try_from(number) else { return false };
    // SAFETY: F_GETFD takes no pointer; of a number that is not open it says EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Sends `number`, real-time signals included, to the process of `pidfd` (pidfd_send_signal(2), Linux 5.1).
///
/// # Errors
/// Those of the system call: ESRCH when the process is gone, EINVAL for no such signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<()> {
    // SAFETY: the kernel reads no memory of ours: the third argument, a siginfo_t, is null, and the fd is borrowed
    // for the length of the call.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}
