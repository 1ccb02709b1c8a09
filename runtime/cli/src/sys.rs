//! System calls of the command line that no crate wraps safely.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use berth_runtime::{Error, Result};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Resets SIGCHLD to `SIG_DFL`. A caller may have left it ignored; then the kernel reaps children itself and their exit
/// statuses are lost (sigaction(2)).
///
/// # Errors
/// Fails if sigaction(2) fails.
pub fn default_sigchld() -> Result<()> {
    // SAFETY: SIG_DFL runs no code of this program, so nothing has to be async-signal-safe. No other code of this program
    // installs a handler for SIGCHLD that would be lost.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Returns whether the caller passed the file descriptor `number` to this program. Such a descriptor is open and has no
/// `FD_CLOEXEC`; descriptors that this program has opened itself have the flag.
pub fn was_passed(number: u32) -> bool {
    let Ok(number) = i32::try_from(number) else { return false };
    // SAFETY: F_GETFD takes no pointer. For a number that is not open it returns EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Sends the signal `number` to the process of `pidfd` (pidfd_send_signal(2), Linux 5.1). rustix has no real-time signals.
///
/// # Errors
/// ESRCH if the process has ended, EINVAL if there is no such signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<()> {
    // SAFETY: the kernel reads no memory of this process, because the third argument, a siginfo_t, is null. The fd is
    // borrowed during the call.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}
