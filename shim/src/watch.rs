//! Descriptors on tokio's event loop. One of the few files with `unsafe`: tokio 1.54 asks whoever registers a
//! descriptor to promise that it stays the same one, which the standard library's owning and borrowing types do.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that stays open, and the same, for as long as the value lives.
pub trait Stable: AsRawFd + sealed::Sealed {}
impl Stable for OwnedFd {}
impl Stable for BorrowedFd<'_> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::OwnedFd {}
    impl Sealed for super::BorrowedFd<'_> {}
}

/// Watches a descriptor, inside the runtime.
///
/// # Errors
/// It cannot be watched (a regular file), or is watched already.
pub fn watch<T: Stable>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: a `Stable` type keeps its descriptor open and its number unchanged while it lives (I/O safety, RFC 3128),
    // and the AsyncFd lives no longer than the value that it owns.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
