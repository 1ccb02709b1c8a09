//! What a cgroup has used: plain numbers as the kernel gives them, v1 and v2 apart because they count differently
//! (ns and µs, memory with and without swap). Making protobuf or JSON of them is left to the front doors.
//!
//! A file that the kernel or the controller does not have reads as zero; a cgroup that is gone is [`Kind::NotFound`].

mod placement;
mod v1;
mod v2;

use std::{fs, sync::OnceLock};

pub use placement::Placement;
pub use v1::{Blkio, BlkioEntry, MemoryEntry, V1Cpu, V1Hugetlb, V1Memory, V1Stats};
pub use v2::{IoEntry, MemoryEvents, Psi, PsiLine, V2Cpu, V2Hugetlb, V2Io, V2Memory, V2Stats};

use super::{
    Cgroup, Hierarchy,
    dir::{Dir, gone},
};
use crate::error::{Error, Kind, Result};

/// The numbers of one cgroup at one moment.
#[derive(Clone, Debug)]
pub enum Stats {
    /// From v1 hierarchies; what `io.containerd.cgroups.v1.Metrics` holds.
    V1(Box<V1Stats>),
    /// From the unified hierarchy; what `io.containerd.cgroups.v2.Metrics` holds.
    V2(Box<V2Stats>),
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; `u64::MAX` is no limit.
    pub limit: u64,
}

/// RDMA resources of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// The device's name.
    pub device: String,
    /// HCA handles; `u32::MAX` is no limit.
    pub hca_handles: u32,
    /// HCA objects; `u32::MAX` is no limit.
    pub hca_objects: u32,
}

/// RDMA use and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Allowed.
    pub limit: Vec<RdmaEntry>,
}

/// A file of `name number` lines, such as `memory.stat`, with all that this kernel has in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(String, u64)>);

impl Counters {
    /// The number called `name`; 0 when this kernel has none.
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
    }

    /// All of them, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }

    fn parse(text: &str) -> Self {
        let pair = |line: &str| line.split_once(' ').and_then(|(n, v)| Some((n.to_owned(), v.trim().parse().ok()?)));
        Self(text.lines().filter_map(pair).collect())
    }
}

/// See [`Cgroup::stats`].
pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    let stats = match cgroup.hierarchy() {
        // Nothing is counted where nothing could be made.
        Hierarchy::V1 if !cgroup.is_any() => return Ok(Stats::V1(Box::default())),
        Hierarchy::V2 if !cgroup.is_any() => return Ok(Stats::V2(Box::default())),
        Hierarchy::V1 => v1::read(cgroup).map(|s| Stats::V1(Box::new(s))),
        Hierarchy::V2 => {
            Dir::open(&cgroup.main_place()?.dir).and_then(|d| v2::read(&d)).map(|s| Stats::V2(Box::new(s)))
        }
    };
    stats.map_err(missing)
}

/// See [`Cgroup::placement`].
pub(super) fn read_placement(cgroup: &Cgroup) -> Result<Placement> {
    placement::read(cgroup).map_err(missing)
}

fn missing(e: Error) -> Error {
    if gone(&e) { e.with_kind(Kind::NotFound) } else { e }
}

/// The whole of `file`, empty when this kernel does not have it. PSI that is compiled in but switched off says
/// EOPNOTSUPP.
fn text(dir: &Dir, file: &str) -> Result<String> {
    match dir.read(file) {
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(String::new()),
        read => read,
    }
}

fn counters(dir: &Dir, file: &str) -> Result<Counters> {
    text(dir, file).map(|t| Counters::parse(&t))
}

/// A file with one number, or `max`.
fn number(dir: &Dir, file: &str) -> Result<u64> {
    text(dir, file).map(|t| parse_number(&t))
}

fn parse_number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        t => t.parse().unwrap_or(0),
    }
}

fn pids(dir: &Dir) -> Result<Pids> {
    Ok(Pids { current: number(dir, "pids.current")?, limit: number(dir, "pids.max")? })
}

fn rdma(dir: &Dir) -> Result<Rdma> {
    let entries = |file| text(dir, file).map(|t| parse_rdma(&t));
    Ok(Rdma { current: entries("rdma.current")?, limit: entries("rdma.max")? })
}

/// `mlx5_0 hca_handle=2 hca_object=max`
fn parse_rdma(text: &str) -> Vec<RdmaEntry> {
    let value = |v: &str| if v == "max" { u32::MAX } else { v.parse().unwrap_or(0) };
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mut entry = RdmaEntry { device: words.next()?.to_owned(), ..RdmaEntry::default() };
        for (key, v) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "hca_handle" => entry.hca_handles = value(v),
                "hca_object" => entry.hca_objects = value(v),
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// The page sizes of this machine as cgroup files spell them (`2MB`); read once.
fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut kb: Vec<u64> = entries.filter_map(|e| page_size(e.file_name().to_str()?)).collect();
        kb.sort_unstable();
        kb.into_iter().map(page_name).collect()
    })
}

/// `hugepages-2048kB`, in kB.
fn page_size(name: &str) -> Option<u64> {
    name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

/// As mm/hugetlb_cgroup.c spells a size.
fn page_name(kb: u64) -> String {
    match kb {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_all_and_forgive_the_unknown() {
        let c = Counters::parse("cache 10\nhierarchical_memory_limit 9223372036854771712\nodd\nbad x\n");
        assert_eq!((c.get("cache"), c.get("hierarchical_memory_limit")), (10, 9_223_372_036_854_771_712));
        assert_eq!((c.get("odd"), c.get("bad"), c.iter().count()), (0, 0, 2));
    }

    #[test]
    fn numbers() {
        assert_eq!((parse_number("max\n"), parse_number("5\n"), parse_number("")), (u64::MAX, 5, 0));
    }

    #[test]
    fn rdma_lines() {
        let want = RdmaEntry { device: "mlx5_0".into(), hca_handles: 2, hca_objects: u32::MAX };
        assert_eq!(parse_rdma("mlx5_0 hca_handle=2 hca_object=max\n"), [want]);
    }

    #[test]
    fn page_sizes_as_the_kernel_names_them() {
        let rows = [("hugepages-64kB", "64KB"), ("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB")];
        for (file, name) in rows {
            assert_eq!(page_size(file).map(page_name).as_deref(), Some(name));
        }
        assert_eq!(page_size("other"), None);
    }
}
