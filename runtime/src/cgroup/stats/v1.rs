//! Usage in v1 hierarchies. Times are in ns, memory is in bytes.

use std::fs;

use super::files::{Counters, Pids, Rdma, counters, number, page_sizes, parse_number, pids, rdma, text};
use crate::{
    cgroup::{dir::Dir, location::Cgroup},
    error::Result,
};

/// cpuacct counts in ticks of USER_HZ, which is 100 on every architecture that runs containers.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// The usage in v1 hierarchies. That of a controller which is not mounted is None or zero.
#[derive(Clone, Debug, Default)]
pub struct V1Stats {
    /// An entry for each page size.
    pub hugetlb: Vec<V1Hugetlb>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// CPU time and throttling.
    pub cpu: V1Cpu,
    /// Memory.
    pub memory: Option<V1Memory>,
    /// Block devices.
    pub blkio: Blkio,
    /// RDMA.
    pub rdma: Rdma,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Hugetlb {
    /// The size, such as `2MB`.
    pub page_size: String,
    /// The bytes in use.
    pub usage: u64,
    /// The maximum of the bytes in use.
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// CPU time in ns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Cpu {
    /// The total time.
    pub total_ns: u64,
    /// The time in the kernel.
    pub kernel_ns: u64,
    /// The time in user space.
    pub user_ns: u64,
    /// The time on each CPU.
    pub per_cpu_ns: Vec<u64>,
    /// The number of elapsed quota periods.
    pub periods: u64,
    /// The number of periods in which the quota was used up.
    pub throttled_periods: u64,
    /// The time for which the cgroup was throttled.
    pub throttled_ns: u64,
}

/// One of the memory counters, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// The usage.
    pub usage: u64,
    /// The maximum of the usage.
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Memory.
#[derive(Clone, Debug, Default)]
pub struct V1Memory {
    /// `memory.stat`, with the names of the kernel (`cache`, `total_rss`, `hierarchical_memory_limit`, …).
    pub stat: Counters,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// Memory of the kernel.
    pub kernel: MemoryEntry,
    /// TCP buffers.
    pub kernel_tcp: MemoryEntry,
    /// 1 if the OOM killer is disabled.
    pub oom_kill_disable: u64,
    /// 1 while a process waits for memory.
    pub under_oom: u64,
    /// The number of OOM kills.
    pub oom_kill: u64,
}

/// One number of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`, or empty.
    pub op: String,
    /// `/dev/NAME`; empty if the device is gone.
    pub device: String,
    /// The major number.
    pub major: u64,
    /// The minor number.
    pub minor: u64,
    /// Bytes, requests, ns or sectors.
    pub value: u64,
}

/// Block devices, as far as the I/O scheduler of the host counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkio {
    /// Bytes transferred.
    pub service_bytes: Vec<BlkioEntry>,
    /// Requests.
    pub serviced: Vec<BlkioEntry>,
    /// Requests in the queue.
    pub queued: Vec<BlkioEntry>,
    /// ns between dispatch and completion.
    pub service_time: Vec<BlkioEntry>,
    /// ns in the queue.
    pub wait_time: Vec<BlkioEntry>,
    /// Requests merged.
    pub merged: Vec<BlkioEntry>,
    /// ms of disk time.
    pub time: Vec<BlkioEntry>,
    /// Sectors.
    pub sectors: Vec<BlkioEntry>,
}

/// Reads the files of all controllers.
///
/// # Errors
/// The main directory does not exist; a file cannot be read.
pub(super) fn read(cgroup: &Cgroup) -> Result<V1Stats> {
    // Fails if the cgroup does not exist: this directory must exist, the others may be missing.
    Dir::open(&cgroup.main_place()?.dir)?;
    let open = |controller: &str| cgroup.path_in(controller).map(Dir::open).transpose();
    let mut stats = V1Stats::default();
    if let Some(dir) = open("cpuacct")? {
        usage(&dir, &mut stats.cpu)?;
    }
    if let Some(dir) = open("cpu")? {
        let c = counters(&dir, "cpu.stat")?;
        stats.cpu.periods = c.get("nr_periods");
        stats.cpu.throttled_periods = c.get("nr_throttled");
        stats.cpu.throttled_ns = c.get("throttled_time");
    }
    if let Some(dir) = open("memory")? {
        stats.memory = Some(memory(&dir)?);
    }
    if let Some(dir) = open("pids")? {
        stats.pids = Some(pids(&dir)?);
    }
    if let Some(dir) = open("blkio")? {
        stats.blkio = blkio(&dir)?;
    }
    if let Some(dir) = open("hugetlb")? {
        stats.hugetlb = page_sizes().iter().map(|size| hugetlb(&dir, size)).collect::<Result<_>>()?;
    }
    if let Some(dir) = open("rdma")? {
        stats.rdma = rdma(&dir)?;
    }
    Ok(stats)
}

fn usage(dir: &Dir, cpu: &mut V1Cpu) -> Result<()> {
    let c = counters(dir, "cpuacct.stat")?;
    cpu.total_ns = number(dir, "cpuacct.usage")?;
    cpu.user_ns = c.get("user").saturating_mul(TICK_NS);
    cpu.kernel_ns = c.get("system").saturating_mul(TICK_NS);
    cpu.per_cpu_ns = text(dir, "cpuacct.usage_percpu")?.split_whitespace().map(parse_number).collect();
    Ok(())
}

fn memory(dir: &Dir) -> Result<V1Memory> {
    let entry = |module: &str| -> Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: number(dir, &format!("memory{module}.limit_in_bytes"))?,
            usage: number(dir, &format!("memory{module}.usage_in_bytes"))?,
            max: number(dir, &format!("memory{module}.max_usage_in_bytes"))?,
            failcnt: number(dir, &format!("memory{module}.failcnt"))?,
        })
    };
    let oom = counters(dir, "memory.oom_control")?;
    Ok(V1Memory {
        stat: counters(dir, "memory.stat")?,
        usage: entry("")?,
        swap: entry(".memsw")?,
        kernel: entry(".kmem")?,
        kernel_tcp: entry(".kmem.tcp")?,
        oom_kill_disable: oom.get("oom_kill_disable"),
        under_oom: oom.get("under_oom"),
        oom_kill: oom.get("oom_kill"),
    })
}

fn hugetlb(dir: &Dir, size: &str) -> Result<V1Hugetlb> {
    Ok(V1Hugetlb {
        page_size: size.to_owned(),
        usage: number(dir, &format!("hugetlb.{size}.usage_in_bytes"))?,
        max: number(dir, &format!("hugetlb.{size}.max_usage_in_bytes"))?,
        failcnt: number(dir, &format!("hugetlb.{size}.failcnt"))?,
    })
}

/// Reads the files of CFQ (before Linux 5.0), BFQ or the throttler, whichever is the first with a count.
fn blkio(dir: &Dir) -> Result<Blkio> {
    for prefix in ["blkio", "blkio.bfq", "blkio.throttle"] {
        let entries = |name: &str| text(dir, &format!("{prefix}.{name}_recursive")).map(|t| parse_blkio(&t));
        let (service_bytes, serviced) = (entries("io_service_bytes")?, entries("io_serviced")?);
        if service_bytes.is_empty() && serviced.is_empty() {
            continue;
        }
        return Ok(Blkio {
            service_bytes,
            serviced,
            queued: entries("io_queued")?,
            service_time: entries("io_service_time")?,
            wait_time: entries("io_wait_time")?,
            merged: entries("io_merged")?,
            time: entries("time")?,
            sectors: entries("sectors")?,
        });
    }
    Ok(Blkio::default())
}

/// Parses lines `8:0 Read 4096` and `8:0 12`. The line `Total 4096`, a sum, is left out.
pub(super) fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let (major, minor, op, value) = match words.as_slice() {
            [major, minor, op, value] => (*major, *minor, *op, *value),
            [major, minor, value] => (*major, *minor, "", *value),
            _ => return None,
        };
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let device = device_name(major, minor);
        Some(BlkioEntry { op: op.to_owned(), device, major, minor, value: value.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

fn device_name(major: u64, minor: u64) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    link.file_name().map(|n| format!("/dev/{}", n.to_string_lossy())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkio_lines_are_parsed_without_the_total() {
        let rows = parse_blkio("4095:7 Read 100\n4095:7 5\nTotal 105\n\n");
        let entry = |op: &str, value| BlkioEntry { op: op.into(), device: String::new(), major: 4095, minor: 7, value };
        assert_eq!(rows, [entry("Read", 100), entry("", 5)]);
    }
}
