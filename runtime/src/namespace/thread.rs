//! Work in a thread of its own, which may enter namespaces that the calling thread could not leave again.

use std::os::fd::BorrowedFd;

use berth_init::sys::{setns, unshare};

use super::kind;
use crate::{Context, Error, Kind, Result};

/// Runs `act` in a thread that has a root and a working directory of its own, with which `mounts` may be entered.
///
/// # Errors
/// Those of `act`, and of entering them.
pub fn run_in_mount_ns(mounts: Option<BorrowedFd<'_>>, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let act = || {
        unshare(libc::CLONE_FS.unsigned_abs()).context("unshare the root directory")?;
        mounts.map_or(Ok(()), |mounts| setns(mounts, kind::MOUNT)).context("join the container's mount namespace")?;
        act()
    };
    run_in_thread(act)
}

/// Runs `act` in a thread of its own, which may join what this one could not leave again, and waits for it.
///
/// # Errors
/// Those of `act`; no thread is to be had.
pub fn run_in_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act).context("start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread has died")))
    })
}
