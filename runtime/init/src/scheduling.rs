//! How the kernel treats the payload beside the others: CPUs, policy, I/O priority, memory nodes, execution domain.
//!
//! All of it is inherited over execve and by children. It comes while init has the runtime's rights: a real-time policy
//! needs CAP_SYS_NICE, which the payload may lack.

use crate::{At, Result, plan::Scheduling, sys, wire::Step};

/// Sets what the plan names.
pub fn apply(scheduling: &Scheduling<'_>) -> Result<()> {
    if let Some(cpus) = scheduling.cpus {
        sys::set_affinity(cpus).at(Step::Affinity)?;
    }
    if let Some(attributes) = &scheduling.policy {
        sys::set_scheduler(attributes).at(Step::Scheduler)?;
    }
    if let Some(priority) = scheduling.io_priority {
        sys::set_io_priority(priority).at(Step::IoPriority)?;
    }
    if let Some(domain) = scheduling.personality {
        sys::set_personality(domain).at(Step::Personality)?;
    }
    if let Some((mode, nodes)) = scheduling.memory {
        sys::set_memory_policy(mode, nodes).at(Step::MemoryPolicy)?;
    }
    Ok(())
}
