//! What a container has used, as containerd wants to read it: `io.containerd.cgroups.v1.Metrics` (times in ns) on a host
//! with v1 hierarchies, `io.containerd.cgroups.v2.Metrics` (times in µs) on the unified one. Any other type is an error
//! to CRI. Reading the numbers is the runtime's; here they only change their names.

mod v1;
mod v2;

use berth_proto::{any, wkt::Any};
use berth_runtime::{Error, Kind, Result, state, stats::Stats};

/// The container's metrics at this moment.
///
/// # Errors
/// Its cgroup is gone (not found) or cannot be read.
pub fn metrics(container: &state::Container) -> Result<Any> {
    let packed = match berth_runtime::stats::stats(container)? {
        Stats::V1(stats) => any::pack(&v1::metrics(*stats)),
        Stats::V2(stats) => any::pack(&v2::metrics(*stats)),
    };
    packed.map_err(|e| Error::new(Kind::Internal, format!("encode metrics: {e}")))
}
