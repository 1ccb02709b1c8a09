//! Runs code in a thread of its own, which may join namespaces that the calling thread could not leave.

use std::os::fd::BorrowedFd;

use berth_init::sys::{setns, unshare};

use super::kind;
use crate::{Context, Error, Kind, Result};

/// Runs `act` in a thread that has its own root and working directory and has joined the mount namespace `mounts`.
///
/// setns(2) requires the own root and working directory (`unshare(CLONE_FS)`) for a mount namespace.
///
/// # Errors
/// The error of `act`, or of joining the namespace.
pub fn run_in_mount_ns(mounts: Option<BorrowedFd<'_>>, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let act = || {
        unshare(libc::CLONE_FS.unsigned_abs()).context("unshare the root directory")?;
        mounts.map_or(Ok(()), |mounts| setns(mounts, kind::MOUNT)).context("join the container's mount namespace")?;
        act()
    };
    run_in_thread(act)
}

/// Runs `act` in a thread of its own, and waits for it.
///
/// # Errors
/// The error of `act`, or of starting the thread.
pub fn run_in_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act).context("start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread has panicked")))
    })
}
