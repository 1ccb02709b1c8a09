//! Descriptors on tokio's event loop. `unsafe` is allowed here: tokio 1.54 asks the caller to promise that a descriptor
//! stays the same one while it is registered. The standard library's owning and borrowing types keep that promise.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that stays open and unchanged for as long as the value lives.
pub trait Stable: AsRawFd + sealed::Sealed {}
impl Stable for OwnedFd {}
impl Stable for BorrowedFd<'_> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::OwnedFd {}
    impl Sealed for super::BorrowedFd<'_> {}
}

/// Registers a descriptor with the event loop. Must be called inside the tokio runtime.
///
/// # Errors
/// The descriptor cannot be watched (a regular file), or is watched already.
pub fn watch<T: Stable>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: a `Stable` type keeps its descriptor open and its number unchanged while it lives (I/O safety, RFC 3128),
    // and the AsyncFd lives no longer than the value that it owns.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
