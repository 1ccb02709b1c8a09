//! Usage in the unified hierarchy. Times are in µs, memory is in bytes.

use super::files::{Counters, Pids, Rdma, counters, number, page_sizes, parse_number, pids, rdma, text};
use crate::{cgroup::dir::Dir, error::Result};

/// The usage in the unified hierarchy. That of a controller which is not enabled is None or zero.
#[derive(Clone, Debug, Default)]
pub struct V2Stats {
    /// Processes and threads.
    pub pids: Pids,
    /// CPU.
    pub cpu: V2Cpu,
    /// Memory.
    pub memory: V2Memory,
    /// Memory events; None without the memory controller.
    pub memory_events: Option<MemoryEvents>,
    /// Block devices.
    pub io: V2Io,
    /// RDMA.
    pub rdma: Rdma,
    /// An entry for each page size.
    pub hugetlb: Vec<V2Hugetlb>,
}

/// A line of a pressure file: the share of time in which some or all tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiLine {
    /// Per cent of the last 10 s.
    pub avg10: f64,
    /// Per cent of the last 60 s.
    pub avg60: f64,
    /// Per cent of the last 300 s.
    pub avg300: f64,
    /// The total time in µs.
    pub total: u64,
}

/// Pressure stall information (kernel documentation, accounting/psi).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited.
    pub full: PsiLine,
}

/// CPU.
#[derive(Clone, Debug, Default)]
pub struct V2Cpu {
    /// `cpu.stat`, with the names of the kernel (`usage_usec`, `nr_throttled`, …).
    pub stat: Counters,
    /// Pressure; None if the kernel does not record it.
    pub psi: Option<Psi>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default)]
pub struct V2Memory {
    /// `memory.stat`, with the names of the kernel (`anon`, `inactive_file`, `pgfault`, …).
    pub stat: Counters,
    /// The usage.
    pub usage: u64,
    /// The limit; `u64::MAX` means none.
    pub usage_limit: u64,
    /// The maximum of the usage (Linux 5.19 and newer).
    pub max_usage: u64,
    /// The usage of swap.
    pub swap_usage: u64,
    /// The limit of swap; `u64::MAX` means none.
    pub swap_limit: u64,
    /// The maximum of the usage of swap (Linux 6.5 and newer).
    pub swap_max_usage: u64,
    /// Pressure; None if the kernel does not record it.
    pub psi: Option<Psi>,
}

/// `memory.events`: the number of events in this cgroup and below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Memory was reclaimed although the usage was below `memory.low`.
    pub low: u64,
    /// Processes were throttled because the usage was above `memory.high`.
    pub high: u64,
    /// The usage was about to exceed `memory.max`.
    pub max: u64,
    /// The usage was at the limit and an allocation was about to fail.
    pub oom: u64,
    /// Processes were killed.
    pub oom_kill: u64,
    /// Whole groups of processes were killed.
    pub oom_group_kill: u64,
}

/// One block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// The major number.
    pub major: u64,
    /// The minor number.
    pub minor: u64,
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// The number of reads.
    pub rios: u64,
    /// The number of writes.
    pub wios: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default)]
pub struct V2Io {
    /// The usage of each device.
    pub usage: Vec<IoEntry>,
    /// Pressure; None if the kernel does not record it.
    pub psi: Option<Psi>,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V2Hugetlb {
    /// The size, such as `2MB`.
    pub page_size: String,
    /// The usage.
    pub current: u64,
    /// The limit; `u64::MAX` means none.
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Reads the files of all controllers.
///
/// # Errors
/// A file cannot be read.
pub(super) fn read(dir: &Dir) -> Result<V2Stats> {
    Ok(V2Stats {
        pids: pids(dir)?,
        cpu: V2Cpu { stat: counters(dir, "cpu.stat")?, psi: psi(dir, "cpu.pressure")? },
        memory: memory(dir)?,
        memory_events: parse_events(&text(dir, "memory.events")?),
        io: V2Io { usage: parse_io(&text(dir, "io.stat")?), psi: psi(dir, "io.pressure")? },
        rdma: rdma(dir)?,
        hugetlb: hugetlb(dir)?,
    })
}

fn memory(dir: &Dir) -> Result<V2Memory> {
    let stat = counters(dir, "memory.stat")?;
    if stat == Counters::default() {
        return Ok(V2Memory::default());
    }
    Ok(V2Memory {
        stat,
        usage: number(dir, "memory.current")?,
        usage_limit: number(dir, "memory.max")?,
        max_usage: number(dir, "memory.peak")?,
        swap_usage: number(dir, "memory.swap.current")?,
        swap_limit: number(dir, "memory.swap.max")?,
        swap_max_usage: number(dir, "memory.swap.peak")?,
        psi: psi(dir, "memory.pressure")?,
    })
}

fn hugetlb(dir: &Dir) -> Result<Vec<V2Hugetlb>> {
    let mut out = Vec::new();
    for size in page_sizes() {
        // Without the controller there are no such files.
        let Some(current) = dir.read_if_there(&format!("hugetlb.{size}.current"))? else { continue };
        out.push(V2Hugetlb {
            page_size: size.clone(),
            current: parse_number(&current),
            max: number(dir, &format!("hugetlb.{size}.max"))?,
            failcnt: counters(dir, &format!("hugetlb.{size}.events"))?.get("max"),
        });
    }
    Ok(out)
}

fn psi(dir: &Dir, file: &str) -> Result<Option<Psi>> {
    text(dir, file).map(|t| parse_psi(&t))
}

/// Parses the lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full …`.
pub(super) fn parse_psi(text: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let into = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => into.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => into.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => into.avg300 = value.parse().unwrap_or(0.0),
                "total" => into.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    (!text.is_empty()).then_some(psi)
}

fn parse_events(text: &str) -> Option<MemoryEvents> {
    let c = Counters::parse(text);
    (!text.is_empty()).then(|| MemoryEvents {
        low: c.get("low"),
        high: c.get("high"),
        max: c.get("max"),
        oom: c.get("oom"),
        oom_kill: c.get("oom_kill"),
        oom_group_kill: c.get("oom_group_kill"),
    })
}

/// Parses lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(super) fn parse_io(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_lines_are_parsed() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n";
        let psi = parse_psi(text).unwrap();
        assert_eq!(psi.some, PsiLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 42 });
        assert_eq!((psi.full.avg10, psi.full.total), (0.1, 7));
        assert_eq!(parse_psi(""), None);
    }

    #[test]
    fn io_lines_are_parsed() {
        let rows = parse_io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nfoo\n252:16 \n");
        assert_eq!(rows[0], IoEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 });
        assert_eq!((rows.len(), rows[1].major), (2, 252));
    }

    #[test]
    fn memory_events_are_parsed() {
        let e = parse_events("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n").unwrap();
        assert_eq!((e.high, e.max, e.oom, e.oom_kill, e.oom_group_kill), (1, 2, 3, 4, 5));
        assert_eq!(parse_events(""), None);
    }
}
