//! Enables controllers from the root down to a cgroup, and writes limits and device rules into it.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{DEFAULTS, UNIFIED};
use crate::{
    cgroup::{
        devices::{
            program::{self, Replaced},
            rules::Rule,
        },
        dir::{Dir, gone},
        fields::{self, nonzero},
        host::host,
        location::OpenPlace,
        row::{self, Row},
    },
    error::{Error, Kind, Result},
};

/// Enables the controllers and writes the rows of a new cgroup, and its device rules unless they are None. `needs_domain` is
/// [`super::limits::needs_domain`] of the limits.
///
/// # Errors
/// A limit without a cgroup; otherwise names the file and the value that the kernel refuses.
pub(in crate::cgroup) fn fill(
    open: &[OpenPlace<'_>],
    rows: &[Row],
    needs_domain: bool,
    rules: Option<&[Rule]>,
) -> Result<()> {
    let Some(open) = open.first() else {
        return rows.first().map_or(Ok(()), |row| Err(row.without_cgroup()));
    };
    enable_controllers(&open.dir, needs_domain)?;
    let is_default = |row: &Row| open.fresh && DEFAULTS.contains(&(row.file.as_ref(), row.value.as_str()));
    let rows: Vec<Row> = rows.iter().filter(|row| !is_default(row)).cloned().collect();
    apply(&open.dir, &rows)?;
    let replaced = if open.fresh { Replaced::None } else { Replaced::All };
    rules.map_or(Ok(()), |rules| program::install(&open.dir, rules, replaced))
}

/// Enables every controller of the host for the cgroup `dir`, in `cgroup.subtree_control` of all its ancestors. A controller
/// that cannot be enabled (delegation, rootless) is an error only later, when a limit needs it.
///
/// # Errors
/// `needs_domain` is set, and the cgroup or an ancestor of it cannot have domain controllers.
pub(in crate::cgroup) fn enable_controllers(dir: &Dir, needs_domain: bool) -> Result<()> {
    let mount = host()?.mounts().iter().find(|m| m.is_v2());
    let top = mount.map(|m| m.point.as_path()).filter(|top| dir.path().starts_with(top));
    let top =
        top.ok_or_else(|| Error::new(Kind::Internal, format!("{}: not in a cgroup2 mount", dir.path().display())))?;
    let root = Dir::open(top)?;
    let available = root.read("cgroup.controllers")?;
    // Usually the parent exists and its controllers are enabled.
    let has = dir.read("cgroup.controllers")?;
    if !available.is_empty() && available.split_whitespace().all(|c| has.split_whitespace().any(|h| h == c)) {
        return Ok(());
    }
    let mut path: Vec<_> = dir.path().ancestors().take_while(|p| *p != top).collect();
    enable(&root, &available);
    while let Some(at) = path.pop() {
        let level = Dir::open(at)?;
        check_type(&level, needs_domain)?;
        if !path.is_empty() {
            // The kernel would still enable threaded controllers here, and make the cgroup threaded.
            if needs_domain && holds_processes(&level) {
                return Err(refuse(dir, &format!("{} above it {HOLDS}", level.path().display())));
            }
            enable(&level, &available);
        }
    }
    Ok(())
}

/// The reason why a cgroup cannot enable domain controllers for its children.
const HOLDS: &str = "holds processes itself (cgroups(7), no internal processes)";

/// Whether processes in `dir` itself prevent controllers for its children. The root, which has no type, is exempt.
fn holds_processes(dir: &Dir) -> bool {
    dir.read("cgroup.type").is_ok() && dir.read("cgroup.procs").is_ok_and(|pids| !pids.is_empty())
}

fn refuse(dir: &Dir, why: &str) -> Error {
    let path = dir.path().display();
    Error::unsupported(format!("cannot enter cgroupv2 \"{path}\" with domain controllers -- {why}"))
}

/// Enables all controllers in one write; if that fails, each one that the kernel accepts.
fn enable(dir: &Dir, available: &str) {
    let names: Vec<String> = available.split_whitespace().map(|c| format!("+{c}")).collect();
    if !names.is_empty() && dir.write("cgroup.subtree_control", &names.join(" ")).is_err() {
        for name in &names {
            let _ = dir.write("cgroup.subtree_control", name);
        }
    }
}

/// Refuses a cgroup that cannot have domain controllers: its parent has processes, or it is in a threaded subtree
/// (cgroups(7), thread mode).
fn check_type(dir: &Dir, needs_domain: bool) -> Result<()> {
    let kind = dir.read_if_there("cgroup.type")?.unwrap_or_default();
    match kind.trim() {
        "domain invalid" if needs_domain => Err(refuse(dir, "it is in an invalid state")),
        // Only a threaded cgroup can be used there.
        "domain invalid" => dir.write("cgroup.type", "threaded"),
        kind @ ("threaded" | "domain threaded") if needs_domain => Err(refuse(dir, &format!("it is in {kind} mode"))),
        _ => Ok(()),
    }
}

/// Refuses a memory limit below the usage if the spec says `checkBeforeUpdate`. The v2 kernel would accept the limit and kill
/// processes; the v1 kernel refuses it.
///
/// # Errors
/// Names the limit and the usage.
pub(in crate::cgroup) fn check_before_update(dir: &Dir, resources: &LinuxResources) -> Result<()> {
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

/// Fills up the resources of an update from the present limits: v2 has one file for quota and period, and the value of
/// `memory.swap.max` depends on the limit of memory.
///
/// # Errors
/// The files cannot be read; the limit of memory and swap together is below that of memory.
pub(in crate::cgroup) fn complete(dir: &Dir, resources: &LinuxResources) -> Result<LinuxResources> {
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
        fields::check_swap(m)?;
    }
    Ok(all)
}

/// Takes the missing half from `current`, the content of `cpu.max`: `QUOTA PERIOD`, where the quota may be `max`.
fn complete_cpu(cpu: &mut LinuxCpu, current: &str) {
    let (quota, period) = current.split_once(' ').unwrap_or((current, ""));
    if nonzero(cpu.quota()).is_none() {
        cpu.set_quota(Some(quota.parse().unwrap_or(-1)));
    } else {
        cpu.set_period(period.parse().ok());
    }
}

/// Takes the missing limit from the content of `memory.max` and `memory.swap.max`. `swap` of the spec is memory and swap
/// together: that sum does not change with the limit of memory, as on v1.
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

/// Writes all rows. The rows of `unified` come last, with error words of their own.
///
/// # Errors
/// Names the file and the value, and says why a controller is not available.
pub(in crate::cgroup) fn apply(dir: &Dir, rows: &[Row]) -> Result<()> {
    let (own, named): (Vec<Row>, Vec<Row>) = rows.iter().cloned().partition(|w| w.controller != UNIFIED);
    row::apply(&own, |_| Some(dir)).map_err(|e| {
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

/// The reason why `dir` does not have `controller`; None if it has the controller.
fn lacking(dir: &Dir, controller: &str) -> Option<String> {
    let lists = |at: &Dir, file: &str| at.read(file).is_ok_and(|t| t.split_whitespace().any(|c| c == controller));
    if lists(dir, "cgroup.controllers") {
        return None;
    }
    let ancestors = dir.path().ancestors().skip(1).map(Dir::open).take_while(Result::is_ok).flatten();
    for at in ancestors.take_while(|at| at.read("cgroup.controllers").is_ok()) {
        if !lists(&at, "cgroup.controllers") {
            continue;
        }
        let path = at.path().display();
        let why = if holds_processes(&at) { format!(": it {HOLDS}") } else { String::new() };
        return Some(format!("{path} does not enable {controller} for its children{why}"));
    }
    Some(format!("this host has no controller {controller:?} on cgroup v2"))
}

/// Says that a controller is not available if that is why a file of `unified` cannot be written.
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
    use crate::cgroup::fields::tests::resources;

    #[test]
    fn missing_half_of_cpu_max_comes_from_the_kernel() {
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
    fn sum_of_memory_and_swap_stays_when_memory_changes() {
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
