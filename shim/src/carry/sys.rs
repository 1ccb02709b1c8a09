//! Descriptors by number. `unsafe` is allowed here: a program that is executed in place knows its descriptors by their
//! numbers alone.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Borrows an inherited descriptor, or one that another value of this process owns.
pub fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the callers hand the value to fstat(2), fcntl(2), read(2) or execveat(2) at once and drop it. On a closed
    // number these return EBADF. Numbers below 0 do not come here: a document names open descriptors.
    unsafe { BorrowedFd::borrow_raw(number.max(0)) }
}

/// Closes an inherited descriptor.
pub fn close(number: RawFd) {
    drop(own(number));
}

/// Takes an inherited descriptor.
pub fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the program was executed in place and owns all that it inherited; `Adopter` has checked that the descriptor
    // is open and gives each number away once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
