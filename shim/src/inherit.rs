//! The descriptors and the variable of the environment that a process of the shim inherits and passes on. `unsafe` is allowed here.
#![allow(unsafe_code)]

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
};

use berth_runtime::{Context, Error, Result, environment};
use rustix::io::FdFlags;

/// The descriptor on which the server inherits its listener.
pub const LISTENER: RawFd = 3;

/// Tunables of glibc 2.26 and 2.34, which the server reads at its start. They keep these out of its memory:
/// - Stacks of ended threads, with all pages that the threads touched: 400 kB after 10,000 execs. The server's threads
///   come and go with the load.
/// - Freed blocks in a list for each thread and size. The lists of the main thread are never emptied (74 kB after 3,000
///   execs), and each block keeps its page from being returned.
const TUNABLES: &str = "glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0";

/// The server's `GLIBC_TUNABLES=…`, with the node's own tunables last.
pub fn tunables(given: Option<OsString>) -> OsString {
    let mut text = OsString::from("GLIBC_TUNABLES=");
    text.push(TUNABLES);
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        text.push(":");
        text.push(given);
    }
    text
}

/// Keeps [`tunables`] from hooks and logging programs, which get the node's own tunables.
pub fn keep_tunables() {
    let Some(value) = std::env::var_os("GLIBC_TUNABLES") else { return };
    let Some(rest) = value.as_bytes().strip_prefix(TUNABLES.as_bytes()) else { return };
    let given = rest.strip_prefix(b":").map(|given| OsStr::from_bytes(given).to_owned());
    environment::keep_own("GLIBC_TUNABLES", given);
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_glibc_tunables_come_last() {
        assert_eq!(tunables(None), "GLIBC_TUNABLES=glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0");
        let both = tunables(Some("glibc.malloc.check=1".into()));
        assert_eq!(
            both,
            "GLIBC_TUNABLES=glibc.pthread.stack_cache_size=0:glibc.malloc.tcache_count=0:glibc.malloc.check=1"
        );
    }
}
