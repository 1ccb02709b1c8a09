//! Numbers of the v1 hierarchies. Times are ns, memory is bytes.

use std::fs;

use super::{Counters, Pids, Rdma, counters, number, page_sizes, parse_number, pids, rdma, text};
use crate::{
    cgroup::{Cgroup, dir::Dir},
    error::Result,
};

/// cpuacct counts in ticks of the kernel's ABI, 100 a second on every architecture that runs containers.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// A cgroup in v1 hierarchies. A controller that is not mounted is None or zero.
#[derive(Clone, Debug, Default)]
pub struct V1Stats {
    /// One entry a page size.
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
    /// `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// CPU time in ns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Cpu {
    /// All.
    pub total_ns: u64,
    /// In the kernel.
    pub kernel_ns: u64,
    /// In user space.
    pub user_ns: u64,
    /// By CPU.
    pub per_cpu_ns: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// How long it was kept from running.
    pub throttled_ns: u64,
}

/// One of the memory counters, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    /// What is allowed.
    pub limit: u64,
    /// What is used.
    pub usage: u64,
    /// The most that was used.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory.
#[derive(Clone, Debug, Default)]
pub struct V1Memory {
    /// `memory.stat` in the kernel's words (`cache`, `total_rss`, `hierarchical_memory_limit`, …).
    pub stat: Counters,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// The kernel's own.
    pub kernel: MemoryEntry,
    /// TCP buffers.
    pub kernel_tcp: MemoryEntry,
    /// 1 when the OOM killer is switched off.
    pub oom_kill_disable: u64,
    /// 1 while somebody waits for memory.
    pub under_oom: u64,
    /// How many processes have been OOM killed.
    pub oom_kill: u64,
}

/// One number of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`, or empty.
    pub op: String,
    /// `/dev/NAME`, empty when the device is gone.
    pub device: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes, requests, ns or sectors.
    pub value: u64,
}

/// Block devices, as far as the machine's IO scheduler counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkio {
    /// Bytes.
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

pub(super) fn read(cgroup: &Cgroup) -> Result<V1Stats> {
    // The one that is asked for existence; the others may be missing, this not.
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

/// CFQ's files (before 5.0), BFQ's, the throttler's: the first that has counted anything.
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

/// `8:0 Read 4096`, `8:0 12`; the line `Total 4096` sums up and is left out.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
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
    fn blkio_lines() {
        let rows = parse_blkio("4095:7 Read 100\n4095:7 5\nTotal 105\n\n");
        let entry = |op: &str, value| BlkioEntry { op: op.into(), device: String::new(), major: 4095, minor: 7, value };
        assert_eq!(rows, [entry("Read", 100), entry("", 5)]);
    }
}
