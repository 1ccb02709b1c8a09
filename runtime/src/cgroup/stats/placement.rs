//! CPUs and memory nodes of a v1 cgroup, its time on each CPU, and reserved huge pages. Only the command `events` shows these
//! numbers; they are read separately so that containerd's metrics do not pay for them.

use std::collections::BTreeMap;

use super::files::{number, page_sizes, parse_number, text};
use crate::{
    cgroup::{
        dir::Dir,
        location::{Cgroup, Hierarchy},
    },
    error::{Error, Result},
};

/// The files of the v1 cpuset controller (cpusets.rst), `cpuacct.usage_all`, and the reservations of hugetlb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The CPUs.
    pub cpus: Vec<u16>,
    /// The memory nodes.
    pub mems: Vec<u16>,
    /// 1 if no sibling may use these CPUs.
    pub cpu_exclusive: u64,
    /// 1 if the memory nodes also bind allocations of the kernel.
    pub mem_hardwall: u64,
    /// 1 if no sibling may use these memory nodes.
    pub mem_exclusive: u64,
    /// 1 if pages move when the memory nodes change.
    pub memory_migrate: u64,
    /// 1 if the page cache is spread over the memory nodes.
    pub memory_spread_page: u64,
    /// 1 if slabs are spread over the memory nodes.
    pub memory_spread_slab: u64,
    /// The rate of direct reclaims per second, times 1000.
    pub memory_pressure: u64,
    /// 1 if the scheduler balances the load over these CPUs.
    pub sched_load_balance: u64,
    /// The search range of the load balancer; -1 means the default of the kernel.
    pub sched_relax_domain_level: i64,
    /// Time in the kernel on each CPU, in ns.
    pub kernel_ns: Vec<u64>,
    /// Time in user space on each CPU, in ns.
    pub user_ns: Vec<u64>,
    /// Bytes of huge pages that mmap(2) has reserved, by page size (`2MB`). Empty before Linux 5.7, which does not count them.
    pub reserved: BTreeMap<String, u64>,
}

/// Reads the files. v2 has only those of reserved huge pages.
///
/// # Errors
/// A file is malformed or cannot be read.
pub(super) fn read(cgroup: &Cgroup) -> Result<Placement> {
    let mut placement = Placement::default();
    let v2 = cgroup.hierarchy() == Hierarchy::V2;
    if let Some(dir) = cgroup.path_in("hugetlb").map(Dir::open).transpose()? {
        placement.reserved = reserved(&dir, if v2 { "current" } else { "usage_in_bytes" })?;
    }
    if v2 {
        return Ok(placement);
    }
    if let Some(dir) = cgroup.path_in("cpuset").map(Dir::open).transpose()? {
        let list = |name: &str| -> Result<Vec<u16>> {
            let file = format!("cpuset.{name}");
            let text = text(&dir, &file)?;
            numbers(text.trim())
                .ok_or_else(|| Error::invalid(format!("{file}: {:?} is no list of numbers", text.trim())))
        };
        let flag = |name: &str| number(&dir, &format!("cpuset.{name}"));
        placement.cpus = list("cpus")?;
        placement.mems = list("mems")?;
        placement.cpu_exclusive = flag("cpu_exclusive")?;
        placement.mem_hardwall = flag("mem_hardwall")?;
        placement.mem_exclusive = flag("mem_exclusive")?;
        placement.memory_migrate = flag("memory_migrate")?;
        placement.memory_spread_page = flag("memory_spread_page")?;
        placement.memory_spread_slab = flag("memory_spread_slab")?;
        placement.memory_pressure = flag("memory_pressure")?;
        placement.sched_load_balance = flag("sched_load_balance")?;
        let level = text(&dir, "cpuset.sched_relax_domain_level")?;
        placement.sched_relax_domain_level = level.trim().parse().unwrap_or(0);
    }
    if let Some(dir) = cgroup.path_in("cpuacct").map(Dir::open).transpose()? {
        (placement.user_ns, placement.kernel_ns) = modes(&text(&dir, "cpuacct.usage_all")?);
    }
    Ok(placement)
}

fn reserved(dir: &Dir, what: &str) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for size in page_sizes() {
        if let Some(text) = dir.read_if_there(&format!("hugetlb.{size}.rsvd.{what}"))? {
            all.insert(size.clone(), parse_number(&text));
        }
    }
    Ok(all)
}

/// Parses a list like `0-2,7`. None if it is malformed.
fn numbers(text: &str) -> Option<Vec<u16>> {
    let mut all = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
        if from > to {
            return None;
        }
        all.extend(from..=to);
    }
    Some(all)
}

/// Parses `cpuacct.usage_all`: a header `cpu user system` and a line for each CPU, in ns.
fn modes(text: &str) -> (Vec<u64>, Vec<u64>) {
    let line = |line: &str| -> Option<(u64, u64)> {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(line).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_huge_pages_are_read_by_size() {
        let path = std::env::temp_dir().join(format!("berth-huge-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let dir = Dir::open(&path).unwrap();
        let none = reserved(&dir, "current").unwrap();
        for size in page_sizes() {
            std::fs::write(path.join(format!("hugetlb.{size}.rsvd.current")), "4194304\n").unwrap();
        }
        let all = reserved(&dir, "current").unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        assert!(none.is_empty());
        assert_eq!(all, page_sizes().iter().map(|size| (size.clone(), 4_194_304)).collect());
    }

    #[test]
    fn lists_of_numbers_are_parsed() {
        assert_eq!(numbers("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(numbers(""), Some(vec![]));
        for bad in ["2-1", "x", "1-", "70000"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }

    #[test]
    fn user_and_system_time_are_read_for_each_cpu() {
        assert_eq!(modes("cpu user system\n0 5 6\n1 7 8\n"), (vec![5, 7], vec![6, 8]));
        assert_eq!(modes(""), (vec![], vec![]));
    }
}
