//! `linux.resources` as cgroup v2 files. Pure: rows in, rows out, tested without root.
//!
//! Devices are not files in v2: see [`super::filter`]. What v2 has no word for (swappiness, the OOM killer's switch,
//! realtime, network classes) is left out, as config-linux.md allows and runc does.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{
    dir::checked_name,
    limits::{self, blkio_devices, nonzero},
    write::{Absent, Write},
};
use crate::error::{Error, Result};

/// What a new cgroup has anyway (kernel documentation, admin-guide/cgroup-v2); not written to one that we just made.
pub(super) const DEFAULTS: [(&str, &str); 7] = [
    ("pids.max", "max"),
    ("memory.max", "max"),
    ("memory.swap.max", "max"),
    ("cpu.weight", "100"),
    ("cpu.max", "max 100000"),
    ("cpu.max.burst", "0"),
    ("cpu.idle", "0"),
];

/// The writes that make `resources` true, in the order the kernel accepts; `unified` last, so that it has the last word.
pub(super) fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    if let Some(pids) = resources.pids() {
        out.push(Write::new("pids", "pids.max", limits::pids_max(pids.limit())));
    }
    if let Some(m) = resources.memory() {
        memory(m, &mut out)?;
    }
    if let Some(block) = resources.block_io() {
        io(block, &mut out);
    }
    if let Some(c) = resources.cpu() {
        cpu(c, &mut out);
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = limits::hugepage(page)?;
        out.push(Write::new("hugetlb", format!("hugetlb.{size}.max"), limit));
        // Reservations are charged apart since 5.7.
        out.push(Write::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit).absent(Absent::Skip));
    }
    for line in limits::rdma(resources)? {
        out.push(Write::new("rdma", "rdma.max", line));
    }
    unified(resources, &mut out)?;
    Ok(out)
}

fn memory(m: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    let (limit, swap) = (m.limit().unwrap_or(0), m.swap().unwrap_or(0));
    if let Some(swap) = swap_max(limit, swap)? {
        // Without swap the file is missing, and both of these are then true anyway.
        let absent = if swap == "max" || swap == "0" { Absent::Skip } else { Absent::Fail };
        out.push(Write::new("memory", "memory.swap.max", swap).absent(absent));
    }
    out.extend(bytes_or_max(limit).map(|v| Write::new("memory", "memory.max", v)));
    out.extend(bytes_or_max(m.reservation().unwrap_or(0)).map(|v| Write::new("memory", "memory.low", v)));
    Ok(())
}

/// `memory.swap.max` counts swap alone; the spec's number is memory and swap together. None: leave it.
fn swap_max(limit: i64, swap: i64) -> Result<Option<String>> {
    Ok(match (limit, swap) {
        // Unlimited memory means unlimited swap unless that is limited by itself.
        (-1, 0) | (_, -1) => Some("max".to_owned()),
        (_, 0) => None,
        (-1, s) => Some(s.to_string()),
        (0, _) => return Err(Error::invalid("unable to set swap limit without memory limit")),
        (l, _) if l < 0 => return Err(Error::invalid(format!("invalid memory value: {l}"))),
        (l, s) if s < l => return Err(Error::invalid("memory+swap limit should be >= memory limit")),
        (l, s) => Some((s - l).to_string()),
    })
}

fn bytes_or_max(value: i64) -> Option<String> {
    match value {
        0 => None,
        -1 => Some("max".to_owned()),
        v => Some(v.to_string()),
    }
}

fn io(block: &LinuxBlockIo, out: &mut Vec<Write>) {
    // BFQ takes the spec's range as it is; io.weight (iocost) has one of its own. Which of them is there is the
    // machine's choice of scheduler.
    let weight = |device: &str, w: u16| {
        let plain = format!("{device}{}", io_weight(w));
        Write::new("io", "io.bfq.weight", format!("{device}{w}")).absent(Absent::Instead("io.weight", plain))
    };
    out.extend(nonzero(block.weight()).map(|w| weight("", w)));
    for d in block.weight_device().iter().flatten() {
        out.extend(nonzero(d.weight()).map(|w| weight(&format!("{}:{} ", d.major(), d.minor()), w)));
    }
    for (kind, d) in blkio_devices(block) {
        out.push(Write::new("io", "io.max", format!("{}:{} {}={}", d.major(), d.minor(), kind.v2_name(), d.rate())));
    }
}

/// blkio's 10..=1000 onto io.weight's 1..=10000, linear, as every runtime does.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

fn cpu(c: &LinuxCpu, out: &mut Vec<Write>) {
    let given = |list: &Option<String>| list.clone().filter(|l| !l.is_empty());
    // Idle first: a weight is refused while the cgroup is idle.
    out.extend(c.idle().map(|i| Write::new("cpu", "cpu.idle", i)));
    out.extend(nonzero(c.shares()).map(|s| Write::new("cpu", "cpu.weight", cpu_weight(s))));
    let (quota, period) = (nonzero(c.quota()), nonzero(c.period()));
    if let Some(burst) = c.burst() {
        // The burst must fit the quota, so before and after can each be the wrong order.
        out.push(Write::new("cpu", "cpu.max.burst", burst).paired(quota.is_some()));
    }
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        out.push(Write::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    out.extend(given(c.cpus()).map(|v| Write::new("cpuset", "cpuset.cpus", v)));
    out.extend(given(c.mems()).map(|v| Write::new("cpuset", "cpuset.mems", v)));
}

/// v1 shares (2..=262144, default 1024) as a v2 weight (1..=10000, default 100): the curve through these three points
/// that runc, crun and kubelet agreed on in 2025; a straight line put the default at 39.
fn cpu_weight(shares: u64) -> u64 {
    let shares = u32::try_from(shares.clamp(2, 262_144)).unwrap_or(262_144);
    let l = f64::from(shares).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number clamped to 1..=10000")]
    let weight = weight.clamp(1.0, 10_000.0) as u64;
    weight
}

/// `unified`: file names and contents by the spec's author, line by line since a write is one setting.
fn unified(resources: &LinuxResources, out: &mut Vec<Write>) -> Result<()> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (key, value) in entries {
        checked_name("unified resource", key)?;
        if !key.contains('.') {
            return Err(Error::invalid(format!("unified resource {key:?} must be in the form CONTROLLER.PARAMETER")));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("unified resource {key:?}: value must not contain a null byte")));
        }
        let lines: Vec<&str> = value.lines().collect();
        for line in if lines.is_empty() { &[""][..] } else { &lines } {
            out.push(Write::new(UNIFIED, key.clone(), line));
        }
    }
    Ok(())
}

/// Stands for the controller in the rows of `unified`, whose controller is part of the file's name.
pub(super) const UNIFIED: &str = "unified";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::tests::resources;

    fn check(json: &str, want: &[(&str, &str)]) {
        let rows: Vec<_> =
            writes(&resources(json)).unwrap().into_iter().map(|w| (w.file.into_owned(), w.value)).collect();
        let want: Vec<_> = want.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        assert_eq!(rows, want, "{json}");
    }

    fn refused(json: &str) -> String {
        let e = writes(&resources(json)).unwrap_err();
        assert_eq!(e.kind(), crate::Kind::InvalidArgument);
        e.to_string()
    }

    #[test]
    fn shares_to_weight() {
        // The three points that everyone agrees on, two between, and the ends.
        let rows =
            [(1, 1), (2, 1), (3, 2), (1024, 100), (2048, 174), (102_400, 4429), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in rows {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn cpu_rows() {
        check(
            r#"{"cpu":{"shares":1024,"quota":20000,"period":50000,"burst":1000,"idle":0,"cpus":"0-1","mems":"0"}}"#,
            &[
                ("cpu.idle", "0"),
                ("cpu.weight", "100"),
                ("cpu.max.burst", "1000"),
                ("cpu.max", "20000 50000"),
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
            ],
        );
        check(r#"{"cpu":{"quota":20000}}"#, &[("cpu.max", "20000 100000")]);
        check(r#"{"cpu":{"period":50000}}"#, &[("cpu.max", "max 50000")]);
        check(r#"{"cpu":{"quota":-1,"period":50000}}"#, &[("cpu.max", "max 50000")]);
        check(r#"{"cpu":{"shares":0,"quota":0,"period":0,"realtimeRuntime":5}}"#, &[]);
    }

    #[test]
    fn memory_rows() {
        check(
            r#"{"memory":{"limit":1000,"swap":3000,"reservation":500}}"#,
            &[("memory.swap.max", "2000"), ("memory.max", "1000"), ("memory.low", "500")],
        );
        check(r#"{"memory":{"limit":1000,"swap":1000}}"#, &[("memory.swap.max", "0"), ("memory.max", "1000")]);
        check(r#"{"memory":{"limit":1000,"swap":-1}}"#, &[("memory.swap.max", "max"), ("memory.max", "1000")]);
        check(r#"{"memory":{"limit":-1}}"#, &[("memory.swap.max", "max"), ("memory.max", "max")]);
        check(r#"{"memory":{"limit":-1,"swap":50}}"#, &[("memory.swap.max", "50"), ("memory.max", "max")]);
        check(r#"{"memory":{"limit":1000}}"#, &[("memory.max", "1000")]);
        check(r#"{"memory":{"swappiness":50,"disableOOMKiller":true,"kernel":5}}"#, &[]);
        assert_eq!(refused(r#"{"memory":{"swap":3000}}"#), "unable to set swap limit without memory limit");
        assert_eq!(refused(r#"{"memory":{"limit":3000,"swap":1000}}"#), "memory+swap limit should be >= memory limit");
        assert_eq!(refused(r#"{"memory":{"limit":-3,"swap":1000}}"#), "invalid memory value: -3");
    }

    #[test]
    fn io_rows() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":4}]}}"#;
        check(
            json,
            &[
                ("io.bfq.weight", "500"),
                ("io.bfq.weight", "8:0 10"),
                ("io.max", "8:0 rbps=1"),
                ("io.max", "8:16 wiops=4"),
            ],
        );
        let all = writes(&resources(json)).unwrap();
        assert_eq!(all[0].absent, Absent::Instead("io.weight", "4950".into()));
        assert_eq!(all[1].absent, Absent::Instead("io.weight", "8:0 1".into()));
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn the_rest() {
        check(
            r#"{"pids":{"limit":0},"hugepageLimits":[{"pageSize":"2MB","limit":0}],
                "rdma":{"b":{"hcaHandles":3},"a":{"hcaObjects":100},"c":{}},"network":{"classID":5}}"#,
            &[
                ("pids.max", "1"),
                ("hugetlb.2MB.max", "0"),
                ("hugetlb.2MB.rsvd.max", "0"),
                ("rdma.max", "a hca_object=100"),
                ("rdma.max", "b hca_handle=3"),
            ],
        );
    }

    #[test]
    fn unified_comes_last_and_by_line() {
        check(
            r#"{"unified":{"memory.high":"5","io.max":"8:0 rbps=1\n8:16 rbps=2\n"},"memory":{"limit":9}}"#,
            &[("memory.max", "9"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2"), ("memory.high", "5")],
        );
    }

    #[test]
    fn unified_keys_stay_in_the_cgroup() {
        for key in ["../x/y.z", "/abs.x", "a/b.c", "", "..", "a.b\\u0000"] {
            let text = refused(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#));
            assert!(text.starts_with("unified resource \""), "{text}");
        }
        let text = refused(r#"{"unified":{"plain":"1"}}"#);
        assert_eq!(text, "unified resource \"plain\" must be in the form CONTROLLER.PARAMETER");
    }
}
