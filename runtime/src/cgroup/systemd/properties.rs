//! The properties of a container's unit. Pure: rows in, rows out, tested without root and without systemd.
//!
//! The limits are read off the very rows that are written to the cgroup's files, so that what systemd has on record and
//! what the kernel has cannot differ, and a later `daemon-reload` changes nothing. Limits without a property (burst,
//! throttles, huge pages, rdma) are in the files alone; systemd leaves those of a delegated unit as they are.

use std::collections::HashMap;

use super::{manager::Property, text, unit::Unit, value::Value};
use crate::{
    cgroup::{
        Hierarchy,
        v2::UNIFIED,
        write::{Absent, Write},
    },
    error::{Error, Result},
};

/// Older ones cannot name a device by its number (`char-136`); every distribution with a kernel of 5.14 has 249 or later.
pub(super) const OLDEST: u32 = 240;

/// CPUQuotaPeriodUSec.
const PERIOD: u32 = 242;
/// AllowedCPUs and AllowedMemoryNodes.
const CPUSET: u32 = 244;
/// A CPUWeight of 0 for idle.
const IDLE: u32 = 252;

/// More CPUs and memory nodes than any kernel is built for.
const MOST_CPUS: usize = 1 << 16;

/// Where annotations name properties.
const ANNOTATION: &str = "org.systemd.property.";

/// What the unit is, whatever its limits: runc's properties under runc's names, so that tools find what they know, and
/// that a unit whose end was a failure is not remembered.
pub(super) fn identity(unit: &Unit, id: &str, init: i32, hierarchy: Hierarchy) -> Vec<Property> {
    let yes = |name: &str| (name.to_owned(), Value::Bool(true));
    let io = match hierarchy {
        Hierarchy::V1 => "BlockIOAccounting",
        Hierarchy::V2 => "IOAccounting",
    };
    vec![
        ("Description".to_owned(), Value::text(format!("libcontainer container {id}"))),
        ("Slice".to_owned(), Value::text(unit.slice.as_str())),
        yes("Delegate"),
        ("PIDs".to_owned(), Value::Array("u".to_owned(), vec![Value::U32(init.unsigned_abs())])),
        yes("MemoryAccounting"),
        yes("CPUAccounting"),
        yes(io),
        yes("TasksAccounting"),
        ("DefaultDependencies".to_owned(), Value::Bool(false)),
        // Since 236.
        ("CollectMode".to_owned(), Value::text("inactive-or-failed")),
    ]
}

/// The properties that annotations ask for, in the order of their names.
pub(super) fn annotated(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>> {
    let mut asked: Vec<_> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text)))
        .collect();
    asked.sort_unstable();
    asked.into_iter().map(|(name, text)| annotation(name, text)).collect()
}

fn annotation(name: &str, text: &str) -> Result<Property> {
    let refuse = |why: String| Error::invalid(format!("annotation {ANNOTATION}{name}={text}: {why}"));
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(refuse("a property's name has letters only, three at least".to_owned()));
    }
    if matches!(name, "PIDs" | "Slice") {
        return Err(refuse("where the container is, linux.cgroupsPath says".to_owned()));
    }
    let value = text::parse(text).map_err(refuse)?;
    // Documented as TimeoutStopSec, on the bus TimeoutStopUSec in microseconds.
    match name.strip_suffix("Sec").filter(|rest| rest.ends_with(|c: char| c.is_ascii_lowercase())) {
        Some(rest) => {
            let micros = micros(&value).ok_or_else(|| refuse("must be a number of seconds".to_owned()))?;
            Ok((format!("{rest}USec"), Value::U64(micros)))
        }
        None => Ok((name.to_owned(), value)),
    }
}

fn micros(seconds: &Value) -> Option<u64> {
    let whole = match *seconds {
        Value::Byte(v) => u64::from(v),
        Value::U16(v) => u64::from(v),
        Value::U32(v) => u64::from(v),
        Value::U64(v) => v,
        Value::I16(v) => v.try_into().ok()?,
        Value::I32(v) => v.try_into().ok()?,
        Value::I64(v) => v.try_into().ok()?,
        // Which also refuses what is negative, infinite or no number.
        Value::F64(v) => return std::time::Duration::try_from_secs_f64(v).ok()?.as_micros().try_into().ok(),
        _ => return None,
    };
    whole.checked_mul(1_000_000)
}

/// The properties for the limits that `writes` are. systemd counts CPU time in hundredths of a CPU: a quota between
/// two of them is raised to the next, as runc does, here and in `writes`.
pub(super) fn limits(hierarchy: Hierarchy, writes: &mut [Write], version: u32) -> Result<Vec<Property>> {
    let mut out = Properties(Vec::new());
    match hierarchy {
        Hierarchy::V1 => v1(writes, version, &mut out)?,
        Hierarchy::V2 => v2(writes, version, &mut out)?,
    }
    Ok(out.0)
}

/// Each once; a later value counts.
struct Properties(Vec<Property>);

impl Properties {
    fn set(&mut self, name: &str, value: Value) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), value));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.set(name, Value::U64(value));
    }
}

fn v2(writes: &mut [Write], version: u32, out: &mut Properties) -> Result<()> {
    let mut idle = false;
    for write in writes {
        let value = write.value.trim();
        match write.file.as_ref() {
            "memory.max" => out.number("MemoryMax", bytes(write)?),
            "memory.high" => out.number("MemoryHigh", bytes(write)?),
            "memory.low" => out.number("MemoryLow", bytes(write)?),
            "memory.min" => out.number("MemoryMin", bytes(write)?),
            "memory.swap.max" => out.number("MemorySwapMax", bytes(write)?),
            "pids.max" => out.number("TasksMax", tasks(write)?),
            "cpu.idle" => idle = value == "1" && version >= IDLE,
            "cpu.weight" => out.number("CPUWeight", number(write, value)?),
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = match words.next() {
                    None | Some("max") => None,
                    Some(quota) => Some(number(write, quota)?),
                };
                let period = words.next().map_or(Ok(100_000), |p| number(write, p))?;
                let quota = cpu_quota(write, quota, period, version, out)?;
                // What the spec's author wrote into a file by its name stays as it is.
                if write.controller != UNIFIED {
                    write.value = format!("{} {period}", quota.map_or("max".to_owned(), |q| q.to_string()));
                }
            }
            "cpuset.cpus" => cpuset("AllowedCPUs", write, version, out)?,
            "cpuset.mems" => cpuset("AllowedMemoryNodes", write, version, out)?,
            "io.bfq.weight" => {
                if let Absent::Instead(_, weight) = &write.absent
                    && let Ok(weight) = weight.parse()
                {
                    out.number("IOWeight", weight);
                }
            }
            "io.weight" => {
                // A line for one device has no property.
                if let Ok(weight) = value.strip_prefix("default").unwrap_or(value).trim().parse() {
                    out.number("IOWeight", weight);
                }
            }
            _ => {}
        }
    }
    if idle {
        out.number("CPUWeight", 0);
    }
    Ok(())
}

fn v1(writes: &mut [Write], version: u32, out: &mut Properties) -> Result<()> {
    let find = |writes: &[Write], file: &str| writes.iter().position(|w| w.file == file);
    let value = |writes: &[Write], file: &str| find(writes, file).and_then(|at| writes.get(at)).cloned();
    if let Some(quota) = value(writes, "cpu.cfs_quota_us") {
        let period = match value(writes, "cpu.cfs_period_us") {
            Some(period) => number(&period, &period.value)?,
            None => 100_000,
        };
        let limit = if quota.value == "-1" { None } else { Some(number(&quota, &quota.value)?) };
        let limit = cpu_quota(&quota, limit, period, version, out)?;
        if let (Some(limit), Some(at)) = (limit, find(writes, "cpu.cfs_quota_us"))
            && let Some(write) = writes.get_mut(at)
        {
            write.value = limit.to_string();
        }
    }
    for write in writes.iter() {
        match write.file.as_ref() {
            "memory.limit_in_bytes" => out.number("MemoryLimit", bytes(write)?),
            "cpu.shares" => out.number("CPUShares", number(write, &write.value)?),
            "blkio.weight" => out.number("BlockIOWeight", number(write, &write.value)?),
            "pids.max" => out.number("TasksMax", tasks(write)?),
            "cpuset.cpus" => cpuset("AllowedCPUs", write, version, out)?,
            "cpuset.mems" => cpuset("AllowedMemoryNodes", write, version, out)?,
            _ => {}
        }
    }
    Ok(())
}

/// The quota that systemd will write, in microseconds.
fn cpu_quota(
    write: &Write,
    quota: Option<u64>,
    period: u64,
    version: u32,
    out: &mut Properties,
) -> Result<Option<u64>> {
    const SECOND: u64 = 1_000_000;
    /// A hundredth of a CPU.
    const STEP: u64 = 10_000;
    let bad = || refuse(write, "is out of range");
    if period == 0 {
        return Err(bad());
    }
    if version >= PERIOD {
        out.number("CPUQuotaPeriodUSec", period);
    }
    let Some(quota) = quota else {
        out.number("CPUQuotaPerSecUSec", u64::MAX);
        return Ok(None);
    };
    let per_second = quota.checked_mul(SECOND).ok_or_else(bad)? / period;
    if per_second.is_multiple_of(STEP) {
        out.number("CPUQuotaPerSecUSec", per_second);
        return Ok(Some(quota));
    }
    let raised = per_second.next_multiple_of(STEP);
    out.number("CPUQuotaPerSecUSec", raised);
    raised.checked_mul(period).map(|q| Some(q / SECOND)).ok_or_else(bad)
}

/// systemd has no 0 tasks; the payload is there, it cannot fork.
fn tasks(write: &Write) -> Result<u64> {
    bytes(write).map(|n| n.max(1))
}

/// A number, with the kernel's suffixes (memparse), or no limit.
fn bytes(write: &Write) -> Result<u64> {
    let text = write.value.trim();
    if matches!(text, "max" | "-1") {
        return Ok(u64::MAX);
    }
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        Some((at, 't' | 'T')) => (text.get(..at), 40),
        _ => (Some(text), 0),
    };
    let value = number(write, digits.unwrap_or_default())?;
    value.checked_mul(1 << shift).ok_or_else(|| refuse(write, "is out of range"))
}

fn number(write: &Write, text: &str) -> Result<u64> {
    text.parse().map_err(|_| refuse(write, "is no number"))
}

/// A list of CPUs as a set of bits, the lowest first. An empty one means what the parent has, and needs no property.
fn cpuset(property: &str, write: &Write, version: u32, out: &mut Properties) -> Result<()> {
    let bits = bits(&write.value).ok_or_else(|| refuse(write, "is no list like 0-3,7"))?;
    if version >= CPUSET && !bits.is_empty() {
        out.set(property, Value::Array("y".to_owned(), bits.into_iter().map(Value::Byte).collect()));
    }
    Ok(())
}

/// The properties of files that name nothing, which [`limits`] leaves as they are.
pub(super) fn unset(rows: &[Write], version: u32) -> Vec<Property> {
    let files = [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")];
    let named = |row: &Write| files.iter().find(|(file, _)| *file == row.file).map(|(_, name)| *name);
    let empty = rows.iter().filter(|row| row.value.trim().is_empty() && version >= CPUSET).filter_map(named);
    empty.map(|name| (name.to_owned(), Value::Array("y".to_owned(), Vec::new()))).collect()
}

fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.trim().is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST_CPUS {
            return None;
        }
        if bits.len() <= last / 8 {
            bits.resize(last / 8 + 1, 0_u8);
        }
        for at in first..=last {
            *bits.get_mut(at / 8)? |= 1 << (at % 8);
        }
    }
    Some(bits)
}

fn refuse(write: &Write, why: &str) -> Error {
    Error::invalid(format!("{}: {:?} {why}", write.file, write.value))
}

#[cfg(test)]
mod tests;
