//! Checks of `linux.resources` that hold for v1 and v2, before anything is made. Errors name the field. Device rules are
//! checked where they are read ([`super::devices::rules`]).
//!
//! [`super::v1::limits::check`] and [`super::v2::limits::check`] refuse what one version cannot have. The translation into
//! rows relies on these checks and cannot fail. The kernel may still refuse a value when it is written.

use oci_spec::runtime::{LinuxBlockIo, LinuxMemory, LinuxResources};

use super::fields::{self, one_word};
use crate::error::{Context, Error, Result};

/// The maximum of memory.swappiness on v1, a percentage.
const SWAPPINESS_MAX: u64 = 100;
/// The range of a weight (config-linux.md, "Block IO").
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Checks the resources that `field` holds.
///
/// # Errors
/// Names the member.
pub(super) fn check(resources: &LinuxResources, field: &str) -> Result<()> {
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
        fields::check_hugepage(page).with_context(|| format!("{field}.hugepageLimits[{n}]"))?;
    }
    let priorities = resources.network().iter().flat_map(|net| net.priorities().iter().flatten());
    for (n, priority) in priorities.enumerate() {
        one_word(priority.name()).with_context(|| format!("{field}.network.priorities[{n}].name"))?;
    }
    let wrong = resources.rdma().iter().flatten().filter_map(|(device, _)| Some((device, one_word(device).err()?)));
    // A map has no order: the error is about the first name of the alphabet, so that it is the same each time.
    match wrong.min_by_key(|(device, _)| *device) {
        Some((_, e)) => Err(e.context(format!("{field}.rdma"))),
        None => Ok(()),
    }
}

fn memory(memory: &LinuxMemory, field: &str) -> Result<()> {
    for (member, value) in [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())] {
        // -1 means no limit.
        if value.is_some_and(|bytes| bytes < -1) {
            return Err(Error::invalid(format!("{field}.{member}: {} is negative", value.unwrap_or_default())));
        }
    }
    fields::check_swap(memory).with_context(|| format!("{field}.swap"))?;
    match memory.swappiness() {
        // u64::MAX is -1, which Go programs write for "leave it as it is".
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
    use crate::cgroup::fields::tests::resources;

    #[test]
    fn error_names_the_member() {
        for (json, says) in [
            (r#"{"memory":{"limit":-2}}"#, "r.memory.limit: -2 is negative"),
            (r#"{"memory":{"limit":9,"swap":8}}"#, "r.memory.swap: memory+swap limit should be >= memory limit"),
            (
                r#"{"network":{"priorities":[{"name":"lo","priority":1},{"name":"a b","priority":5}]}}"#,
                "r.network.priorities[1].name: \"a b\" must be one word",
            ),
            (r#"{"rdma":{"a\nb":{},"a b":{},"c":{}}}"#, "r.rdma: \"a\\nb\" must be one word"),
            (
                r#"{"memory":{"swappiness":101}}"#,
                "r.memory.swappiness: invalid memory swappiness value: 101 (valid range is 0-100)",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"/../../x","limit":1}]}"#,
                "r.hugepageLimits[0]: pageSize: \"/../../x\" must be like 2MB",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#,
                "r.hugepageLimits[0]: limit: -1 of 2MB must not be negative",
            ),
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
    fn values_that_mean_no_limit_are_accepted() {
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
