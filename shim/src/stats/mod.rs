//! The metrics of a container in containerd's messages: `io.containerd.cgroups.v1.Metrics` (times in ns) on a host with
//! v1 hierarchies, `io.containerd.cgroups.v2.Metrics` (times in µs) on the unified one. CRI refuses any other type. The
//! runtime reads the numbers; this module renames them.

mod v1;
mod v2;

use berth_proto::{any, wkt::Any};
use berth_runtime::{Error, Kind, Result, state, stats::Stats};

/// The current metrics of the container.
///
/// # Errors
/// Its cgroup is gone (not found) or cannot be read.
pub fn metrics(container: &state::Container) -> Result<Any> {
    pack(berth_runtime::stats::stats(container)?)
}

/// The current metrics of a pod's cgroup.
///
/// # Errors
/// As [`metrics`]; the path is malformed.
pub fn pod_metrics(cgroup_parent: &str) -> Result<Any> {
    pack(berth_runtime::stats::of_pod(cgroup_parent)?)
}

fn pack(stats: Stats) -> Result<Any> {
    let packed = match stats {
        Stats::V1(stats) => any::pack(&v1::metrics(*stats)),
        Stats::V2(stats) => any::pack(&v2::metrics(*stats)),
    };
    packed.map_err(|e| Error::new(Kind::Internal, format!("encode metrics: {e}")))
}
