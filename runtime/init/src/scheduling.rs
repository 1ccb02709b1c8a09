//! The scheduling of the payload: CPUs, policy, I/O priority, memory policy, execution domain.
//!
//! The payload and its children inherit all of it. It is set while the process has the runtime's rights: a real-time
//! policy needs CAP_SYS_NICE, which the payload may lack.

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

/// More CPUs than any kernel supports (`CONFIG_NR_CPUS`, x86-64). sched_setaffinity(2) ignores the bits of missing
/// CPUs.
const MAX_CPUS: usize = 8192;

/// Allows all CPUs of the cgroup's cpuset, also if the runtime was bound to some of them. An error is ignored: the
/// process then has the CPUs that the cpuset leaves it.
pub(crate) fn use_all_cpus() {
    let _ = sys::set_affinity(&[u64::MAX; MAX_CPUS / 64]);
}

/// True if the parent sets the policy of a process that is cloned a second time: a process with `SCHED_DEADLINE`
/// cannot fork (sched(7)), and the payload's process lacks CAP_SYS_NICE.
pub fn set_by_parent(policy: &SchedulerAttributes) -> bool {
    policy.policy == DEADLINE
}

/// Sets `SCHED_FLAG_RESET_ON_FORK` again after the second clone, which has reset it. The policy is the same, so no
/// capability is needed.
pub fn reapply(process: &Process<'_>) -> Result<()> {
    let policy = process.scheduling.as_ref().and_then(|scheduling| scheduling.policy.as_ref());
    match policy.filter(|policy| policy.flags & RESET_ON_FORK != 0 && !set_by_parent(policy)) {
        Some(policy) => sys::set_scheduler(0, policy).at(Step::Scheduler),
        None => Ok(()),
    }
}

/// Sets the scheduling of the plan. With `enters_pid` a second clone follows, which would reset a part of it:
/// [`reapply`] or the parent sets that part later.
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
