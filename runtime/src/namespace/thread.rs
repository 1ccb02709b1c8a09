//! Runs code in a thread of its own, which may join namespaces that the calling thread could not leave.

use std::os::fd::BorrowedFd;

use berth_init::sys::{setns, unshare};

use super::kind;
use crate::{Context, Error, Kind, Result, sys};

/// Runs `act` on `value` in a thread that has its own root and working directory and has joined the mount namespace
/// `mounts`.
///
/// setns(2) requires the own root and working directory (`unshare(CLONE_FS)`) for a mount namespace.
///
/// # Errors
/// The error of `act`, or of joining the namespace.
pub fn run_in_mount_ns<V: ?Sized>(
    mounts: Option<BorrowedFd<'_>>,
    value: &V,
    act: impl FnOnce(&V) -> Result<()> + Send,
) -> Result<()> {
    run_in_thread(value, |value| {
        unshare(libc::CLONE_FS.unsigned_abs()).context("unshare the root directory")?;
        mounts.map_or(Ok(()), |mounts| setns(mounts, kind::MOUNT)).context("join the container's mount namespace")?;
        act(value)
    })
}

/// Runs `act` on `value` in a thread of its own, and waits for it.
///
/// # Errors
/// The error of `act`, or of starting the thread.
pub fn run_in_thread<V: ?Sized, T: Send>(value: &V, act: impl FnOnce(&V) -> Result<T> + Send) -> Result<T> {
    let done = sys::run_on_thread(value, act).context("start a thread")?;
    done.unwrap_or_else(|| Err(Error::new(Kind::Internal, "a thread has panicked")))
}
