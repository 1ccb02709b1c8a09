//! What a process of ours gets from its parent and passes on: descriptors and the allocator's settings. One of the few
//! files with `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use berth_runtime::{Context, Error, Result};
use rustix::io::FdFlags;

/// The descriptor on which `start` hands the server its listener.
pub const LISTENER: RawFd = 3;

/// Marks every descriptor above the standard three close-on-exec, so that the server inherits what is named for it and
/// nothing that whoever started us left open.
///
/// # Errors
/// close_range(2) failed (Linux 5.11 has the flag).
pub fn set_cloexec() -> Result<()> {
    let flag = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
    // SAFETY: close_range(2) with CLOEXEC closes nothing now, it changes flags of descriptors; no memory is touched.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, flag) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("close_range") }
}

/// Takes over the listener that was inherited as descriptor 3. Called once, before anything else opens descriptors.
///
/// # Errors
/// Descriptor 3 is closed or is no listening socket: the server was not run by `start`.
pub fn take_listener() -> Result<OwnedFd> {
    // SAFETY: borrowed for the two checks below only; fcntl(2) on a closed number answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(LISTENER) };
    let listens = rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .and_then(|()| rustix::net::sockopt::socket_acceptconn(borrowed));
    match listens {
        // SAFETY: the number is open (checked) and ours alone: the process has just begun and owns what it inherited.
        Ok(true) => Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) }),
        _ => Err(Error::invalid("descriptor 3 is no listening socket: the server is run by the action start")),
    }
}
