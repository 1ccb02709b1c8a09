//! Guards of create that undo what no leaf undoes: poststop hooks, and the mount in the host's mount namespace.

use std::os::fd::BorrowedFd;

use berth_init::plan::{Enter, Plan};
use rustix::mount::UnmountFlags;

use crate::{
    container::state::State,
    leaves::hooks,
    namespace::{kind, thread::run_in_mount_ns},
};

/// Runs the poststop hooks if the container is not kept. Its owner drops it last, after all other guards and after the
/// plan's descriptors, which keep file systems of the container busy.
#[derive(Default)]
pub struct PoststopGuard(Option<State>);

impl PoststopGuard {
    /// Enables the guard: from now on the container has hooks to run.
    pub fn arm(&mut self, state: &State) {
        self.0 = (!state.hooks.poststop.is_empty()).then(|| state.clone());
    }

    /// Disables the guard.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for PoststopGuard {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            hooks::poststop(&state.hooks, state.oci_state());
        }
    }
}

/// Unmounts the container's tree if init attached it in the host's mount namespace, or in one that the container
/// joined.
pub struct HostMount<'a> {
    tree: Option<BorrowedFd<'a>>,
    joined: Option<BorrowedFd<'a>>,
}

impl<'a> HostMount<'a> {
    /// Returns the guard for a plan. It does nothing if the container has its own mount namespace.
    pub fn of(plan: &Plan<'a>) -> Self {
        let rootfs = plan.container.as_ref().map(|container| &container.rootfs);
        let tree = rootfs.filter(|rootfs| rootfs.enter == Enter::InHost).map(|rootfs| rootfs.tree);
        let joined = plan.namespaces.joins.iter().find(|join| join.flags & kind::MOUNT != 0).map(|join| join.fd);
        Self { tree, joined }
    }

    /// Leaves the tree mounted.
    pub fn keep(mut self) {
        self.tree = None;
    }
}

impl Drop for HostMount<'_> {
    fn drop(&mut self) {
        let (Some(tree), joined) = (self.tree, self.joined) else { return };
        // If init has not attached the tree, umount2(2) fails, and the kernel frees the tree with its descriptor.
        let _ = run_in_mount_ns(joined, &(), |()| {
            rustix::process::fchdir(tree)?;
            Ok(rustix::mount::unmount(".", UnmountFlags::DETACH)?)
        });
    }
}
