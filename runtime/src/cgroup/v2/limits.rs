//! `linux.resources` as cgroup v2 files. Pure, tested without root.
//!
//! Device rules are no file in v2, but a program ([`crate::cgroup::devices::filter`]). v2 has no file for swappiness, for
//! the switch of the OOM killer, for realtime or for network classes: these are left out, as config-linux.md allows and
//! runc does.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::{
    cgroup::{
        dir::checked_name,
        fields::{self, blkio_devices, nonzero},
        row::{Absent, Row},
    },
    error::{Error, Result},
};

/// The values of a new cgroup (kernel documentation, admin-guide/cgroup-v2). They are not written to a new directory.
pub(in crate::cgroup) const DEFAULTS: [(&str, &str); 7] = [
    ("pids.max", "max"),
    ("memory.max", "max"),
    ("memory.swap.max", "max"),
    ("cpu.weight", "100"),
    ("cpu.max", "max 100000"),
    ("cpu.max.burst", "0"),
    ("cpu.idle", "0"),
];

/// Refuses the parts of `resources` that only v2 cannot have. [`crate::cgroup::check`] has checked the rest.
///
/// # Errors
/// Names the field, and quotes the key of `unified`.
pub(in crate::cgroup) fn check(resources: &LinuxResources) -> Result<()> {
    // memory.swap.max counts swap alone, so the limit of memory has to be known.
    if resources.memory().is_some_and(|m| m.swap().is_some_and(|swap| swap > 0) && nonzero(m.limit()).is_none()) {
        return Err(Error::invalid("unable to set swap limit without memory limit"));
    }
    for (key, value) in sorted_unified(resources) {
        checked_name("unified resource", key)?;
        if !key.contains('.') {
            return Err(Error::invalid(format!("unified resource {key:?} must be in the form CONTROLLER.PARAMETER")));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("unified resource {key:?}: value must not contain a null byte")));
        }
    }
    Ok(())
}

/// Whether `resources` have a limit of a controller that does not work on single threads (cgroups(7), thread mode).
pub(in crate::cgroup) fn needs_domain(resources: &LinuxResources) -> bool {
    resources.memory().is_some()
        || resources.block_io().is_some()
        || resources.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty())
}

/// The rows for checked `resources`, in the order that the kernel accepts. Those of `unified` come last, so that they win.
pub(in crate::cgroup) fn rows(resources: &LinuxResources) -> Vec<Row> {
    let mut out = Vec::new();
    if let Some(pids) = resources.pids() {
        out.push(Row::new("pids", "pids.max", fields::pids_max(pids.limit())));
    }
    if let Some(m) = resources.memory() {
        memory(m, &mut out);
    }
    if let Some(block) = resources.block_io() {
        io(block, &mut out);
    }
    if let Some(c) = resources.cpu() {
        cpu(c, &mut out);
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = fields::hugepage(page);
        out.push(Row::new("hugetlb", format!("hugetlb.{size}.max"), limit));
        // Linux 5.7 and newer charge reservations separately.
        out.push(Row::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit).absent(Absent::Skip));
    }
    for line in fields::rdma(resources) {
        out.push(Row::new("rdma", "rdma.max", line));
    }
    unified(resources, &mut out);
    out
}

fn memory(m: &LinuxMemory, out: &mut Vec<Row>) {
    let (limit, swap) = (m.limit().unwrap_or(0), m.swap().unwrap_or(0));
    if let Some(swap) = swap_max(limit, swap) {
        // A kernel without swap lacks the file, and then both of these values hold anyway.
        let absent = if swap == "max" || swap == "0" { Absent::Skip } else { Absent::Fail };
        out.push(Row::new("memory", "memory.swap.max", swap).absent(absent));
    }
    out.extend(bytes_or_max(limit).map(|v| Row::new("memory", "memory.max", v)));
    out.extend(bytes_or_max(m.reservation().unwrap_or(0)).map(|v| Row::new("memory", "memory.low", v)));
}

/// The value of `memory.swap.max`, which counts swap alone; `swap` of the spec is memory and swap together. None leaves the
/// file as it is.
fn swap_max(limit: i64, swap: i64) -> Option<String> {
    match (limit, swap) {
        // Unlimited memory means unlimited swap, unless the spec limits swap.
        (-1, 0) | (_, -1) => Some("max".to_owned()),
        (_, 0) => None,
        (-1, s) => Some(s.to_string()),
        (l, s) => Some(s.saturating_sub(l).to_string()),
    }
}

fn bytes_or_max(value: i64) -> Option<String> {
    match value {
        0 => None,
        -1 => Some("max".to_owned()),
        v => Some(v.to_string()),
    }
}

fn io(block: &LinuxBlockIo, out: &mut Vec<Row>) {
    // The I/O scheduler of the host decides which file exists: io.bfq.weight (BFQ) has the range of the spec, io.weight
    // (iocost) another one.
    let weight = |device: &str, w: u16| {
        let plain = format!("{device}{}", io_weight(w));
        Row::new("io", "io.bfq.weight", format!("{device}{w}")).absent(Absent::Instead("io.weight", plain))
    };
    out.extend(nonzero(block.weight()).map(|w| weight("", w)));
    for d in block.weight_device().iter().flatten() {
        out.extend(nonzero(d.weight()).map(|w| weight(&format!("{}:{} ", d.major(), d.minor()), w)));
    }
    for (kind, d) in blkio_devices(block) {
        out.push(Row::new("io", "io.max", format!("{}:{} {}={}", d.major(), d.minor(), kind.v2_name(), d.rate())));
    }
}

/// Maps blkio's 10..=1000 linearly to io.weight's 1..=10000, as every runtime does.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

fn cpu(c: &LinuxCpu, out: &mut Vec<Row>) {
    let given = |list: &Option<String>| list.clone().filter(|l| !l.is_empty());
    // cpu.idle comes first: the kernel refuses a weight while the cgroup is idle.
    out.extend(c.idle().map(|i| Row::new("cpu", "cpu.idle", i)));
    out.extend(nonzero(c.shares()).map(|s| Row::new("cpu", "cpu.weight", cpu_weight(s))));
    let (quota, period) = (nonzero(c.quota()), nonzero(c.period()));
    if let Some(burst) = c.burst() {
        // The burst must not exceed the quota, old or new: so it is tried before and after.
        out.push(Row::new("cpu", "cpu.max.burst", burst).paired(quota.is_some()));
    }
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        out.push(Row::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    out.extend(given(c.cpus()).map(|v| Row::new("cpuset", "cpuset.cpus", v)));
    out.extend(given(c.mems()).map(|v| Row::new("cpuset", "cpuset.mems", v)));
}

/// Maps v1 shares (2..=262144, default 1024) to a v2 weight (1..=10000, default 100). runc, crun and kubelet agreed in 2025
/// on this curve through the minimum, the default and the maximum; a straight line maps the default to 39.
fn cpu_weight(shares: u64) -> u64 {
    let shares = u32::try_from(shares.clamp(2, 262_144)).unwrap_or(262_144);
    let l = f64::from(shares).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number clamped to 1..=10000")]
    let weight = weight.clamp(1.0, 10_000.0) as u64;
    weight
}

/// The entries of `unified`, a row for each line: a write(2) sets one line.
fn unified(resources: &LinuxResources, out: &mut Vec<Row>) {
    for (key, value) in sorted_unified(resources) {
        let lines: Vec<&str> = value.lines().collect();
        for line in if lines.is_empty() { &[""][..] } else { &lines } {
            out.push(Row::new(UNIFIED, key.clone(), line));
        }
    }
}

/// The entries of `unified` by key, so that every run writes them in the same order.
fn sorted_unified(resources: &LinuxResources) -> Vec<(&String, &String)> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    entries
}

/// The controller in the rows of `unified`: the name of the file says which one it is.
pub(in crate::cgroup) const UNIFIED: &str = "unified";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fields::tests::resources;

    fn writes(json: &str, want: &[(&str, &str)]) {
        let rows: Vec<_> = rows(&resources(json)).into_iter().map(|w| (w.file.into_owned(), w.value)).collect();
        let want: Vec<_> = want.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        assert_eq!(rows, want, "{json}");
    }

    fn refused(json: &str) -> String {
        let e = check(&resources(json)).unwrap_err();
        assert_eq!(e.kind(), crate::Kind::InvalidArgument);
        e.to_string()
    }

    #[test]
    fn shares_map_to_the_agreed_weights() {
        // The minimum, the default and the maximum, two points between them, and values out of range.
        let rows =
            [(1, 1), (2, 1), (3, 2), (1024, 100), (2048, 174), (102_400, 4429), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in rows {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn cpu_limits_become_v2_rows() {
        writes(
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
        writes(r#"{"cpu":{"quota":20000}}"#, &[("cpu.max", "20000 100000")]);
        writes(r#"{"cpu":{"period":50000}}"#, &[("cpu.max", "max 50000")]);
        writes(r#"{"cpu":{"quota":-1,"period":50000}}"#, &[("cpu.max", "max 50000")]);
        writes(r#"{"cpu":{"shares":0,"quota":0,"period":0,"realtimeRuntime":5}}"#, &[]);
    }

    #[test]
    fn memory_limits_become_v2_rows() {
        writes(
            r#"{"memory":{"limit":1000,"swap":3000,"reservation":500}}"#,
            &[("memory.swap.max", "2000"), ("memory.max", "1000"), ("memory.low", "500")],
        );
        writes(r#"{"memory":{"limit":1000,"swap":1000}}"#, &[("memory.swap.max", "0"), ("memory.max", "1000")]);
        writes(r#"{"memory":{"limit":1000,"swap":-1}}"#, &[("memory.swap.max", "max"), ("memory.max", "1000")]);
        writes(r#"{"memory":{"limit":-1}}"#, &[("memory.swap.max", "max"), ("memory.max", "max")]);
        writes(r#"{"memory":{"limit":-1,"swap":50}}"#, &[("memory.swap.max", "50"), ("memory.max", "max")]);
        writes(r#"{"memory":{"limit":1000}}"#, &[("memory.max", "1000")]);
        writes(r#"{"memory":{"swappiness":50,"disableOOMKiller":true,"kernel":5}}"#, &[]);
        assert_eq!(refused(r#"{"memory":{"swap":3000}}"#), "unable to set swap limit without memory limit");
    }

    #[test]
    fn io_limits_become_rows() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":4}]}}"#;
        writes(
            json,
            &[
                ("io.bfq.weight", "500"),
                ("io.bfq.weight", "8:0 10"),
                ("io.max", "8:0 rbps=1"),
                ("io.max", "8:16 wiops=4"),
            ],
        );
        let all = rows(&resources(json));
        assert_eq!(all[0].absent, Absent::Instead("io.weight", "4950".into()));
        assert_eq!(all[1].absent, Absent::Instead("io.weight", "8:0 1".into()));
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn pids_hugetlb_and_rdma_limits_become_rows() {
        writes(
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
    fn unified_is_written_last_and_line_by_line() {
        writes(
            r#"{"unified":{"memory.high":"5","io.max":"8:0 rbps=1\n8:16 rbps=2\n"},"memory":{"limit":9}}"#,
            &[("memory.max", "9"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2"), ("memory.high", "5")],
        );
    }

    #[test]
    fn unified_key_outside_the_cgroup_is_refused() {
        for key in ["../x/y.z", "/abs.x", "a/b.c", "", "..", "a.b\\u0000"] {
            let text = refused(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#));
            assert!(text.starts_with("unified resource \""), "{text}");
        }
        let text = refused(r#"{"unified":{"plain":"1"}}"#);
        assert_eq!(text, "unified resource \"plain\" must be in the form CONTROLLER.PARAMETER");
    }
}
