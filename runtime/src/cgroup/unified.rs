//! The acting half of v2: controllers enabled from the root down to the cgroup, limits written.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::{
    dir::{Dir, gone},
    host::host,
    limits::nonzero,
    v2::UNIFIED,
    write::{self, Write},
};
use crate::error::{Error, Kind, Result};

/// Gives the cgroup `dir` every controller that the machine has, in `cgroup.subtree_control` of all above it. Where one
/// cannot be enabled (delegation, rootless) the limits that need it will say so.
pub(super) fn enable_controllers(dir: &Dir, resources: &LinuxResources) -> Result<()> {
    let mount = host()?.mounts().iter().find(|m| m.is_v2());
    let top = mount.map(|m| m.point.as_path()).filter(|top| dir.path().starts_with(top));
    let top =
        top.ok_or_else(|| Error::new(Kind::Internal, format!("{}: not in a cgroup2 mount", dir.path().display())))?;
    let root = Dir::open(top)?;
    let available = root.read("cgroup.controllers")?;
    // As a rule the parent exists and has been through this.
    let has = dir.read("cgroup.controllers")?;
    if !available.is_empty() && available.split_whitespace().all(|c| has.split_whitespace().any(|h| h == c)) {
        return Ok(());
    }
    let mut path: Vec<_> = dir.path().ancestors().take_while(|p| *p != top).collect();
    enable(&root, &available);
    while let Some(at) = path.pop() {
        let level = Dir::open(at)?;
        check_type(&level, resources)?;
        if !path.is_empty() {
            // Enabling those controllers that it takes all the same would make it threaded.
            if needs_domain(resources) && holds_processes(&level) {
                return Err(refuse(dir, &format!("{} above it {HOLDS}", level.path().display())));
            }
            enable(&level, &available);
        }
    }
    Ok(())
}

/// Why a cgroup gives no controller on.
const HOLDS: &str = "holds processes itself (cgroups(7), no internal processes)";

/// The root of all, which has no type, may hold processes beside those below it.
fn holds_processes(dir: &Dir) -> bool {
    dir.read("cgroup.type").is_ok() && dir.read("cgroup.procs").is_ok_and(|pids| !pids.is_empty())
}

/// Whether one of the limits is by a controller that works on whole processes.
fn needs_domain(resources: &LinuxResources) -> bool {
    resources.memory().is_some()
        || resources.block_io().is_some()
        || resources.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty())
}

fn refuse(dir: &Dir, why: &str) -> Error {
    let path = dir.path().display();
    Error::unsupported(format!("cannot enter cgroupv2 \"{path}\" with domain controllers -- {why}"))
}

/// All at once, or else each that will.
fn enable(dir: &Dir, available: &str) {
    let names: Vec<String> = available.split_whitespace().map(|c| format!("+{c}")).collect();
    if !names.is_empty() && dir.write("cgroup.subtree_control", &names.join(" ")).is_err() {
        for name in &names {
            let _ = dir.write("cgroup.subtree_control", name);
        }
    }
}

/// A cgroup below one with processes, or in a threaded subtree, takes no domain controller (cgroups(7), thread mode).
fn check_type(dir: &Dir, resources: &LinuxResources) -> Result<()> {
    let kind = dir.read_if_there("cgroup.type")?.unwrap_or_default();
    let needs_domain = needs_domain(resources);
    match kind.trim() {
        "domain invalid" if needs_domain => Err(refuse(dir, "it is in an invalid state")),
        // Threaded is the one way to use such a cgroup at all.
        "domain invalid" => dir.write("cgroup.type", "threaded"),
        kind @ ("threaded" | "domain threaded") if needs_domain => Err(refuse(dir, &format!("it is in {kind} mode"))),
        _ => Ok(()),
    }
}

/// `checkBeforeUpdate`: the v2 kernel takes a limit below what is in use, and then kills; v1's refuses by itself.
pub(super) fn check_before_update(dir: &Dir, resources: &LinuxResources) -> Result<()> {
    let Some(m) = resources.memory().filter(|m| m.check_before_update() == Some(true)) else { return Ok(()) };
    let Some(usage) = dir.read_if_there("memory.current")?.and_then(|t| t.trim().parse::<i64>().ok()) else {
        return Ok(());
    };
    for (what, limit) in [("memory+swap", m.swap()), ("memory", m.limit())] {
        if let Some(limit) = limit.filter(|l| *l > 0 && *l <= usage) {
            let text = format!("rejecting {what} limit {limit} <= usage {usage}");
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
    }
    Ok(())
}

/// An update names what it changes; where v2 has one file for two of the spec's numbers, or counts another way, the rest
/// comes from what the kernel has now.
pub(super) fn complete(dir: &Dir, resources: &LinuxResources) -> Result<LinuxResources> {
    let mut all = resources.clone();
    let now = |file: &str| Ok::<_, Error>(dir.read_if_there(file)?.map(|text| text.trim().to_owned()));
    if let Some(cpu) = all.cpu_mut()
        && nonzero(cpu.quota()).is_some() != nonzero(cpu.period()).is_some()
        && let Some(current) = now("cpu.max")?
    {
        complete_cpu(cpu, &current);
    }
    if let Some(m) = all.memory_mut()
        && nonzero(m.limit()).is_some() != nonzero(m.swap()).is_some()
        && let (Some(limit), Some(swap)) = (now("memory.max")?, now("memory.swap.max")?)
    {
        complete_memory(m, &limit, &swap);
    }
    Ok(all)
}

/// `current` is `QUOTA PERIOD`, the quota possibly `max`.
fn complete_cpu(cpu: &mut LinuxCpu, current: &str) {
    let (quota, period) = current.split_once(' ').unwrap_or((current, ""));
    if nonzero(cpu.quota()).is_none() {
        cpu.set_quota(Some(quota.parse().unwrap_or(-1)));
    } else {
        cpu.set_period(period.parse().ok());
    }
}

/// The spec's swap is memory and swap together, and stays so when only the memory changes, as it does on v1.
fn complete_memory(m: &mut LinuxMemory, limit: &str, swap: &str) {
    match (nonzero(m.limit()), limit.parse::<i64>(), swap.parse::<i64>()) {
        (Some(new), Ok(limit), Ok(swap)) if new > 0 => {
            m.set_swap(Some(limit.saturating_add(swap)));
        }
        (None, limit, _) => {
            m.set_limit(Some(limit.unwrap_or(-1)));
        }
        _ => {}
    }
}

/// Writes all rows; those of `unified` are explained in its own words.
pub(super) fn apply(dir: &Dir, writes: &[Write]) -> Result<()> {
    let (own, named): (Vec<Write>, Vec<Write>) = writes.iter().cloned().partition(|w| w.controller != UNIFIED);
    write::apply(&own, |_| Some(dir)).map_err(|e| {
        let lacking = if gone(&e) { own.iter().find_map(|w| lacking(dir, w.controller)) } else { None };
        match lacking {
            Some(why) => Error::unsupported(format!("{e}: {why}")),
            None => e,
        }
    })?;
    for w in &named {
        dir.write(&w.file, &w.value).map_err(|e| explain(dir, &w.file, e))?;
    }
    Ok(())
}

/// Why `dir` does not have `controller`; None when it has.
fn lacking(dir: &Dir, controller: &str) -> Option<String> {
    let lists = |at: &Dir, file: &str| at.read(file).is_ok_and(|t| t.split_whitespace().any(|c| c == controller));
    if lists(dir, "cgroup.controllers") {
        return None;
    }
    let above = dir.path().ancestors().skip(1).map(Dir::open).take_while(Result::is_ok).flatten();
    for at in above.take_while(|at| at.read("cgroup.controllers").is_ok()) {
        if !lists(&at, "cgroup.controllers") {
            continue;
        }
        let path = at.path().display();
        let why = if holds_processes(&at) { format!(": it {HOLDS}") } else { String::new() };
        return Some(format!("{path} does not give {controller} on{why}"));
    }
    Some(format!("this host has no controller {controller:?} on cgroup v2"))
}

fn explain(dir: &Dir, key: &str, e: Error) -> Error {
    let controller = key.split('.').next().unwrap_or_default();
    let denied = matches!(e.errno(), Some(libc::EPERM | libc::EACCES)) || gone(&e);
    let has = dir.read("cgroup.controllers").unwrap_or_default();
    if denied && controller != "cgroup" && !has.split_whitespace().any(|c| c == controller) {
        let why = lacking(dir, controller).unwrap_or_default();
        let text = format!("unified resource {key:?} can't be set: controller {controller:?} not available: {why}");
        return Error::unsupported(text);
    }
    e.context(format!("unable to set unified resource {key:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::tests::resources;

    #[test]
    fn half_of_cpu_max_comes_from_the_kernel() {
        let rows = [
            (r#"{"quota":5}"#, "max 50000", (Some(5), Some(50_000))),
            (r#"{"period":7}"#, "20000 50000", (Some(20_000), Some(7))),
            (r#"{"period":7}"#, "max 50000", (Some(-1), Some(7))),
            (r#"{"quota":-1,"period":0}"#, "20000 50000", (Some(-1), Some(50_000))),
        ];
        for (json, current, want) in rows {
            let mut cpu = resources(&format!(r#"{{"cpu":{json}}}"#)).cpu().clone().unwrap();
            complete_cpu(&mut cpu, current);
            assert_eq!((cpu.quota(), cpu.period()), want, "{json} on {current}");
        }
    }

    #[test]
    fn memory_and_swap_together_stay_what_they_were() {
        let rows = [
            (r#"{"limit":150}"#, "100", "100", (Some(150), Some(200))),
            (r#"{"limit":150}"#, "100", "max", (Some(150), None)),
            (r#"{"limit":150}"#, "max", "100", (Some(150), None)),
            (r#"{"limit":-1}"#, "100", "100", (Some(-1), None)),
            (r#"{"swap":300}"#, "100", "100", (Some(100), Some(300))),
            (r#"{"swap":300}"#, "max", "max", (Some(-1), Some(300))),
            (r#"{"swap":-1}"#, "100", "0", (Some(100), Some(-1))),
        ];
        for (json, limit, swap, want) in rows {
            let mut m = resources(&format!(r#"{{"memory":{json}}}"#)).memory().unwrap();
            complete_memory(&mut m, limit, swap);
            assert_eq!((m.limit(), m.swap()), want, "{json} on {limit} {swap}");
        }
    }
}
