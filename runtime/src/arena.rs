//! Where a plan's strings, lists and fds live while the child carries it out.
//!
//! A plan is borrowed and flat; its parts come from many leaves. One arena owns what they refer to, so that a part
//! has one shape only, and everything goes when the arena goes.

use std::{
    cell::RefCell,
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use bumpalo::Bump;
use typed_arena::Arena as Typed;

use crate::{Error, Result};

/// Owner of what a plan refers to.
#[derive(Default)]
pub struct Arena {
    bump: Bump,
    fds: Typed<OwnedFd>,
    numbers: RefCell<Vec<RawFd>>,
}

/// What becomes a C string has no NUL in it; `field` names it when it has one.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`].
pub fn check(text: impl AsRef<[u8]>, field: impl FnOnce() -> String) -> Result<()> {
    if text.as_ref().contains(&0) { Err(nul(&field())) } else { Ok(()) }
}

fn nul(field: &str) -> Error {
    Error::invalid(format!("{field}: contains a NUL byte"))
}

impl Arena {
    /// A copy of `text` as a C string; `field` names it when it holds a NUL.
    pub fn text(&self, text: impl AsRef<[u8]>, field: &str) -> Result<&CStr> {
        let bytes = text.as_ref();
        let copy = self.bump.alloc_slice_fill_copy(bytes.len() + 1, 0u8);
        if let Some(room) = copy.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        CStr::from_bytes_with_nul(copy).map_err(|_| nul(field))
    }

    /// A copy of a path as a C string.
    pub fn path(&self, path: &Path, field: &str) -> Result<&CStr> {
        self.text(path.as_os_str().as_encoded_bytes(), field)
    }

    /// A copy of bytes.
    pub fn bytes(&self, bytes: &[u8]) -> &[u8] {
        self.bump.alloc_slice_copy(bytes)
    }

    /// A list with its items moved in. Items are never dropped, and so must own nothing.
    pub fn list<T>(&self, items: Vec<T>) -> &[T] {
        self.bump.alloc_slice_fill_iter(items)
    }

    /// Keeps an fd open in the child until execve.
    pub fn fd(&self, fd: OwnedFd) -> BorrowedFd<'_> {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        let kept: &OwnedFd = self.fds.alloc(fd);
        kept.as_fd()
    }

    /// Keeps open in the child an fd that somebody else owns for as long.
    pub fn inherit_borrowed<'a>(&self, fd: BorrowedFd<'a>) -> BorrowedFd<'a> {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        fd
    }

    /// Keeps open in the child an fd that the parent closes after the clone.
    pub fn inherit_raw(&self, fd: BorrowedFd<'_>) -> RawFd {
        self.numbers.borrow_mut().push(fd.as_raw_fd());
        fd.as_raw_fd()
    }

    /// The numbers of all of them, ascending.
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
    fn text_ends_in_nul_and_refuses_one_inside() {
        let arena = Arena::default();
        assert_eq!(arena.text("a", "f").unwrap(), c"a");
        assert_eq!(arena.text("", "f").unwrap(), c"");
        assert_eq!(arena.text("a\0b", "process.cwd").unwrap_err().to_string(), "process.cwd: contains a NUL byte");
    }

    #[test]
    fn fds_are_kept_and_listed_in_order() {
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
