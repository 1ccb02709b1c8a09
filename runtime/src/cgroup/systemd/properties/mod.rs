//! The properties of a container's unit. Pure, tested without root and without systemd.
//!
//! The properties are derived from the rows that are written to the cgroup's files. So systemd and the kernel have the same
//! limits, and a later `daemon-reload` changes nothing. Some limits have no property (burst, throttles, huge pages, rdma);
//! they are only in the files, which systemd does not touch for a delegated unit.

use std::collections::HashMap;

use super::{gvariant, manager::Property, value::Value};
use crate::{
    cgroup::{
        location::Hierarchy,
        row::{Absent, Row},
        unit::Unit,
        v2::limits::UNIFIED,
    },
    error::{Error, Result},
};

/// The minimal version of systemd. Older ones cannot name devices by their major (`char-136`). Every distribution with a
/// kernel of 5.14 or newer has systemd 249 or newer.
pub(super) const OLDEST: u32 = 240;

/// The first version with CPUQuotaPeriodUSec.
const PERIOD: u32 = 242;
/// The first version with AllowedCPUs and AllowedMemoryNodes.
const CPUSET: u32 = 244;
/// The first version with a CPUWeight of 0 for idle.
const IDLE: u32 = 252;

/// More CPUs and memory nodes than any kernel supports.
const MOST_CPUS: usize = 1 << 16;

/// The prefix of annotations that set properties.
const ANNOTATION: &str = "org.systemd.property.";

/// The properties of the unit besides its limits. They are runc's, so that tools find the same unit; CollectMode is added,
/// so that systemd forgets a unit that failed.
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
        // Since systemd 236.
        ("CollectMode".to_owned(), Value::text("inactive-or-failed")),
    ]
}

/// The properties from annotations, in the order of their names.
///
/// # Errors
/// Quotes the annotation.
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
    let value = gvariant::parse(text).map_err(refuse)?;
    // TimeoutStopSec in the documentation is TimeoutStopUSec on the bus, in microseconds.
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
        // try_from_secs_f64 refuses a negative or infinite number and NaN.
        Value::F64(v) => return std::time::Duration::try_from_secs_f64(v).ok()?.as_micros().try_into().ok(),
        _ => return None,
    };
    whole.checked_mul(1_000_000)
}

/// The properties for `rows`. systemd counts CPU time in hundredths of a CPU, so a quota in between is raised to the next
/// one, also in `rows`. runc does the same.
///
/// # Errors
/// Quotes the value of a row that is malformed.
pub(super) fn limits(hierarchy: Hierarchy, rows: &mut [Row], version: u32) -> Result<Vec<Property>> {
    let mut out = Properties(Vec::new());
    match hierarchy {
        Hierarchy::V1 => v1(rows, version, &mut out)?,
        Hierarchy::V2 => v2(rows, version, &mut out)?,
    }
    Ok(out.0)
}

/// A list in which each property occurs once; a later value replaces an earlier one.
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

fn v2(rows: &mut [Row], version: u32, out: &mut Properties) -> Result<()> {
    let mut idle = false;
    for write in rows {
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
                // A row of `unified` stays as config.json has it.
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
                // There is no property for the weight of one device.
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

fn v1(rows: &mut [Row], version: u32, out: &mut Properties) -> Result<()> {
    let find = |rows: &[Row], file: &str| rows.iter().position(|w| w.file == file);
    let value = |rows: &[Row], file: &str| find(rows, file).and_then(|at| rows.get(at)).cloned();
    if let Some(quota) = value(rows, "cpu.cfs_quota_us") {
        let period = match value(rows, "cpu.cfs_period_us") {
            Some(period) => number(&period, &period.value)?,
            None => 100_000,
        };
        let limit = if quota.value == "-1" { None } else { Some(number(&quota, &quota.value)?) };
        let limit = cpu_quota(&quota, limit, period, version, out)?;
        if let (Some(limit), Some(at)) = (limit, find(rows, "cpu.cfs_quota_us"))
            && let Some(write) = rows.get_mut(at)
        {
            write.value = limit.to_string();
        }
    }
    for write in rows.iter() {
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

/// Adds the properties of a quota and returns the quota that systemd will write, in µs.
fn cpu_quota(write: &Row, quota: Option<u64>, period: u64, version: u32, out: &mut Properties) -> Result<Option<u64>> {
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

/// A number of tasks. systemd refuses 0; with 1 the payload cannot fork.
fn tasks(write: &Row) -> Result<u64> {
    bytes(write).map(|n| n.max(1))
}

/// A number of bytes with the suffixes of the kernel (memparse); `u64::MAX` for no limit.
fn bytes(write: &Row) -> Result<u64> {
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

fn number(write: &Row, text: &str) -> Result<u64> {
    text.parse().map_err(|_| refuse(write, "is no number"))
}

/// Adds a list of CPUs or memory nodes as a bit set, the lowest byte first. An empty list means that of the parent and needs
/// no property.
fn cpuset(property: &str, write: &Row, version: u32, out: &mut Properties) -> Result<()> {
    let bits = bits(&write.value).ok_or_else(|| refuse(write, "is no list like 0-3,7"))?;
    if version >= CPUSET && !bits.is_empty() {
        out.set(property, Value::Array("y".to_owned(), bits.into_iter().map(Value::Byte).collect()));
    }
    Ok(())
}

/// The properties that remove an old list, for rows whose list is empty. [`limits`] adds no property for these.
pub(super) fn unset(rows: &[Row], version: u32) -> Vec<Property> {
    let files = [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")];
    let named = |row: &Row| files.iter().find(|(file, _)| *file == row.file).map(|(_, name)| *name);
    let empty = rows.iter().filter(|row| row.value.trim().is_empty() && version >= CPUSET).filter_map(named);
    empty.map(|name| (name.to_owned(), Value::Array("y".to_owned(), Vec::new()))).collect()
}

/// The bit set of a list like `0-3,7`.
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

fn refuse(write: &Row, why: &str) -> Error {
    Error::invalid(format!("{}: {:?} {why}", write.file, write.value))
}

#[cfg(test)]
mod tests;
