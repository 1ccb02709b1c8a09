//! What no hierarchy takes, of the limits in config.json or an update: told by field before anything is made. What only
//! one of them takes, or this kernel, shows when it is written.

use oci_spec::runtime::{LinuxBlockIo, LinuxMemory, LinuxResources};

use super::{devices, limits};
use crate::{Context, Error, Result};

/// memory.swappiness of v1, a percentage.
const SWAPPINESS_MAX: u64 = 100;
/// config-linux.md, "Block IO".
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Checks limits that stand at `field`.
///
/// # Errors
/// Names the member.
pub fn check(resources: &LinuxResources, field: &str) -> Result<()> {
    devices::check(resources).with_context(|| format!("{field}.devices"))?;
    if let Some(limits) = resources.memory() {
        memory(limits, &format!("{field}.memory"))?;
    }
    if let Some(idle) = resources.cpu().as_ref().and_then(|cpu| cpu.idle())
        && !(0..=1).contains(&idle)
    {
        return Err(Error::invalid(format!("{field}.cpu.idle: {idle} is neither 0 nor 1")));
    }
    if let Some(limits) = resources.block_io() {
        block_io(limits, &format!("{field}.blockIO"))?;
    }
    for (n, page) in resources.hugepage_limits().iter().flatten().enumerate() {
        limits::hugepage(page).with_context(|| format!("{field}.hugepageLimits[{n}]"))?;
    }
    let priorities = resources.network().iter().flat_map(|net| net.priorities().iter().flatten());
    for (n, priority) in priorities.enumerate() {
        limits::one_word(priority.name()).with_context(|| format!("{field}.network.priorities[{n}].name"))?;
    }
    let wrong =
        resources.rdma().iter().flatten().filter_map(|(device, _)| Some((device, limits::one_word(device).err()?)));
    match wrong.min_by_key(|(device, _)| *device) {
        Some((_, e)) => Err(e.context(format!("{field}.rdma"))),
        None => Ok(()),
    }
}

fn memory(memory: &LinuxMemory, field: &str) -> Result<()> {
    for (member, value) in [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())] {
        // -1 is no limit.
        if value.is_some_and(|bytes| bytes < -1) {
            return Err(Error::invalid(format!("{field}.{member}: {} is negative", value.unwrap_or_default())));
        }
    }
    if let (Some(limit @ 1..), Some(swap @ 1..)) = (memory.limit(), memory.swap())
        && swap < limit
    {
        return Err(Error::invalid(format!("{field}.swap: memory+swap limit should be >= memory limit")));
    }
    match memory.swappiness() {
        // To Go programs -1, and nothing said.
        Some(value) if value > SWAPPINESS_MAX && value != u64::MAX => {
            let text = format!("{field}.swappiness: invalid memory swappiness value: {value} (valid range is 0-100)");
            Err(Error::invalid(text))
        }
        _ => Ok(()),
    }
}

fn block_io(block: &LinuxBlockIo, field: &str) -> Result<()> {
    let weight = |member: &str, value: Option<u16>| match value {
        Some(value) if value != 0 && !WEIGHTS.contains(&value) => {
            Err(Error::invalid(format!("{field}.{member}: {value} is not from 10 to 1000")))
        }
        _ => Ok(()),
    };
    let node = |member: &str, n: usize, major: i64, minor: i64| {
        for (part, value) in [("major", major), ("minor", minor)] {
            if u32::try_from(value).is_err() {
                return Err(Error::invalid(format!("{field}.{member}[{n}].{part}: {value} is out of range")));
            }
        }
        Ok(())
    };
    weight("weight", block.weight())?;
    weight("leafWeight", block.leaf_weight())?;
    for (n, device) in block.weight_device().iter().flatten().enumerate() {
        let member = |name: &str| format!("weightDevice[{n}].{name}");
        node("weightDevice", n, device.major(), device.minor())?;
        weight(&member("weight"), device.weight())?;
        weight(&member("leafWeight"), device.leaf_weight())?;
    }
    for (member, list) in [
        ("throttleReadBpsDevice", block.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", block.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", block.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", block.throttle_write_iops_device()),
    ] {
        for (n, device) in list.iter().flatten().enumerate() {
            node(member, n, device.major(), device.minor())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::tests::resources;

    #[test]
    fn members_are_named() {
        for (json, says) in [
            (r#"{"memory":{"limit":-2}}"#, "r.memory.limit: -2 is negative"),
            (r#"{"memory":{"limit":9,"swap":8}}"#, "r.memory.swap: memory+swap limit should be >= memory limit"),
            (
                r#"{"network":{"priorities":[{"name":"lo","priority":1},{"name":"a b","priority":5}]}}"#,
                "r.network.priorities[1].name: \"a b\" must be one word",
            ),
            (r#"{"rdma":{"a\nb":{},"a b":{},"c":{}}}"#, "r.rdma: \"a\\nb\" must be one word"),
            (r#"{"cpu":{"idle":2}}"#, "r.cpu.idle: 2 is neither 0 nor 1"),
            (r#"{"blockIO":{"weight":9}}"#, "r.blockIO.weight: 9 is not from 10 to 1000"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":1001}]}}"#,
                "r.blockIO.weightDevice[0].leafWeight: 1001 is not from 10 to 1000",
            ),
            (
                r#"{"blockIO":{"throttleWriteIOPSDevice":[{"major":8,"minor":-1,"rate":1}]}}"#,
                "r.blockIO.throttleWriteIOPSDevice[0].minor: -1 is out of range",
            ),
        ] {
            assert_eq!(check(&resources(json), "r").unwrap_err().to_string(), says, "{json}");
        }
    }

    #[test]
    fn what_means_no_limit_is_none() {
        for json in [
            "{}",
            r#"{"memory":{"limit":-1,"swap":-1,"reservation":0,"swappiness":100}}"#,
            r#"{"memory":{"limit":-1,"swap":5,"swappiness":18446744073709551615}}"#,
            r#"{"blockIO":{"weight":0}}"#,
        ] {
            check(&resources(json), "r").unwrap();
        }
    }
}
