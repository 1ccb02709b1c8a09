//! How the kernel treats the payload beside the others: CPUs, policy, I/O priority, memory nodes, execution domain.
//!
//! All of it is inherited over execve and by children. It comes while init has the runtime's rights: a real-time policy
//! needs CAP_SYS_NICE, which the payload may lack.

use crate::{
    error::{At, Result},
    plan::{Process, SchedulerAttributes, Scheduling},
    sys,
    wire::Step,
};

/// `SCHED_FLAG_RESET_ON_FORK`.
const RESET_ON_FORK: u64 = 1;
/// `SCHED_DEADLINE`.
const DEADLINE: u32 = 6;

/// More CPUs than any kernel is built for (`CONFIG_NR_CPUS`, x86-64). The kernel ignores bits of CPUs that do not exist.
const MAX_CPUS: usize = 8192;

/// Allows every CPU of the cgroup: the runtime itself may have been bound to some of them. The call fails if the cpuset of
/// the cgroup has none of them, which is no reason to stop: the cpuset holds then.
pub(crate) fn use_all_cpus() {
    let _ = sys::set_affinity(&[u64::MAX; MAX_CPUS / 64]);
}

/// The policy can only be given to the process that keeps it, and by one that has CAP_SYS_NICE: one of `SCHED_DEADLINE`
/// cannot fork (sched(7)). The parent sets it, then.
pub fn set_by_parent(policy: &SchedulerAttributes) -> bool {
    policy.policy == DEADLINE
}

/// What a clone takes back, for a process that was cloned after [`apply`]. The policy is the same, so this takes no right.
pub fn reapply(process: &Process<'_>) -> Result<()> {
    let policy = process.scheduling.as_ref().and_then(|scheduling| scheduling.policy.as_ref());
    match policy.filter(|policy| policy.flags & RESET_ON_FORK != 0 && !set_by_parent(policy)) {
        Some(policy) => sys::set_scheduler(0, policy).at(Step::Scheduler),
        None => Ok(()),
    }
}

/// Sets what the plan names. With `enters_pid` a clone is to come: what a clone takes back follows in [`reapply`].
pub fn apply(scheduling: &Scheduling<'_>, enters_pid: bool) -> Result<()> {
    if let Some(cpus) = scheduling.cpus {
        sys::set_affinity(cpus).at(Step::Affinity)?;
    }
    match &scheduling.policy {
        Some(policy) if enters_pid && set_by_parent(policy) => {}
        Some(policy) if enters_pid => {
            let flags = policy.flags & !RESET_ON_FORK;
            sys::set_scheduler(0, &SchedulerAttributes { flags, ..*policy }).at(Step::Scheduler)?;
        }
        Some(policy) => sys::set_scheduler(0, policy).at(Step::Scheduler)?,
        None => {}
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
