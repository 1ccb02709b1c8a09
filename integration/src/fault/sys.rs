//! The fork of the driver.
#![allow(unsafe_code)]

use nix::unistd::{ForkResult, Pid, execv, fork, read};
use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

/// Forks a process that executes `words` once a byte comes through the returned pipe.
///
/// # Errors
/// As fork(2) and pipe(2).
pub fn fork_held(words: &[CString]) -> nix::Result<(Pid, OwnedFd)> {
    let (held, release) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: until execve the child calls only read(2), execve(2) and _exit(2), which are async-signal-safe: the list of
    // pointers that execv allocates is the only exception, and the C library's allocator works after a fork.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok((child, release)),
        ForkResult::Child => {
            let mut byte = [0];
            let released = read(held.as_fd(), &mut byte);
            if let (Ok(1), Some(program)) = (released, words.first()) {
                let _ = execv(program, words);
            }
            // SAFETY: _exit(2) takes a number and does not return.
            unsafe { libc::_exit(127) }
        }
    }
}
