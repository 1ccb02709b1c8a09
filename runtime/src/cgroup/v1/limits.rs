//! `linux.resources` as cgroup v1 files. Pure, tested without root.
//!
//! Device rules are in [`crate::cgroup::devices`]; [`super::apply`] fills the cpuset that a new cgroup must inherit.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use crate::{
    cgroup::{
        fields::{self, blkio_devices, nonzero},
        row::{Absent, Row},
    },
    error::{Error, Result},
};

/// The values of a new cgroup (kernel documentation, admin-guide/cgroup-v1). They are not written to a new directory.
pub(in crate::cgroup) const DEFAULTS: [(&str, &str); 7] = [
    ("cpu.shares", "1024"),
    ("cpu.cfs_period_us", "100000"),
    ("cpu.cfs_quota_us", "-1"),
    ("cpu.cfs_burst_us", "0"),
    ("memory.limit_in_bytes", "-1"),
    ("memory.memsw.limit_in_bytes", "-1"),
    ("pids.max", "max"),
];

/// The kernel's MIN_SHARES and MAX_SHARES.
const SHARES: (u64, u64) = (2, 262_144);

/// Refuses the parts of `resources` that only v1 cannot have. [`crate::cgroup::check`] has checked the rest.
///
/// # Errors
/// Names the file or the field.
pub(in crate::cgroup) fn check(resources: &LinuxResources) -> Result<()> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::invalid("invalid configuration: cannot use unified on cgroup v1"));
    }
    // The kernel would clamp the value and say nothing.
    match resources.cpu().as_ref().and_then(|cpu| nonzero(cpu.shares())) {
        Some(shares) if shares < SHARES.0 => {
            Err(Error::invalid(format!("cpu.shares {shares}: the minimum allowed cpu-shares is {}", SHARES.0)))
        }
        Some(shares) if shares > SHARES.1 => {
            Err(Error::invalid(format!("cpu.shares {shares}: the maximum allowed cpu-shares is {}", SHARES.1)))
        }
        _ => Ok(()),
    }
}

/// The rows for checked `resources`, in the order that the kernel accepts.
pub(in crate::cgroup) fn rows(resources: &LinuxResources) -> Vec<Row> {
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpuset(cpu, &mut out);
        scheduler(cpu, &mut out);
    }
    if let Some(m) = resources.memory() {
        memory(m, &mut out);
    }
    if let Some(pids) = resources.pids() {
        out.push(Row::new("pids", "pids.max", fields::pids_max(pids.limit())));
    }
    if let Some(block) = resources.block_io() {
        blkio(block, &mut out);
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = fields::hugepage(page);
        out.push(Row::new("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit));
        // Linux 5.7 and newer charge reservations separately.
        out.push(Row::new("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit).absent(Absent::Skip));
    }
    if let Some(net) = resources.network() {
        network(net, &mut out);
    }
    for line in fields::rdma(resources) {
        out.push(Row::new("rdma", "rdma.max", line));
    }
    out
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Row>) {
    let given = |list: &Option<String>| list.clone().filter(|l| !l.is_empty());
    out.extend(given(cpu.cpus()).map(|v| Row::new("cpuset", "cpuset.cpus", v)));
    out.extend(given(cpu.mems()).map(|v| Row::new("cpuset", "cpuset.mems", v)));
}

fn scheduler(cpu: &LinuxCpu, out: &mut Vec<Row>) {
    out.extend(nonzero(cpu.shares()).map(|shares| Row::new("cpu", "cpu.shares", shares)));
    let quota = nonzero(cpu.quota());
    // The kernel checks quota, period and burst against each other and against those of the parent.
    if let Some(period) = nonzero(cpu.period()) {
        out.push(Row::new("cpu", "cpu.cfs_period_us", period).paired(quota.is_some()));
    }
    if let Some(burst) = cpu.burst() {
        // Since Linux 5.14; runc skips it on older kernels.
        let burst = Row::new("cpu", "cpu.cfs_burst_us", burst).absent(Absent::Skip);
        out.push(burst.paired(quota.is_some()));
    }
    out.extend(quota.map(|q| Row::new("cpu", "cpu.cfs_quota_us", q)));
    out.extend(cpu.idle().map(|i| Row::new("cpu", "cpu.idle", i)));
    let runtime = nonzero(cpu.realtime_runtime());
    if let Some(period) = nonzero(cpu.realtime_period()) {
        out.push(Row::new("cpu", "cpu.rt_period_us", period).paired(runtime.is_some()));
    }
    out.extend(runtime.map(|r| Row::new("cpu", "cpu.rt_runtime_us", r)));
}

fn memory(m: &LinuxMemory, out: &mut Vec<Row>) {
    let (limit, swap) = (nonzero(m.limit()), nonzero(m.swap()));
    // The kernel enforces memory <= memory+swap at every write, so either order can be wrong.
    if let Some(limit) = limit {
        let unlimited = limit == -1;
        let paired = swap.is_some() || unlimited;
        out.push(Row::new("memory", "memory.limit_in_bytes", limit).paired(paired));
        if unlimited && swap.is_none() {
            // A limit of memory+swap would still limit the memory. With swapaccount=0 there is no such file.
            out.push(Row::new("memory", "memory.memsw.limit_in_bytes", -1).absent(Absent::Skip));
        }
    }
    out.extend(swap.map(|s| Row::new("memory", "memory.memsw.limit_in_bytes", s)));
    out.extend(nonzero(m.reservation()).map(|r| Row::new("memory", "memory.soft_limit_in_bytes", r)));
    if m.disable_oom_killer() == Some(true) {
        out.push(Row::new("memory", "memory.oom_control", 1));
    }
    // u64::MAX is -1, which Go programs write for "leave it as it is".
    let swappiness = m.swappiness().filter(|s| *s != u64::MAX);
    out.extend(swappiness.map(|s| Row::new("memory", "memory.swappiness", s)));
}

fn blkio(block: &LinuxBlockIo, out: &mut Vec<Row>) {
    let weight = |file, instead, value: String| Row::new("blkio", file, &value).absent(Absent::Instead(instead, value));
    // Linux 5.0 removed CFQ and with it the plain names; BFQ has names of its own.
    if let Some(w) = nonzero(block.weight()) {
        out.push(weight("blkio.weight", "blkio.bfq.weight", w.to_string()));
    }
    if let Some(w) = nonzero(block.leaf_weight()) {
        out.push(Row::new("blkio", "blkio.leaf_weight", w));
    }
    for d in block.weight_device().iter().flatten() {
        if let Some(w) = nonzero(d.weight()) {
            let value = format!("{}:{} {w}", d.major(), d.minor());
            out.push(weight("blkio.weight_device", "blkio.bfq.weight_device", value));
        }
        if let Some(w) = nonzero(d.leaf_weight()) {
            out.push(Row::new("blkio", "blkio.leaf_weight_device", format!("{}:{} {w}", d.major(), d.minor())));
        }
    }
    for (kind, d) in blkio_devices(block) {
        let file = format!("blkio.throttle.{}_device", kind.v1_name());
        out.push(Row::new("blkio", file, format!("{}:{} {}", d.major(), d.minor(), d.rate())));
    }
}

fn network(net: &LinuxNetwork, out: &mut Vec<Row>) {
    out.extend(nonzero(net.class_id()).map(|c| Row::new("net_cls", "net_cls.classid", c)));
    for p in net.priorities().iter().flatten() {
        out.push(Row::new("net_prio", "net_prio.ifpriomap", format!("{} {}", p.name(), p.priority())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fields::tests::resources;

    fn pairs(json: &str) -> Vec<(String, String)> {
        rows(&resources(json)).into_iter().map(|w| (w.file.into_owned(), w.value)).collect()
    }

    fn writes(json: &str, want: &[(&str, &str)]) {
        let want: Vec<_> = want.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        assert_eq!(pairs(json), want, "{json}");
    }

    #[test]
    fn absent_limits_give_no_rows() {
        writes("{}", &[]);
        writes(r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"memory":{"limit":0,"useHierarchy":true}}"#, &[]);
        writes(r#"{"memory":{"kernel":1048576,"kernelTCP":1048576}}"#, &[]);
    }

    #[test]
    fn cpu_limits_become_v1_rows() {
        writes(
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
    fn row_is_paired_only_if_both_halves_are_set() {
        let paired = |json| {
            let all = rows(&resources(json));
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
    fn cpu_shares_out_of_range_are_refused() {
        for (shares, text) in
            [(1, "the minimum allowed cpu-shares is 2"), (262_145, "the maximum allowed cpu-shares is 262144")]
        {
            let e = check(&resources(&format!(r#"{{"cpu":{{"shares":{shares}}}}}"#))).unwrap_err();
            assert!(e.to_string().contains(text), "{e}");
        }
    }

    #[test]
    fn memory_limits_become_v1_rows() {
        writes(
            r#"{"memory":{"limit":1000,"swap":2000,"reservation":500,"swappiness":10,"disableOOMKiller":true}}"#,
            &[
                ("memory.limit_in_bytes", "1000"),
                ("memory.memsw.limit_in_bytes", "2000"),
                ("memory.soft_limit_in_bytes", "500"),
                ("memory.oom_control", "1"),
                ("memory.swappiness", "10"),
            ],
        );
        writes(r#"{"memory":{"limit":-1}}"#, &[("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]);
        writes(r#"{"memory":{"swappiness":18446744073709551615,"disableOOMKiller":false}}"#, &[]);
    }

    #[test]
    fn pids_limit_becomes_a_row() {
        writes(r#"{"pids":{"limit":100}}"#, &[("pids.max", "100")]);
        writes(r#"{"pids":{"limit":0}}"#, &[("pids.max", "1")]);
        writes(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")]);
    }

    #[test]
    fn block_io_limits_become_rows() {
        writes(
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
    fn hugetlb_network_and_rdma_limits_become_rows() {
        writes(
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
    fn unified_is_refused_on_v1() {
        let e = check(&resources(r#"{"unified":{"memory.max":"1"}}"#)).unwrap_err();
        assert_eq!(e.to_string(), "invalid configuration: cannot use unified on cgroup v1");
        writes(r#"{"unified":{}}"#, &[]);
    }
}
