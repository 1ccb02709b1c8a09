//! What is undone when a container is not kept, and is no business of a leaf.

use std::os::fd::BorrowedFd;

use berth_init::plan::{Enter, Plan};
use rustix::mount::UnmountFlags;

use crate::{
    container::state::State,
    leaves::hooks,
    namespace::{kind, thread::run_in_mount_ns},
};

/// Runs the poststop hooks of a container that is not kept, when everything else of it has been undone.
#[derive(Default)]
pub struct PoststopGuard(Option<State>);

impl PoststopGuard {
    /// From now on there is a container to be undone.
    pub fn arm(&mut self, state: &State) {
        self.0 = (!state.hooks.poststop.is_empty()).then(|| state.clone());
    }

    pub fn disarm(mut self) {
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

/// Unmounts the tree of a container from the host's mount namespace, or from the one that the container joined.
pub struct HostMount<'a> {
    tree: Option<BorrowedFd<'a>>,
    joined: Option<BorrowedFd<'a>>,
}

impl<'a> HostMount<'a> {
    pub fn of(plan: &Plan<'a>) -> Self {
        let rootfs = plan.container.as_ref().map(|container| &container.rootfs);
        let tree = rootfs.filter(|rootfs| rootfs.enter == Enter::InHost).map(|rootfs| rootfs.tree);
        let joined = plan.namespaces.joins.iter().find(|join| join.flags & kind::MOUNT != 0).map(|join| join.fd);
        Self { tree, joined }
    }

    pub fn keep(mut self) {
        self.tree = None;
    }
}

impl Drop for HostMount<'_> {
    fn drop(&mut self) {
        let (Some(tree), joined) = (self.tree, self.joined) else { return };
        // One that never got there is refused, and goes with its fd.
        let _ = run_in_mount_ns(joined, || {
            rustix::process::fchdir(tree)?;
            Ok(rustix::mount::unmount(".", UnmountFlags::DETACH)?)
        });
    }
}
