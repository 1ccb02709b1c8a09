//! The metrics of the v1 hierarchies, in ns and bytes.

use berth_proto::metrics::v1::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use berth_runtime::cgroup as read;

pub fn metrics(stats: read::V1Stats) -> Metrics {
    let mut metrics = Metrics {
        hugetlb: stats.hugetlb.into_iter().map(hugetlb).collect(),
        pids: stats.pids.map(pids).into(),
        cpu: Some(cpu(stats.cpu)).into(),
        blkio: Some(blkio(stats.blkio)).into(),
        rdma: Some(rdma(stats.rdma)).into(),
        ..Default::default()
    };
    if let Some(memory) = stats.memory {
        let oom = MemoryOomControl {
            oom_kill_disable: memory.oom_kill_disable,
            under_oom: memory.under_oom,
            oom_kill: memory.oom_kill,
            ..Default::default()
        };
        metrics.memory_oom_control = Some(oom).into();
        let mut stat = memory_stat(|name| memory.stat.get(name));
        stat.usage = Some(entry(memory.usage)).into();
        stat.swap = Some(entry(memory.swap)).into();
        stat.kernel = Some(entry(memory.kernel)).into();
        stat.kernel_tcp = Some(entry(memory.kernel_tcp)).into();
        metrics.memory = Some(stat).into();
    }
    metrics
}

fn hugetlb(h: read::V1Hugetlb) -> HugetlbStat {
    HugetlbStat { usage: h.usage, max: h.max, failcnt: h.failcnt, pagesize: h.page_size, ..Default::default() }
}

/// containerd's v1 library has 0 for no limit.
fn pids(p: read::Pids) -> PidsStat {
    let limit = if p.limit == u64::MAX { 0 } else { p.limit };
    PidsStat { current: p.current, limit, ..Default::default() }
}

fn cpu(c: read::V1Cpu) -> CPUStat {
    let usage = CPUUsage {
        total: c.total_ns,
        kernel: c.kernel_ns,
        user: c.user_ns,
        per_cpu: c.per_cpu_ns,
        ..Default::default()
    };
    let throttling = Throttle {
        periods: c.periods,
        throttled_periods: c.throttled_periods,
        throttled_time: c.throttled_ns,
        ..Default::default()
    };
    CPUStat { usage: Some(usage).into(), throttling: Some(throttling).into(), ..Default::default() }
}

fn entry(e: read::MemoryEntry) -> MemoryEntry {
    MemoryEntry { limit: e.limit, usage: e.usage, max: e.max, failcnt: e.failcnt, ..Default::default() }
}

fn memory_stat(get: impl Fn(&str) -> u64) -> MemoryStat {
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        ..Default::default()
    }
}

fn blkio(b: read::Blkio) -> BlkIOStat {
    let entries = |list: Vec<read::BlkioEntry>| list.into_iter().map(blkio_entry).collect();
    BlkIOStat {
        io_service_bytes_recursive: entries(b.service_bytes),
        io_serviced_recursive: entries(b.serviced),
        io_queued_recursive: entries(b.queued),
        io_service_time_recursive: entries(b.service_time),
        io_wait_time_recursive: entries(b.wait_time),
        io_merged_recursive: entries(b.merged),
        io_time_recursive: entries(b.time),
        sectors_recursive: entries(b.sectors),
        ..Default::default()
    }
}

fn blkio_entry(e: read::BlkioEntry) -> BlkIOEntry {
    BlkIOEntry { op: e.op, device: e.device, major: e.major, minor: e.minor, value: e.value, ..Default::default() }
}

fn rdma(r: read::Rdma) -> RdmaStat {
    let entries = |list: Vec<read::RdmaEntry>| list.into_iter().map(rdma_entry).collect();
    RdmaStat { current: entries(r.current), limit: entries(r.limit), ..Default::default() }
}

fn rdma_entry(e: read::RdmaEntry) -> RdmaEntry {
    RdmaEntry { device: e.device, hca_handles: e.hca_handles, hca_objects: e.hca_objects, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_times_stay_nanoseconds() {
        let cpu = read::V1Cpu {
            total_ns: 3_000_000_001,
            kernel_ns: 1_000_000_000,
            user_ns: 2_000_000_000,
            per_cpu_ns: vec![1, 2],
            periods: 5,
            throttled_periods: 4,
            throttled_ns: 6_000_000,
        };
        let m = metrics(read::V1Stats { cpu, ..Default::default() });
        assert_eq!(
            (m.cpu.usage.total, m.cpu.usage.kernel, m.cpu.usage.user),
            (3_000_000_001, 1_000_000_000, 2_000_000_000)
        );
        assert_eq!(m.cpu.usage.per_cpu, [1, 2]);
        assert_eq!((m.cpu.throttling.periods, m.cpu.throttling.throttled_periods), (5, 4));
        assert_eq!(m.cpu.throttling.throttled_time, 6_000_000);
        assert!(m.memory.is_none() && m.pids.is_none());
    }

    #[test]
    fn v1_memory_fields_have_the_kernels_names() {
        let stat = memory_stat(|name| match name {
            "total_pgmajfault" => 1,
            "hierarchical_memsw_limit" => 2,
            "rss" => 3,
            "pgpgin" => 4,
            _ => 0,
        });
        assert_eq!((stat.total_pg_maj_fault, stat.hierarchical_swap_limit, stat.rss, stat.pg_pg_in), (1, 2, 3, 4));
    }

    #[test]
    fn v1_oom_kills_and_limits_are_copied() {
        let memory = read::V1Memory {
            usage: read::MemoryEntry { limit: 10, usage: 9, max: 10, failcnt: 7 },
            oom_kill: 2,
            ..Default::default()
        };
        let pids = Some(read::Pids { current: 1, limit: u64::MAX });
        let m = metrics(read::V1Stats { memory: Some(memory), pids, ..Default::default() });
        assert_eq!(m.memory_oom_control.oom_kill, 2);
        assert_eq!((m.memory.usage.limit, m.memory.usage.usage, m.memory.usage.failcnt), (10, 9, 7));
        assert_eq!((m.pids.current, m.pids.limit), (1, 0));
    }
}
