//! `linux.resources` as cgroup v1 files. Pure: rows in, rows out, tested without root.
//!
//! Devices are left to [`super::devices`], the cpuset that a new cgroup must inherit to [`super::make`].

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::{
    limits::{self, blkio_devices, nonzero},
    write::{Absent, Write},
};
use crate::error::{Error, Result};

/// What a new cgroup has anyway (kernel documentation, admin-guide/cgroup-v1); not written to one that we just made.
pub(super) const DEFAULTS: [(&str, &str); 7] = [
    ("cpu.shares", "1024"),
    ("cpu.cfs_period_us", "100000"),
    ("cpu.cfs_quota_us", "-1"),
    ("cpu.cfs_burst_us", "0"),
    ("memory.limit_in_bytes", "-1"),
    ("memory.memsw.limit_in_bytes", "-1"),
    ("pids.max", "max"),
];

/// The kernel's MIN_SHARES and MAX_SHARES. It clamps silently; a limit that is not what was asked is an error here.
const SHARES: (u64, u64) = (2, 262_144);

/// The writes that make `resources` true, in the order the kernel accepts.
pub(super) fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::invalid("invalid configuration: cannot use unified on cgroup v1"));
    }
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpuset(cpu, &mut out);
        scheduler(cpu, &mut out)?;
    }
    if let Some(m) = resources.memory() {
        memory(m, &mut out)?;
    }
    if let Some(pids) = resources.pids() {
        out.push(Write::new("pids", "pids.max", limits::pids_max(pids.limit())));
    }
    if let Some(block) = resources.block_io() {
        blkio(block, &mut out);
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = limits::hugepage(page)?;
        out.push(Write::new("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit));
        // Reservations are charged apart since 5.7.
        out.push(Write::new("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit).absent(Absent::Skip));
    }
    if let Some(net) = resources.network() {
        network(net, &mut out)?;
    }
    for line in limits::rdma(resources)? {
        out.push(Write::new("rdma", "rdma.max", line));
    }
    Ok(out)
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Write>) {
    let given = |list: &Option<String>| list.clone().filter(|l| !l.is_empty());
    out.extend(given(cpu.cpus()).map(|v| Write::new("cpuset", "cpuset.cpus", v)));
    out.extend(given(cpu.mems()).map(|v| Write::new("cpuset", "cpuset.mems", v)));
}

fn scheduler(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    if let Some(shares) = nonzero(cpu.shares()) {
        if shares < SHARES.0 {
            return Err(Error::invalid(format!("cpu.shares {shares}: the minimum allowed cpu-shares is {}", SHARES.0)));
        }
        if shares > SHARES.1 {
            return Err(Error::invalid(format!("cpu.shares {shares}: the maximum allowed cpu-shares is {}", SHARES.1)));
        }
        out.push(Write::new("cpu", "cpu.shares", shares));
    }
    let quota = nonzero(cpu.quota());
    // Quota, period and burst are checked against each other and against the parent's.
    if let Some(period) = nonzero(cpu.period()) {
        out.push(Write::new("cpu", "cpu.cfs_period_us", period).paired(quota.is_some()));
    }
    if let Some(burst) = cpu.burst() {
        // 5.14 has it; runc does without it on older kernels.
        let burst = Write::new("cpu", "cpu.cfs_burst_us", burst).absent(Absent::Skip);
        out.push(burst.paired(quota.is_some()));
    }
    out.extend(quota.map(|q| Write::new("cpu", "cpu.cfs_quota_us", q)));
    out.extend(cpu.idle().map(|i| Write::new("cpu", "cpu.idle", i)));
    let runtime = nonzero(cpu.realtime_runtime());
    if let Some(period) = nonzero(cpu.realtime_period()) {
        out.push(Write::new("cpu", "cpu.rt_period_us", period).paired(runtime.is_some()));
    }
    out.extend(runtime.map(|r| Write::new("cpu", "cpu.rt_runtime_us", r)));
    Ok(())
}

fn memory(m: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    let (limit, swap) = (nonzero(m.limit()), nonzero(m.swap()));
    // The kernel holds memory <= memory+swap at every step, so whichever comes first can be the wrong one.
    if let Some(limit) = limit {
        let unlimited = limit == -1;
        let paired = swap.is_some() || unlimited;
        out.push(Write::new("memory", "memory.limit_in_bytes", limit).paired(paired));
        if unlimited && swap.is_none() {
            // Unlimited memory under a limit of memory+swap would not be unlimited. No such file: swapaccount=0.
            out.push(Write::new("memory", "memory.memsw.limit_in_bytes", -1).absent(Absent::Skip));
        }
    }
    out.extend(swap.map(|s| Write::new("memory", "memory.memsw.limit_in_bytes", s)));
    out.extend(nonzero(m.reservation()).map(|r| Write::new("memory", "memory.soft_limit_in_bytes", r)));
    if m.disable_oom_killer() == Some(true) {
        out.push(Write::new("memory", "memory.oom_control", 1));
    }
    match m.swappiness() {
        // -1, "leave it", arrives as an unsigned number.
        None | Some(u64::MAX) => {}
        Some(s) if s <= 100 => out.push(Write::new("memory", "memory.swappiness", s)),
        Some(s) => return Err(Error::invalid(format!("invalid memory swappiness value: {s} (valid range is 0-100)"))),
    }
    Ok(())
}

fn blkio(block: &LinuxBlockIo, out: &mut Vec<Write>) {
    let weight =
        |file, instead, value: String| Write::new("blkio", file, &value).absent(Absent::Instead(instead, value));
    // The plain names went with CFQ in 5.0; BFQ has its own.
    if let Some(w) = nonzero(block.weight()) {
        out.push(weight("blkio.weight", "blkio.bfq.weight", w.to_string()));
    }
    if let Some(w) = nonzero(block.leaf_weight()) {
        out.push(Write::new("blkio", "blkio.leaf_weight", w));
    }
    for d in block.weight_device().iter().flatten() {
        if let Some(w) = nonzero(d.weight()) {
            let value = format!("{}:{} {w}", d.major(), d.minor());
            out.push(weight("blkio.weight_device", "blkio.bfq.weight_device", value));
        }
        if let Some(w) = nonzero(d.leaf_weight()) {
            out.push(Write::new("blkio", "blkio.leaf_weight_device", format!("{}:{} {w}", d.major(), d.minor())));
        }
    }
    for (kind, d) in blkio_devices(block) {
        let file = format!("blkio.throttle.{}_device", kind.v1_name());
        out.push(Write::new("blkio", file, format!("{}:{} {}", d.major(), d.minor(), d.rate())));
    }
}

fn network(net: &LinuxNetwork, out: &mut Vec<Write>) -> Result<()> {
    out.extend(nonzero(net.class_id()).map(|c| Write::new("net_cls", "net_cls.classid", c)));
    for p in net.priorities().iter().flatten() {
        limits::one_word(p.name())?;
        out.push(Write::new("net_prio", "net_prio.ifpriomap", format!("{} {}", p.name(), p.priority())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::tests::resources;

    fn rows(json: &str) -> Vec<(String, String)> {
        writes(&resources(json)).unwrap().into_iter().map(|w| (w.file.into_owned(), w.value)).collect()
    }

    fn check(json: &str, want: &[(&str, &str)]) {
        let want: Vec<_> = want.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        assert_eq!(rows(json), want, "{json}");
    }

    #[test]
    fn nothing_asked_nothing_written() {
        check("{}", &[]);
        check(r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"memory":{"limit":0,"useHierarchy":true}}"#, &[]);
        check(r#"{"memory":{"kernel":1048576,"kernelTCP":1048576}}"#, &[]);
    }

    #[test]
    fn cpu() {
        check(
            r#"{"cpu":{"shares":512,"quota":20000,"period":50000,"burst":1000,"idle":1,"cpus":"0-1","mems":"0",
                "realtimeRuntime":900,"realtimePeriod":1000}}"#,
            &[
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "50000"),
                ("cpu.cfs_burst_us", "1000"),
                ("cpu.cfs_quota_us", "20000"),
                ("cpu.idle", "1"),
                ("cpu.rt_period_us", "1000"),
                ("cpu.rt_runtime_us", "900"),
            ],
        );
    }

    #[test]
    fn pairs_are_only_pairs_when_both_are_set() {
        let paired = |json| {
            let all = writes(&resources(json)).unwrap();
            all.into_iter().filter(|w| w.paired).map(|w| w.file.into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(paired(r#"{"cpu":{"period":50000,"burst":1}}"#), [""; 0]);
        assert_eq!(
            paired(r#"{"cpu":{"period":50000,"burst":1,"quota":-1}}"#),
            ["cpu.cfs_period_us", "cpu.cfs_burst_us"]
        );
        assert_eq!(paired(r#"{"memory":{"limit":1}}"#), [""; 0]);
        assert_eq!(paired(r#"{"memory":{"limit":1,"swap":2}}"#), ["memory.limit_in_bytes"]);
        assert_eq!(paired(r#"{"memory":{"limit":-1}}"#), ["memory.limit_in_bytes"]);
    }

    #[test]
    fn cpu_shares_are_not_clamped_silently() {
        for (shares, text) in
            [(1, "the minimum allowed cpu-shares is 2"), (262_145, "the maximum allowed cpu-shares is 262144")]
        {
            let e = writes(&resources(&format!(r#"{{"cpu":{{"shares":{shares}}}}}"#))).unwrap_err();
            assert!(e.to_string().contains(text), "{e}");
        }
    }

    #[test]
    fn memory() {
        check(
            r#"{"memory":{"limit":1000,"swap":2000,"reservation":500,"swappiness":10,"disableOOMKiller":true}}"#,
            &[
                ("memory.limit_in_bytes", "1000"),
                ("memory.memsw.limit_in_bytes", "2000"),
                ("memory.soft_limit_in_bytes", "500"),
                ("memory.oom_control", "1"),
                ("memory.swappiness", "10"),
            ],
        );
        check(r#"{"memory":{"limit":-1}}"#, &[("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]);
        check(r#"{"memory":{"swappiness":18446744073709551615,"disableOOMKiller":false}}"#, &[]);
        let e = writes(&resources(r#"{"memory":{"swappiness":101}}"#)).unwrap_err();
        assert_eq!(e.to_string(), "invalid memory swappiness value: 101 (valid range is 0-100)");
    }

    #[test]
    fn pids() {
        check(r#"{"pids":{"limit":100}}"#, &[("pids.max", "100")]);
        check(r#"{"pids":{"limit":0}}"#, &[("pids.max", "1")]);
        check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")]);
    }

    #[test]
    fn blkio() {
        check(
            r#"{"blockIO":{"weight":10,"leafWeight":20,
                "weightDevice":[{"major":8,"minor":0,"weight":500,"leafWeight":300}],
                "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],
                "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":2},{"major":8,"minor":16,"rate":5}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":3}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":4}]}}"#,
            &[
                ("blkio.weight", "10"),
                ("blkio.leaf_weight", "20"),
                ("blkio.weight_device", "8:0 500"),
                ("blkio.leaf_weight_device", "8:0 300"),
                ("blkio.throttle.read_bps_device", "8:0 1"),
                ("blkio.throttle.write_bps_device", "8:0 2"),
                ("blkio.throttle.write_bps_device", "8:16 5"),
                ("blkio.throttle.read_iops_device", "8:0 3"),
                ("blkio.throttle.write_iops_device", "8:0 4"),
            ],
        );
    }

    #[test]
    fn the_rest() {
        check(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
                "network":{"classID":1048577,"priorities":[{"name":"lo","priority":5}]},
                "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":100}}}"#,
            &[
                ("hugetlb.2MB.limit_in_bytes", "4194304"),
                ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
                ("net_cls.classid", "1048577"),
                ("net_prio.ifpriomap", "lo 5"),
                ("rdma.max", "mlx5_1 hca_handle=3 hca_object=100"),
            ],
        );
    }

    #[test]
    fn unified_is_for_v2() {
        let e = writes(&resources(r#"{"unified":{"memory.max":"1"}}"#)).unwrap_err();
        assert_eq!(e.to_string(), "invalid configuration: cannot use unified on cgroup v1");
        check(r#"{"unified":{}}"#, &[]);
    }

    #[test]
    fn names_from_outside_stay_in_their_place() {
        let rows = [
            r#"{"hugepageLimits":[{"pageSize":"/../../x","limit":1}]}"#,
            r#"{"hugepageLimits":[{"pageSize":"","limit":1}]}"#,
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#,
            r#"{"network":{"priorities":[{"name":"a b","priority":5}]}}"#,
            r#"{"rdma":{"a\nb":{"hcaHandles":3}}}"#,
        ];
        for json in rows {
            assert_eq!(writes(&resources(json)).unwrap_err().kind(), crate::Kind::InvalidArgument, "{json}");
        }
    }
}
