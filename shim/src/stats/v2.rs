//! The metrics of the unified hierarchy, in µs and bytes.

use berth_proto::metrics::v2::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat, RdmaEntry,
    RdmaStat,
};
use berth_runtime::cgroup as read;

pub fn metrics(stats: read::V2Stats) -> Metrics {
    let cpu_psi = stats.cpu.psi.map(psi).into();
    Metrics {
        pids: Some(PidsStat { current: stats.pids.current, limit: stats.pids.limit, ..Default::default() }).into(),
        cpu: Some(CPUStat { psi: cpu_psi, ..cpu_stat(|name| stats.cpu.stat.get(name)) }).into(),
        memory: Some(memory(stats.memory)).into(),
        memory_events: stats.memory_events.map(events).into(),
        io: Some(io(stats.io)).into(),
        rdma: Some(rdma(stats.rdma)).into(),
        hugetlb: stats.hugetlb.into_iter().map(hugetlb).collect(),
        ..Default::default()
    }
}

fn cpu_stat(get: impl Fn(&str) -> u64) -> CPUStat {
    CPUStat {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
        ..Default::default()
    }
}

fn memory(m: read::V2Memory) -> MemoryStat {
    MemoryStat {
        usage: m.usage,
        usage_limit: m.usage_limit,
        max_usage: m.max_usage,
        swap_usage: m.swap_usage,
        swap_limit: m.swap_limit,
        swap_max_usage: m.swap_max_usage,
        psi: m.psi.map(psi).into(),
        ..memory_stat(|name| m.stat.get(name))
    }
}

fn memory_stat(get: impl Fn(&str) -> u64) -> MemoryStat {
    // Linux 5.9 has split the workingset counters into anon and file.
    let both = |name: &str| get(name) + get(&format!("{name}_anon")) + get(&format!("{name}_file"));
    MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: both("workingset_refault"),
        workingset_activate: both("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        ..Default::default()
    }
}

fn events(e: read::MemoryEvents) -> MemoryEvents {
    MemoryEvents {
        low: e.low,
        high: e.high,
        max: e.max,
        oom: e.oom,
        oom_kill: e.oom_kill,
        oom_group_kill: e.oom_group_kill,
        ..Default::default()
    }
}

fn psi(p: read::Psi) -> PSIStats {
    let line = |l: read::PsiLine| PSIData {
        avg10: l.avg10,
        avg60: l.avg60,
        avg300: l.avg300,
        total: l.total,
        ..Default::default()
    };
    PSIStats { some: Some(line(p.some)).into(), full: Some(line(p.full)).into(), ..Default::default() }
}

fn io(io: read::V2Io) -> IOStat {
    let entry = |e: read::IoEntry| IOEntry {
        major: e.major,
        minor: e.minor,
        rbytes: e.rbytes,
        wbytes: e.wbytes,
        rios: e.rios,
        wios: e.wios,
        ..Default::default()
    };
    IOStat { usage: io.usage.into_iter().map(entry).collect(), psi: io.psi.map(psi).into(), ..Default::default() }
}

fn rdma(r: read::Rdma) -> RdmaStat {
    let entry = |e: read::RdmaEntry| RdmaEntry {
        device: e.device,
        hca_handles: e.hca_handles,
        hca_objects: e.hca_objects,
        ..Default::default()
    };
    RdmaStat {
        current: r.current.into_iter().map(entry).collect(),
        limit: r.limit.into_iter().map(entry).collect(),
        ..Default::default()
    }
}

fn hugetlb(h: read::V2Hugetlb) -> HugeTlbStat {
    HugeTlbStat { current: h.current, max: h.max, pagesize: h.page_size, failcnt: h.failcnt, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_times_stay_microseconds() {
        let cpu = cpu_stat(|name| match name {
            "usage_usec" => 3_000_001,
            "system_usec" => 1_000_000,
            "throttled_usec" => 5,
            "nr_throttled" => 4,
            _ => 0,
        });
        assert_eq!(
            (cpu.usage_usec, cpu.system_usec, cpu.throttled_usec, cpu.nr_throttled),
            (3_000_001, 1_000_000, 5, 4)
        );
    }

    #[test]
    fn split_workingset_counters_are_added_up() {
        let stat = memory_stat(|name| match name {
            "workingset_refault_anon" => 2,
            "workingset_refault_file" => 3,
            "inactive_file" => 7,
            _ => 0,
        });
        assert_eq!((stat.workingset_refault, stat.inactive_file), (5, 7));
    }

    #[test]
    fn oom_kill_counts_are_copied() {
        let memory_events = Some(read::MemoryEvents { oom: 9, oom_kill: 2, ..Default::default() });
        let memory = read::V2Memory { usage: 5, usage_limit: u64::MAX, ..Default::default() };
        let m = metrics(read::V2Stats { memory_events, memory, ..Default::default() });
        assert_eq!((m.memory_events.oom, m.memory_events.oom_kill), (9, 2));
        assert_eq!((m.memory.usage, m.memory.usage_limit), (5, u64::MAX));
    }

    #[test]
    fn pressure_stall_information_is_copied() {
        let line = read::PsiLine { avg10: 1.5, avg60: 0.5, avg300: 0.25, total: 42 };
        let cpu =
            read::V2Cpu { psi: Some(read::Psi { some: line, full: read::PsiLine::default() }), ..Default::default() };
        let m = metrics(read::V2Stats { cpu, ..Default::default() });
        assert_eq!((m.cpu.psi.some.avg10, m.cpu.psi.some.total, m.cpu.psi.full.total), (1.5, 42, 0));
        assert!(m.io.psi.is_none());
    }
}
