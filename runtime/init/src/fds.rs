//! The file descriptors that the child keeps.
//!
//! The child has a copy of every fd of the runtime, and a shim holds fds of several containers. The child closes them
//! twice: at the start all fds that the plan does not name, and before the barrier all fds that only the setup needed.

use rustix::fd::{AsRawFd, RawFd};

use crate::{
    defence::Defence,
    error::{At, Result},
    plan::{Barrier, Plan},
    report::Report,
    sys, wire,
    wire::Step,
};

/// Closes every fd except the standard streams, the `preserve` fds that follow them, and the fds in `keep`, which is in
/// ascending order. Each gap takes one close_range(2) (Linux 5.9).
pub(crate) fn close_all_but(preserve: u32, keep: &[RawFd]) -> Result<()> {
    if !Defence::ClosedFds.stands() {
        return Ok(());
    }
    let mut next = preserve.saturating_add(3);
    for &fd in keep {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if fd < next {
            continue;
        }
        if fd > next {
            sys::close_range(next, fd - 1).at(Step::CloseFds)?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX).at(Step::CloseFds)
}

/// Closes every fd that only the setup needed: a process that waits for its start must not hold directories of the host.
/// The channel, the start socket and the fds of the namespaces stay open.
pub(crate) fn close_setup_fds(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    let channel = report.channel.as_raw_fd();
    let barrier = match plan.barrier {
        Some(Barrier::Listen(socket)) => socket.as_raw_fd(),
        Some(Barrier::Channel) | None => channel,
    };
    // Unused slots are -1, which close_all_but passes over.
    let mut keep = [-1; 2 + wire::MAX_NAMESPACES];
    let namespaces = report.namespaces.iter().flatten().map(AsRawFd::as_raw_fd);
    for (slot, fd) in keep.iter_mut().zip([channel, barrier].into_iter().chain(namespaces)) {
        *slot = fd;
    }
    keep.sort_unstable();
    close_all_but(plan.preserve_fds, &keep)
}
