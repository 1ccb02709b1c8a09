//! System calls of the command line that no crate wraps safely.
#![allow(unsafe_code)]

use berth_runtime::Result;
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
