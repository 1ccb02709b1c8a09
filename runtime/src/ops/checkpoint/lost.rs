//! Finds the processes that a dump loses.

use crate::{container::state::Container, host::proc};

/// Logs the processes of the container that do not descend from its init, such as those of an exec. CRIU dumps the tree
/// of init, and the others are killed with the container.
pub fn warn(container: &Container) {
    let Ok(pids) = container.cgroup().pids() else { return };
    let lost: Vec<i32> =
        pids.into_iter().filter(|pid| !proc::descends(*pid, container.pid()) && proc::exists(*pid)).collect();
    if !lost.is_empty() {
        log::warn!("container {}: the checkpoint does not contain the processes {lost:?} of execs", container.id());
    }
}
