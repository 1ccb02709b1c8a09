//! The descriptors that a process of the shim inherits and passes on. `unsafe` is allowed here.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use berth_runtime::{Context, Error, Result};
use rustix::io::FdFlags;

/// The descriptor on which the server inherits its listener.
pub const LISTENER: RawFd = 3;

/// Marks all descriptors from 3 on close-on-exec, so that the server inherits none that containerd has left open.
///
/// # Errors
/// close_range(2) failed (CLOSE_RANGE_CLOEXEC: Linux 5.11).
pub fn set_cloexec() -> Result<()> {
    let flag = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing and changes flags of descriptors; it touches no memory.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, flag) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("close_range") }
}

/// Takes the listener that is inherited as descriptor 3. Must be called once, before any descriptor is opened.
///
/// # Errors
/// Descriptor 3 is closed or does not listen: `start` has not run this process.
pub fn take_listener() -> Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the two checks below alone; fcntl(2) on a closed one returns EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(LISTENER) };
    let listens = rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .and_then(|()| rustix::net::sockopt::socket_acceptconn(borrowed));
    match listens {
        // SAFETY: the descriptor is open (checked), and the process has just begun, so it owns all that it inherited.
        Ok(true) => Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) }),
        _ => Err(Error::invalid("descriptor 3 is no listening socket: the server is run by the action start")),
    }
}
