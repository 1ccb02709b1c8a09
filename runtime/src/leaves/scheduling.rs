//! Scheduler, I/O priority, CPU affinity, memory policy and execution domain: turns config.json into numbers.
//!
//! As in runc, an exec takes over the container's settings that its own process does not name. The CPU affinity applies
//! to execs only (config.md, "execCPUAffinity").

use berth_init::plan::{SchedulerAttributes, Scheduling};
use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, arena::Arena};

/// The modes of set_mempolicy(2). A kernel that lacks one refuses it when it is set.
pub const MEMORY_MODES: &str = "\
    MPOL_BIND MPOL_DEFAULT MPOL_INTERLEAVE MPOL_LOCAL MPOL_PREFERRED MPOL_PREFERRED_MANY MPOL_WEIGHTED_INTERLEAVE";
/// The mode flags of set_mempolicy(2).
pub const MEMORY_FLAGS: &str = "MPOL_F_NUMA_BALANCING MPOL_F_RELATIVE_NODES MPOL_F_STATIC_NODES";

/// Number of CPUs and memory nodes that a set can hold, as in the C library's `cpu_set_t`.
const MAX: usize = 1024;
/// A set of CPUs or memory nodes, one bit each.
pub type Set = [u64; MAX / 64];

/// The settings of a container in config.json, which its execs take over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<Scheduler>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io_priority: Option<LinuxIOPriority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<ExecCPUAffinity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    personality: Option<LinuxPersonality>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<LinuxMemoryPolicy>,
}

impl Settings {
    /// Returns the settings of a config.json.
    pub fn from_spec(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        Self {
            scheduler: process.and_then(|p| p.scheduler().clone()),
            io_priority: process.and_then(|p| *p.io_priority()),
            affinity: process.and_then(|p| p.exec_cpu_affinity().clone()),
            personality: linux.and_then(|l| l.personality().clone()),
            memory: linux.and_then(|l| l.memory_policy().clone()),
        }
    }

    /// Returns true if config.json has none of the settings.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the settings for an exec of `process`: those that the process names replace the container's.
    #[must_use]
    pub fn overridden_by(&self, process: &Process) -> Self {
        let mut all = self.clone();
        if process.scheduler().is_some() {
            all.scheduler.clone_from(process.scheduler());
        }
        if process.io_priority().is_some() {
            all.io_priority.clone_from(process.io_priority());
        }
        if process.exec_cpu_affinity().is_some() {
            all.affinity.clone_from(process.exec_cpu_affinity());
        }
        all
    }

    /// Returns true if there is a CPU affinity for execs.
    pub fn names_cpus(&self) -> bool {
        let named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        self.affinity.as_ref().is_some_and(|a| named(a.initial()) || named(a.cpu_affinity_final()))
    }

    /// Returns the CPUs on which an exec's process is created, before it joins the container's cgroup.
    ///
    /// # Errors
    /// As [`check`].
    pub fn initial_cpus(&self) -> Result<Option<Set>> {
        self.affinity.as_ref().and_then(|a| a.initial().as_deref()).map(|text| parse_set(text, INITIAL)).transpose()
    }
}

const INITIAL: &str = "process.execCPUAffinity.initial";
const FINAL: &str = "process.execCPUAffinity.final";
const NODES: &str = "linux.memoryPolicy.nodes";

/// The process that the settings are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The init of a container.
    Init,
    /// The process of an exec, which also gets the final CPU affinity.
    Exec,
}

/// Plans the settings of a payload. Returns `None` if there are none.
///
/// # Errors
/// As [`check`] and [`check_container`].
pub fn plan<'a>(arena: &'a Arena, wanted: &Settings, payload: Payload) -> Result<Option<Scheduling<'a>>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let last =
        wanted.affinity.as_ref().and_then(|a| a.cpu_affinity_final().as_deref()).filter(|_| payload == Payload::Exec);
    let list = |set: Set| -> &'a [u64] { arena.list(set.to_vec()) };
    let memory = match &wanted.memory {
        None => None,
        Some(policy) => {
            let nodes = policy.nodes().as_deref().filter(|n| !n.is_empty());
            let nodes: &[u64] = nodes.map(|text| parse_set(text, NODES)).transpose()?.map_or(&[], list);
            Some((memory_mode(policy), nodes))
        }
    };
    Ok(Some(Scheduling {
        cpus: last.map(|text| parse_set(text, FINAL)).transpose()?.map(list),
        policy: wanted.scheduler.as_ref().map(attributes),
        io_priority: wanted.io_priority.as_ref().map(io_priority).transpose()?,
        personality: wanted.personality.as_ref().map(|p| domain(p.domain())),
        memory,
    }))
}

/// Checks the settings of a process against the spec and the kernel's interfaces.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field.
pub fn check(process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        check_scheduler(scheduler)?;
    }
    if let Some(priority) = process.io_priority() {
        io_priority(priority)?;
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (field, text) in [(INITIAL, affinity.initial()), (FINAL, affinity.cpu_affinity_final())] {
            if let Some(text) = text {
                parse_set(text, field)?;
            }
        }
    }
    Ok(())
}

fn check_scheduler(scheduler: &Scheduler) -> Result<()> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *scheduler.policy();
    let bad = |field: &str, why: String| Err(Error::invalid(format!("process.scheduler.{field}: {why}")));
    if let Some(nice) = *scheduler.nice()
        && matches!(policy, Policy::SchedOther | Policy::SchedBatch)
        && !(-20..=19).contains(&nice)
    {
        return bad("nice", format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if priority != 0 && !realtime {
        return bad("priority", "scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into());
    }
    if realtime && !(1..=99).contains(&priority) {
        return bad("priority", format!("{priority} is out of range, {policy} has 1 to 99"));
    }
    for (field, value) in
        [("runtime", scheduler.runtime()), ("deadline", scheduler.deadline()), ("period", scheduler.period())]
    {
        if policy != Policy::SchedDeadline && value.is_some_and(|v| v != 0) {
            let why = "scheduler runtime/deadline/period can only be specified for SchedDeadline policy";
            return bad(field, why.into());
        }
    }
    Ok(())
}

/// Checks `linux.memoryPolicy`.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field.
pub fn check_container(policy: Option<&LinuxMemoryPolicy>) -> Result<()> {
    use MemoryPolicyFlagType as Flag;
    use MemoryPolicyModeType as Mode;
    let Some(policy) = policy else { return Ok(()) };
    let nodes = policy.nodes().as_deref().filter(|n| !n.is_empty());
    let wanted = "linux.memoryPolicy.nodes: invalid memory policy nodes";
    let count = nodes
        .map(|text| parse_set(text, wanted))
        .transpose()?
        .map(|set| set.iter().map(|n| n.count_ones()).sum::<u32>());
    match (policy.mode(), count) {
        (mode @ (Mode::MpolDefault | Mode::MpolLocal), Some(count)) => {
            let text = format!("{NODES}: memory policy {mode}: mode requires 0 nodes but got {count}");
            return Err(Error::invalid(text));
        }
        (Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred, _) | (_, Some(_)) => {}
        (mode, None) => {
            let text = format!("{NODES}: memory policy mode {mode} requires at least one node but got 0");
            return Err(Error::invalid(text));
        }
    }
    let flags = policy.flags().as_deref().unwrap_or_default();
    let has = |flag| flags.contains(&flag);
    if has(Flag::MpolFStaticNodes) && has(Flag::MpolFRelativeNodes) {
        let text = "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// Returns `struct sched_attr` of sched_setattr(2).
fn attributes(scheduler: &Scheduler) -> SchedulerAttributes {
    use LinuxSchedulerPolicy as Policy;
    let policy = match *scheduler.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| all | scheduler_flag(*flag));
    SchedulerAttributes {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    }
}

fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Returns class and priority in one number for ioprio_set(2).
fn io_priority(wanted: &LinuxIOPriority) -> Result<u32> {
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(wanted.priority()) {
        Ok(priority) if priority <= 7 => Ok(class << 13 | priority),
        _ => Err(Error::invalid(format!(
            "process.ioPriority.priority: invalid ioPriority.Priority: {}, it is 0 to 7",
            wanted.priority()
        ))),
    }
}

/// Returns the persona for personality(2).
fn domain(domain: LinuxPersonalityDomain) -> u32 {
    match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

/// Returns mode and flags in one number for set_mempolicy(2).
fn memory_mode(policy: &LinuxMemoryPolicy) -> u32 {
    use MemoryPolicyFlagType as Flag;
    use MemoryPolicyModeType as Mode;
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    policy.flags().iter().flatten().fold(mode, |all, flag| {
        all | match flag {
            Flag::MpolFStaticNodes => 1 << 15,
            Flag::MpolFRelativeNodes => 1 << 14,
            Flag::MpolFNumaBalancing => 1 << 13,
        }
    })
}

/// Parses a list such as `0-3,7`. Like runc, it allows spaces and empty members.
fn parse_set(text: &str, field: &str) -> Result<Set> {
    let bad = |why: &str| Error::invalid(format!("{field}: {text:?}: {why}"));
    let number = |digits: &str| -> Result<usize> {
        let value: usize = digits.parse().map_err(|_| bad("not a list of numbers and ranges"))?;
        if value < MAX { Ok(value) } else { Err(bad(&format!("values larger than {} are not supported", MAX - 1))) }
    };
    let mut set = [0u64; MAX / 64];
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad("invalid range"));
        }
        for n in first..=last {
            if let Some(word) = set.get_mut(n / 64) {
                *word |= 1 << (n % 64);
            }
        }
    }
    if set == [0; MAX / 64] { Err(bad("no members found")) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn process(field: &str, value: Value) -> Process {
        serde_json::from_value(json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, field: value})).unwrap()
    }

    #[test]
    fn cpu_lists_are_parsed_or_refused_by_field() {
        let of = |bits: &[usize]| {
            let mut set = [0u64; MAX / 64];
            bits.iter().for_each(|n| set[n / 64] |= 1 << (n % 64));
            set
        };
        for (text, bits) in [("0", &[0][..]), ("0-2,7", &[0, 1, 2, 7]), (" 1 ,, 64", &[1, 64]), ("1023", &[1023])] {
            assert_eq!(parse_set(text, "f").unwrap(), of(bits), "{text}");
        }
        for text in ["", ",", "a", "1-", "-1", "3-1", "1024", "0-9999", "1--2"] {
            assert!(parse_set(text, "the.field").unwrap_err().to_string().starts_with("the.field: "), "{text}");
        }
    }

    #[test]
    fn scheduler_settings_are_checked() {
        let all = |value: Value| attributes(process("scheduler", value).scheduler().as_ref().unwrap());
        let fifo = all(json!({"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"]}));
        assert_eq!((fifo.policy, fifo.priority, fifo.flags), (1, 7, 1));
        let deadline = all(json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}));
        assert_eq!((deadline.policy, deadline.runtime, deadline.deadline, deadline.period), (6, 1, 2, 3));
        for (value, field) in [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "nice"),
            (json!({"policy": "SCHED_BATCH", "nice": -21}), "nice"),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), "priority"),
            (json!({"policy": "SCHED_FIFO"}), "priority"),
            (json!({"policy": "SCHED_RR", "priority": 100}), "priority"),
            (json!({"policy": "SCHED_RR", "priority": -1}), "priority"),
            (json!({"policy": "SCHED_IDLE", "period": 1}), "period"),
        ] {
            let error = check(&process("scheduler", value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("process.scheduler.{field}: ")), "{error}");
        }
    }

    #[test]
    fn io_priorities_are_checked() {
        let of = |class: &str, priority: i64| {
            let process = process("ioPriority", json!({"class": class, "priority": priority}));
            io_priority(process.io_priority().as_ref().unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(of("IOPRIO_CLASS_RT", 0).unwrap(), 1 << 13);
        assert_eq!(of("IOPRIO_CLASS_BE", 7).unwrap(), 2 << 13 | 7);
        assert_eq!(of("IOPRIO_CLASS_IDLE", 3).unwrap(), 3 << 13 | 3);
        for priority in [-1, 8, i64::MAX] {
            assert!(of("IOPRIO_CLASS_BE", priority).unwrap_err().starts_with("process.ioPriority.priority: "));
        }
    }

    #[test]
    fn memory_policies_are_checked() {
        let policy = |value: Value| serde_json::from_value::<LinuxMemoryPolicy>(value).unwrap();
        let good = policy(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}));
        check_container(Some(&good)).unwrap();
        assert_eq!(memory_mode(&good), 2 | 1 << 15);
        for (value, field) in [
            (json!({"mode": "MPOL_DEFAULT", "nodes": "0"}), "nodes"),
            (json!({"mode": "MPOL_LOCAL", "nodes": "1"}), "nodes"),
            (json!({"mode": "MPOL_BIND"}), "nodes"),
            (json!({"mode": "MPOL_INTERLEAVE", "nodes": ""}), "nodes"),
            (json!({"mode": "MPOL_BIND", "nodes": "x"}), "nodes"),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
                "flags",
            ),
        ] {
            let error = check_container(Some(&policy(value))).unwrap_err().to_string();
            assert!(error.starts_with(&format!("linux.memoryPolicy.{field}: ")), "{error}");
        }
    }

    #[test]
    fn exec_settings_override_the_containers() {
        let container = Settings {
            scheduler: process("scheduler", json!({"policy": "SCHED_IDLE"})).scheduler().clone(),
            io_priority: *process("ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})).io_priority(),
            ..Settings::default()
        };
        let exec = container.overridden_by(&process("scheduler", json!({"policy": "SCHED_BATCH"})));
        assert_eq!(exec.scheduler.unwrap().policy(), &LinuxSchedulerPolicy::SchedBatch);
        assert_eq!(exec.io_priority, container.io_priority);
    }
}
