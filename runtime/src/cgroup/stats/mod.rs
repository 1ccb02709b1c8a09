//! The resource usage of a cgroup, as the numbers of the kernel. v1 and v2 have separate types because they count
//! differently: ns and µs, memory with and without swap. The front doors translate them into protobuf or JSON.
//!
//! A file that the kernel or the controller does not have reads as zero.

mod files;
#[cfg(feature = "fuzzing")]
pub(in crate::cgroup) mod fuzzing;
mod placement;
mod v1;
mod v2;

pub use files::{Counters, Pids, Rdma, RdmaEntry};
pub use placement::Placement;
pub use v1::{Blkio, BlkioEntry, MemoryEntry, V1Cpu, V1Hugetlb, V1Memory, V1Stats};
pub use v2::{IoEntry, MemoryEvents, Psi, PsiLine, V2Cpu, V2Hugetlb, V2Io, V2Memory, V2Stats};

use super::{
    dir::gone,
    location::{Cgroup, Hierarchy},
};
use crate::error::{Error, Kind, Result};

/// The usage of one cgroup at one moment.
#[derive(Clone, Debug)]
pub enum Stats {
    /// From v1 hierarchies; the content of `io.containerd.cgroups.v1.Metrics`.
    V1(Box<V1Stats>),
    /// From the unified hierarchy; the content of `io.containerd.cgroups.v2.Metrics`.
    V2(Box<V2Stats>),
}

impl Cgroup {
    /// Reads the resource usage; all zero for a container without a cgroup.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the cgroup does not exist.
    pub fn stats(&self) -> Result<Stats> {
        let stats = match self.hierarchy {
            Hierarchy::V1 if !self.is_managed() => return Ok(Stats::V1(Box::default())),
            Hierarchy::V2 if !self.is_managed() => return Ok(Stats::V2(Box::default())),
            Hierarchy::V1 => v1::read(self).map(|s| Stats::V1(Box::new(s))),
            Hierarchy::V2 => self.main_place()?.open().and_then(|d| v2::read(&d)).map(|s| Stats::V2(Box::new(s))),
        };
        stats.map_err(missing)
    }

    /// Reads CPUs and memory nodes, the time on each CPU, and reserved huge pages: numbers that [`Cgroup::stats`] lacks.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the cgroup does not exist.
    pub fn placement(&self) -> Result<Placement> {
        placement::read(self).map_err(missing)
    }
}

fn missing(e: Error) -> Error {
    if gone(&e) { e.with_kind(Kind::NotFound) } else { e }
}
