//! The forms of files that v1 and v2 share, and their readers. A file that does not exist reads as zero.

use std::{fs, sync::OnceLock};

use crate::{cgroup::dir::Dir, error::Result};

/// The number of processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// The present number.
    pub current: u64,
    /// The limit; `u64::MAX` means none.
    pub limit: u64,
}

/// RDMA resources of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// The name of the device.
    pub device: String,
    /// HCA handles; as a limit `u32::MAX` means none.
    pub hca_handles: u32,
    /// HCA objects; as a limit `u32::MAX` means none.
    pub hca_objects: u32,
}

/// RDMA usage and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// The usage of each device.
    pub current: Vec<RdmaEntry>,
    /// The limits of each device.
    pub limit: Vec<RdmaEntry>,
}

/// A file of lines `name number`, such as `memory.stat`, with all lines that this kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(String, u64)>);

impl Counters {
    /// The number with this name; 0 if this kernel has none.
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
    }

    /// All names and numbers, in the order of the kernel.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }

    pub(super) fn parse(text: &str) -> Self {
        let pair = |line: &str| line.split_once(' ').and_then(|(n, v)| Some((n.to_owned(), v.trim().parse().ok()?)));
        Self(text.lines().filter_map(pair).collect())
    }
}

/// The content of `file`; empty if this kernel does not have it. Pressure files fail with EOPNOTSUPP if PSI is disabled.
///
/// # Errors
/// Names the file.
pub(super) fn text(dir: &Dir, file: &str) -> Result<String> {
    match dir.read(file) {
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(String::new()),
        read => read,
    }
}

/// Reads a file of lines `name number`.
///
/// # Errors
/// Names the file.
pub(super) fn counters(dir: &Dir, file: &str) -> Result<Counters> {
    text(dir, file).map(|t| Counters::parse(&t))
}

/// Reads a file with one number, or `max`.
///
/// # Errors
/// Names the file.
pub(super) fn number(dir: &Dir, file: &str) -> Result<u64> {
    text(dir, file).map(|t| parse_number(&t))
}

/// Parses a number, or `max` as `u64::MAX`. Any other text is 0.
pub(super) fn parse_number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        t => t.parse().unwrap_or(0),
    }
}

/// Reads the files of the pids controller.
///
/// # Errors
/// Names the file.
pub(super) fn pids(dir: &Dir) -> Result<Pids> {
    Ok(Pids { current: number(dir, "pids.current")?, limit: number(dir, "pids.max")? })
}

/// Reads the files of the rdma controller.
///
/// # Errors
/// Names the file.
pub(super) fn rdma(dir: &Dir) -> Result<Rdma> {
    let entries = |file| text(dir, file).map(|t| parse_rdma(&t));
    Ok(Rdma { current: entries("rdma.current")?, limit: entries("rdma.max")? })
}

/// Parses lines `mlx5_0 hca_handle=2 hca_object=max`.
pub(super) fn parse_rdma(text: &str) -> Vec<RdmaEntry> {
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

/// The sizes of huge pages of the host, as the names of cgroup files have them (`2MB`). They are read once.
pub(super) fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut kb: Vec<u64> = entries.filter_map(|e| page_size(e.file_name().to_str()?)).collect();
        kb.sort_unstable();
        kb.into_iter().map(page_name).collect()
    })
}

/// Reads the size in kB from `hugepages-2048kB`.
fn page_size(name: &str) -> Option<u64> {
    name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

/// The name of a size, as in mm/hugetlb_cgroup.c.
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
    fn counters_skip_malformed_lines() {
        let c = Counters::parse("cache 10\nhierarchical_memory_limit 9223372036854771712\nodd\nbad x\n");
        assert_eq!((c.get("cache"), c.get("hierarchical_memory_limit")), (10, 9_223_372_036_854_771_712));
        assert_eq!((c.get("odd"), c.get("bad"), c.iter().count()), (0, 0, 2));
    }

    #[test]
    fn max_is_parsed_as_the_greatest_number() {
        assert_eq!((parse_number("max\n"), parse_number("5\n"), parse_number("")), (u64::MAX, 5, 0));
    }

    #[test]
    fn rdma_lines_are_parsed() {
        let want = RdmaEntry { device: "mlx5_0".into(), hca_handles: 2, hca_objects: u32::MAX };
        assert_eq!(parse_rdma("mlx5_0 hca_handle=2 hca_object=max\n"), [want]);
    }

    #[test]
    fn page_sizes_have_the_names_of_the_kernel() {
        let rows = [("hugepages-64kB", "64KB"), ("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB")];
        for (file, name) in rows {
            assert_eq!(page_size(file).map(page_name).as_deref(), Some(name));
        }
        assert_eq!(page_size("other"), None);
    }
}
