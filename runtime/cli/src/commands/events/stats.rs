//! The statistics of a container in the JSON of runc's `events`, whose fields runc's package `types` defines. cgroup v1 and
//! v2 share one shape with the units of v1 (ns, bytes). Fields that Go omits when they are 0 (`omitempty`, `omitzero`) are
//! omitted here as well. `intel_rdt` is always present.

use std::collections::BTreeMap;

use berth_runtime::cgroup::{
    Blkio, BlkioEntry, Counters, MemoryEntry, Pids, Placement, Psi, Stats, V1Stats, V2Hugetlb, V2Io, V2Memory, V2Stats,
};
use serde_json::{Map, Value, json};

/// The `data` of a `stats` event.
pub fn to_json(stats: &Stats, placement: &Placement) -> Value {
    let mut data = match stats {
        Stats::V1(stats) => v1(stats, placement),
        Stats::V2(stats) => v2(stats, placement),
    };
    data.insert("cpuset".to_owned(), cpuset(placement));
    data.insert("intel_rdt".to_owned(), json!({}));
    data.insert("network_interfaces".to_owned(), Value::Null);
    Value::Object(data)
}

fn v1(stats: &V1Stats, placement: &Placement) -> Map<String, Value> {
    let cpu = &stats.cpu;
    let mut time = times(cpu.total_ns, cpu.kernel_ns, cpu.user_ns);
    put_list(&mut time, "percpu", &cpu.per_cpu_ns);
    put_list(&mut time, "percpu_kernel", &placement.kernel_ns);
    put_list(&mut time, "percpu_user", &placement.user_ns);
    let memory = stats.memory.as_ref().map(|m| {
        let mut memory = raw(&m.stat, "cache");
        put_entry(&mut memory, "usage", m.usage);
        put_entry(&mut memory, "swap", m.swap);
        put_entry(&mut memory, "kernel", m.kernel);
        put_entry(&mut memory, "kernelTCP", m.kernel_tcp);
        memory
    });
    let hugetlb = stats
        .hugetlb
        .iter()
        .map(|h| (h.page_size.clone(), huge(reserved(placement, &h.page_size, h.usage), h.max, h.failcnt)));
    sections(
        cpu_section(time, [cpu.periods, cpu.throttled_periods, cpu.throttled_ns], None),
        memory.unwrap_or_default(),
        stats.pids.unwrap_or_default(),
        blkio(&stats.blkio),
        hugetlb.collect(),
    )
}

fn v2(stats: &V2Stats, placement: &Placement) -> Map<String, Value> {
    let ns = |name: &str| stats.cpu.stat.get(name).saturating_mul(1000);
    let current = |h: &V2Hugetlb| huge(reserved(placement, &h.page_size, h.current), 0, h.failcnt);
    let hugetlb = stats.hugetlb.iter().map(|h| (h.page_size.clone(), current(h)));
    let throttled = [stats.cpu.stat.get("nr_periods"), stats.cpu.stat.get("nr_throttled"), ns("throttled_usec")];
    sections(
        cpu_section(times(ns("usage_usec"), ns("system_usec"), ns("user_usec")), throttled, stats.cpu.psi),
        v2_memory(&stats.memory),
        stats.pids,
        v2_io(&stats.io),
        hugetlb.collect(),
    )
}

fn sections(
    cpu: Value,
    memory: Map<String, Value>,
    pids: Pids,
    blkio: Map<String, Value>,
    hugetlb: BTreeMap<String, Value>,
) -> Map<String, Value> {
    let mut count = Map::new();
    put(&mut count, "current", pids.current);
    put(&mut count, "limit", if pids.limit == u64::MAX { 0 } else { pids.limit });
    let pairs = [
        ("cpu", cpu),
        ("memory", memory.into()),
        ("pids", count.into()),
        ("blkio", blkio.into()),
        ("hugetlb", json!(hugetlb)),
    ];
    pairs.into_iter().map(|(name, section)| (name.to_owned(), section)).collect()
}

/// CPU times in ns. `kernel` and `user` are always present.
fn times(total: u64, kernel: u64, user: u64) -> Map<String, Value> {
    let mut times = Map::new();
    put(&mut times, "total", total);
    times.insert("kernel".to_owned(), kernel.into());
    times.insert("user".to_owned(), user.into());
    times
}

/// `throttled` holds the number of periods, the number of throttled periods, and the throttled time in ns.
fn cpu_section(time: Map<String, Value>, throttled: [u64; 3], psi: Option<Psi>) -> Value {
    let mut throttling = Map::new();
    for (name, value) in ["periods", "throttledPeriods", "throttledTime"].into_iter().zip(throttled) {
        put(&mut throttling, name, value);
    }
    let mut cpu = Map::new();
    if time.values().any(|ns| *ns != json!(0)) {
        cpu.insert("usage".to_owned(), time.into());
    }
    if !throttling.is_empty() {
        cpu.insert("throttling".to_owned(), throttling.into());
    }
    put_psi(&mut cpu, psi);
    cpu.into()
}

/// cgroup v2 counts swap alone. v1 counts memory and swap together, and readers of the JSON expect the sum.
fn v2_memory(memory: &V2Memory) -> Map<String, Value> {
    let mut section = raw(&memory.stat, "file");
    let usage = MemoryEntry { limit: memory.usage_limit, usage: memory.usage, max: memory.max_usage, failcnt: 0 };
    let with_memory = |swap: u64, memory: u64| if swap == u64::MAX { swap } else { swap.saturating_add(memory) };
    let swap = MemoryEntry {
        limit: with_memory(memory.swap_limit, memory.usage_limit),
        usage: memory.swap_usage.saturating_add(memory.usage),
        max: 0,
        failcnt: 0,
    };
    put_entry(&mut section, "usage", usage);
    put_entry(&mut section, "swap", swap);
    put_psi(&mut section, memory.psi);
    section
}

fn v2_io(io: &V2Io) -> Map<String, Value> {
    let table = |counts: fn(&berth_runtime::cgroup::IoEntry) -> [(&'static str, u64); 2]| {
        let rows = io.usage.iter().flat_map(|device| {
            counts(device).map(|(op, value)| BlkioEntry {
                op: op.to_owned(),
                device: String::new(),
                major: device.major,
                minor: device.minor,
                value,
            })
        });
        rows.collect::<Vec<_>>()
    };
    let mut section = blkio(&Blkio {
        service_bytes: table(|io| [("Read", io.rbytes), ("Write", io.wbytes)]),
        serviced: table(|io| [("Read", io.rios), ("Write", io.wios)]),
        ..Blkio::default()
    });
    put_psi(&mut section, io.psi);
    section
}

fn blkio(blkio: &Blkio) -> Map<String, Value> {
    let tables = [
        ("ioServiceBytesRecursive", &blkio.service_bytes),
        ("ioServicedRecursive", &blkio.serviced),
        ("ioQueueRecursive", &blkio.queued),
        ("ioServiceTimeRecursive", &blkio.service_time),
        ("ioWaitTimeRecursive", &blkio.wait_time),
        ("ioMergedRecursive", &blkio.merged),
        ("ioTimeRecursive", &blkio.time),
        ("sectorsRecursive", &blkio.sectors),
    ];
    let given = tables.into_iter().filter(|(_, rows)| !rows.is_empty());
    given.map(|(name, rows)| (name.to_owned(), rows.iter().map(row).collect())).collect()
}

fn row(entry: &BlkioEntry) -> Value {
    let mut row = Map::new();
    put(&mut row, "major", entry.major);
    put(&mut row, "minor", entry.minor);
    if !entry.op.is_empty() {
        row.insert("op".to_owned(), entry.op.as_str().into());
    }
    put(&mut row, "value", entry.value);
    row.into()
}

/// `memory.stat` as a whole, and the counter of the page cache in it.
fn raw(stat: &Counters, cache: &str) -> Map<String, Value> {
    let mut section = Map::new();
    put(&mut section, "cache", stat.get(cache));
    let all: BTreeMap<&str, u64> = stat.iter().collect();
    if !all.is_empty() {
        section.insert("raw".to_owned(), json!(all));
    }
    section
}

fn put_entry(section: &mut Map<String, Value>, name: &str, entry: MemoryEntry) {
    if entry == MemoryEntry::default() {
        return;
    }
    let mut value = Map::new();
    value.insert("limit".to_owned(), entry.limit.into());
    put(&mut value, "usage", entry.usage);
    put(&mut value, "max", entry.max);
    value.insert("failcnt".to_owned(), entry.failcnt.into());
    section.insert(name.to_owned(), value.into());
}

/// Huge pages in use. Reserved pages count as used, as in runc's events.
fn reserved(placement: &Placement, page_size: &str, used: u64) -> u64 {
    placement.reserved.get(page_size).copied().unwrap_or(used)
}

fn huge(usage: u64, max: u64, failcnt: u64) -> Value {
    let mut value = Map::new();
    put(&mut value, "usage", usage);
    put(&mut value, "max", max);
    value.insert("failcnt".to_owned(), failcnt.into());
    value.into()
}

fn put_psi(section: &mut Map<String, Value>, psi: Option<Psi>) {
    let Some(psi) = psi else { return };
    let line = |line: berth_runtime::cgroup::PsiLine| json!({ "avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300, "total": line.total });
    section.insert("psi".to_owned(), json!({ "some": line(psi.some), "full": line(psi.full) }));
}

fn cpuset(placement: &Placement) -> Value {
    let mut section = Map::new();
    put_list(&mut section, "cpus", &placement.cpus);
    put_list(&mut section, "mems", &placement.mems);
    for (name, value) in [
        ("cpu_exclusive", placement.cpu_exclusive),
        ("mem_hardwall", placement.mem_hardwall),
        ("mem_exclusive", placement.mem_exclusive),
        ("memory_migrate", placement.memory_migrate),
        ("memory_spread_page", placement.memory_spread_page),
        ("memory_spread_slab", placement.memory_spread_slab),
        ("memory_pressure", placement.memory_pressure),
        ("sched_load_balance", placement.sched_load_balance),
    ] {
        section.insert(name.to_owned(), value.into());
    }
    section.insert("sched_relax_domain_level".to_owned(), placement.sched_relax_domain_level.into());
    section.into()
}

/// Adds `value` unless it is 0 (Go's `omitempty`).
fn put(section: &mut Map<String, Value>, name: &str, value: u64) {
    if value != 0 {
        section.insert(name.to_owned(), value.into());
    }
}

fn put_list<T: Copy + Into<Value>>(section: &mut Map<String, Value>, name: &str, list: &[T]) {
    if !list.is_empty() {
        section.insert(name.to_owned(), list.iter().map(|n| (*n).into()).collect());
    }
}

#[cfg(test)]
mod tests {
    use berth_runtime::cgroup::{IoEntry, PsiLine, V1Memory};

    use super::*;

    #[test]
    fn zero_is_omitted_where_go_omits_it() {
        let data = to_json(&Stats::V1(Box::default()), &Placement::default());
        assert_eq!((&data["cpu"], &data["memory"], &data["intel_rdt"]), (&json!({}), &json!({}), &json!({})));
        assert_eq!((&data["pids"], &data["blkio"], &data["hugetlb"]), (&json!({}), &json!({}), &json!({})));
        assert_eq!(data["network_interfaces"], Value::Null);
        assert_eq!(data["cpuset"]["cpu_exclusive"], json!(0));
        let mut stats = V1Stats::default();
        stats.cpu.user_ns = 5;
        stats.cpu.throttled_ns = 7;
        stats.memory =
            Some(V1Memory { kernel: MemoryEntry { limit: 9, ..MemoryEntry::default() }, ..V1Memory::default() });
        let data = to_json(&Stats::V1(Box::new(stats)), &Placement::default());
        let cpu = json!({ "usage": { "kernel": 0, "user": 5 }, "throttling": { "throttledTime": 7 } });
        assert_eq!(data["cpu"], cpu);
        assert_eq!(data["memory"], json!({ "kernel": { "limit": 9, "failcnt": 0 } }));
    }

    #[test]
    fn swap_of_cgroup_v2_includes_memory_as_in_v1() {
        let memory = V2Memory { usage: 10, usage_limit: 100, swap_usage: 5, swap_limit: 50, ..V2Memory::default() };
        let stats = V2Stats {
            memory,
            pids: Pids { current: 1, limit: u64::MAX },
            io: V2Io {
                usage: vec![IoEntry { major: 8, minor: 0, rbytes: 7, wbytes: 0, rios: 1, wios: 0 }],
                psi: Some(Psi { some: PsiLine { avg10: 0.5, ..PsiLine::default() }, ..Psi::default() }),
            },
            ..V2Stats::default()
        };
        let data = to_json(&Stats::V2(Box::new(stats)), &Placement::default());
        assert_eq!(data["memory"]["swap"], json!({ "limit": 150, "usage": 15, "failcnt": 0 }));
        assert_eq!(data["pids"], json!({ "current": 1 }));
        assert_eq!(data["blkio"]["ioServiceBytesRecursive"][0], json!({ "major": 8, "op": "Read", "value": 7 }));
        assert_eq!(data["blkio"]["psi"]["some"]["avg10"], json!(0.5));
    }
}
