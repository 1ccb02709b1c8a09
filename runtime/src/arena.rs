//! Owns the strings, lists and file descriptors of a plan while the child carries the plan out.
//!
//! A plan is a flat structure of borrows, and its parts come from many modules. One arena owns all that the parts refer
//! to. So each part has a single type, and everything is freed with the arena.

use std::{
    cell::RefCell,
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use bumpalo::Bump;
use typed_arena::Arena as Typed;

use crate::{Error, Result};

/// Owner of the strings, lists and file descriptors of a plan.
#[derive(Default)]
pub struct Arena {
    bump: Bump,
    fds: Typed<OwnedFd>,
    numbers: RefCell<Vec<RawFd>>,
}

/// Checks that `text` can become a C string.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field if it contains a NUL byte.
pub fn check(text: impl AsRef<[u8]>, field: impl FnOnce() -> String) -> Result<()> {
    if text.as_ref().contains(&0) { Err(nul(&field())) } else { Ok(()) }
}

fn nul(field: &str) -> Error {
    Error::invalid(format!("{field}: contains a NUL byte"))
}

impl Arena {
    /// Copies `text` to a C string. An error names `field` if the text contains a NUL byte.
    pub fn text(&self, text: impl AsRef<[u8]>, field: &str) -> Result<&CStr> {
        let bytes = text.as_ref();
        let copy = self.bump.alloc_slice_fill_copy(bytes.len() + 1, 0u8);
        if let Some(room) = copy.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        CStr::from_bytes_with_nul(copy).map_err(|_| nul(field))
    }

    /// Copies a path to a C string. An error names `field` if the path contains a NUL byte.
    pub fn path(&self, path: &Path, field: &str) -> Result<&CStr> {
        self.text(path.as_os_str().as_encoded_bytes(), field)
    }

    /// Copies bytes.
    pub fn bytes(&self, bytes: &[u8]) -> &[u8] {
        self.bump.alloc_slice_copy(bytes)
    }

    /// Moves items into a list. The items are never dropped, so they must own nothing.
    pub fn list<T>(&self, items: Vec<T>) -> &[T] {
        self.bump.alloc_slice_fill_iter(items)
    }

    /// Owns `fd` and keeps it open in the child until execve(2).
    pub fn fd(&self, fd: OwnedFd) -> BorrowedFd<'_> {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        let kept: &OwnedFd = self.fds.alloc(fd);
        kept.as_fd()
    }

    /// Keeps `fd` open in the child until execve(2). The caller owns it for as long as the plan lives.
    pub fn inherit_borrowed<'a>(&self, fd: BorrowedFd<'a>) -> BorrowedFd<'a> {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        fd
    }

    /// Keeps `fd` open in the child until execve(2). The caller may close it after the clone.
    pub fn inherit_raw(&self, fd: BorrowedFd<'_>) -> RawFd {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        fd.as_raw_fd()
    }

    /// Returns the numbers of all these descriptors, ascending.
    pub fn fd_numbers(&self) -> &[RawFd] {
        let mut numbers = self.numbers.borrow_mut();
        numbers.sort_unstable();
        self.bump.alloc_slice_copy(&numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_text_with_nul_byte_is_refused() {
        let arena = Arena::default();
        assert_eq!(arena.text("a", "f").unwrap(), c"a");
        assert_eq!(arena.text("", "f").unwrap(), c"");
        assert_eq!(arena.text("a\0b", "process.cwd").unwrap_err().to_string(), "process.cwd: contains a NUL byte");
    }

    #[test]
    fn arena_keeps_fds_open_and_lists_them_in_order() {
        let arena = Arena::default();
        let (a, b) = rustix::pipe::pipe().unwrap();
        let mut wanted = vec![a.as_raw_fd(), b.as_raw_fd()];
        wanted.sort_unstable();
        let later = arena.fd(b);
        arena.fd(a);
        assert_eq!(arena.fd_numbers(), wanted);
        assert!(rustix::io::fcntl_getfd(later).is_ok());
    }
}
