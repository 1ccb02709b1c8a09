//! What an update writes over, so that one that fails leaves nothing of itself: the files are read before the first write,
//! and what has another value afterwards is written back.
//!
//! How a file takes a value and how it shows it differ: those for devices take a line and show all, some show a word that
//! they do not take. [`row`] is that translation, pure. What the kernel shows to nobody cannot be put back.

use super::{
    Cgroup, Driver, Hierarchy, Place,
    dir::Dir,
    systemd,
    write::{Absent, Write},
};
use crate::error::{Error, Result};

/// Directories in which an update writes, each with the place that it is of.
pub(super) type Dirs<'c> = Vec<(&'c Place, Dir)>;

/// The files of an update, as they were.
#[derive(Debug)]
pub struct Before<'c> {
    cgroup: &'c Cgroup,
    dirs: Dirs<'c>,
    rows: Vec<Write>,
    /// systemd has been told of the update.
    told: bool,
}

impl<'c> Before<'c> {
    /// Reads what `writes` are about to change in `dirs`.
    pub(super) fn read(cgroup: &'c Cgroup, dirs: Dirs<'c>, writes: &[Write]) -> Result<Self> {
        let mut before = Self { cgroup, dirs, rows: Vec::with_capacity(writes.len()), told: false };
        for write in writes {
            // A weight is forgotten when a cgroup becomes idle.
            let weight = match (write.file.as_ref(), cgroup.hierarchy) {
                ("cpu.idle", Hierarchy::V1) => Some(Write::new(write.controller, "cpu.shares", "")),
                ("cpu.idle", Hierarchy::V2) => Some(Write::new(write.controller, "cpu.weight", "")),
                _ => None,
            };
            for write in weight.iter().chain([write]) {
                before.remember(write)?;
            }
        }
        Ok(before)
    }

    fn remember(&mut self, write: &Write) -> Result<()> {
        let Some(dir) = self.dir(write.controller) else { return Ok(()) };
        let files = match &write.absent {
            Absent::Instead(file, value) => [Some((write.file.clone(), &write.value)), Some(((*file).into(), value))],
            _ => [Some((write.file.clone(), &write.value)), None],
        };
        for (file, value) in files.into_iter().flatten() {
            // Some can only be written.
            let Some(text) = show(dir, &file)? else { continue };
            let row = Write { file, value: row(&write.file, value, &text), ..write.clone() };
            let known = |old: &Write| old.file == row.file && (old.value == row.value || !is_keyed(&row));
            if !self.rows.iter().any(known) {
                self.rows.push(row);
            }
            break;
        }
        Ok(())
    }

    fn dir(&self, controller: &str) -> Option<&Dir> {
        let of = |(place, _): &&(&Place, Dir)| self.cgroup.hierarchy == Hierarchy::V2 || place.has(controller);
        self.dirs.iter().find(of).map(|(_, dir)| dir)
    }

    /// The directory of a controller, for the update itself.
    pub(super) fn dir_of(&self, controller: &str) -> Option<&Dir> {
        self.dir(controller)
    }

    /// systemd knows of the update from now on.
    pub(super) fn told_systemd(&mut self) {
        self.told = true;
    }

    /// Puts everything back, and returns the error that made it necessary: with a word more where something is in force
    /// that was not there before.
    pub fn put_back(self, cause: Error) -> Error {
        let mut left: Vec<String> = self.rows.iter().rev().filter_map(|row| self.restore(row)).collect();
        if !left.is_empty() {
            // What depends on another file, such as memory and memory with swap, may have come too early.
            left = self.rows.iter().rev().filter_map(|row| self.restore(row)).collect();
        }
        if let (true, Driver::Systemd(unit)) = (self.told, &self.cgroup.driver)
            && let Err(e) = systemd::put_back(unit, self.cgroup, &mut self.rows.clone())
        {
            left.push(e.to_string());
        }
        if left.is_empty() { cause } else { cause.context(format!("not put back: {}", left.join("; "))) }
    }

    /// Writes one file back unless it is as it was; what keeps it from that.
    fn restore(&self, row: &Write) -> Option<String> {
        let dir = self.dir(row.controller)?;
        let now = match show(dir, &row.file) {
            Ok(now) => now?,
            Err(e) => return Some(e.to_string()),
        };
        if self::row(&row.file, &row.value, &now) == row.value {
            return None;
        }
        // The kernel takes no write of nothing at all for one.
        let value = if row.value.is_empty() { "\n" } else { &row.value };
        dir.write(&row.file, value).err().map(|e| e.to_string())
    }
}

/// What a file shows; `None` of one that is not there or shows nothing.
fn show(dir: &Dir, file: &str) -> Result<Option<String>> {
    match dir.read_if_there(file) {
        Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::EACCES | libc::EPERM | libc::EOPNOTSUPP)) => Ok(None),
        shown => shown,
    }
}

/// Files whose lines begin with a name.
const BY_NAME: [&str; 6] = ["rdma.max", "misc.max", "dmem.max", "dmem.low", "dmem.min", "net_prio.ifpriomap"];

/// A row for one line of its file alone: for a device, or something with a name.
fn is_keyed(row: &Write) -> bool {
    key(&row.file, &row.value).is_some()
}

fn key<'v>(file: &str, value: &'v str) -> Option<&'v str> {
    let (key, _) = value.split_once(' ')?;
    (key.contains(':') || BY_NAME.contains(&file)).then_some(key)
}

/// What is to be written to `file` to have again what `text` shows, where `value` is about to change it.
fn row(file: &str, value: &str, text: &str) -> String {
    let text = text.trim_end();
    if let Some(key) = key(file, value) {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        return line.map_or_else(|| nothing(file, key), |line| line.trim_end().to_owned());
    }
    let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    match file {
        "memory.oom_control" => word("oom_kill_disable").unwrap_or("0").to_owned(),
        _ if unlimited(file, text) => "-1".to_owned(),
        _ => word("default").map_or_else(|| text.to_owned(), |value| format!("default {value}")),
    }
}

/// v1 shows the greatest number of whole pages where there is no limit.
fn unlimited(file: &str, text: &str) -> bool {
    const GREATEST: i64 = i64::MAX - 0xffff;
    file.ends_with("limit_in_bytes") && text.parse().is_ok_and(|bytes: i64| bytes >= GREATEST)
}

/// The line that has a key forgotten.
fn nothing(file: &str, key: &str) -> String {
    let nothing = match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        "rdma.max" => "hca_handle=max hca_object=max",
        "misc.max" | "dmem.max" => "max",
        "dmem.low" | "dmem.min" | "net_prio.ifpriomap" => "0",
        file if file.starts_with("blkio.throttle.") => "0",
        _ => "default",
    };
    format!("{key} {nothing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_shows_is_what_it_takes() {
        for (file, value, text, want) in [
            ("pids.max", "5", "max\n", "max"),
            ("cpu.max", "50000 100000", "max 100000\n", "max 100000"),
            ("cpuset.cpus", "0", "\n", ""),
            ("memory.limit_in_bytes", "1", "9223372036854771712\n", "-1"),
            ("memory.limit_in_bytes", "1", "4096\n", "4096"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "0"),
            ("io.weight", "5", "default 100\n8:0 200\n", "default 100"),
            ("io.bfq.weight", "8:0 5", "default 100\n8:0 200\n", "8:0 200"),
            ("io.bfq.weight", "8:16 5", "default 100\n8:0 200\n", "8:16 default"),
            (
                "io.max",
                "8:0 rbps=1",
                "8:0 rbps=2 wbps=max riops=max wiops=max\n",
                "8:0 rbps=2 wbps=max riops=max wiops=max",
            ),
            ("io.max", "8:1 rbps=1", "8:10 rbps=2\n", "8:1 rbps=max wbps=max riops=max wiops=max"),
            ("blkio.throttle.read_bps_device", "8:0 1", "", "8:0 0"),
            ("blkio.throttle.read_bps_device", "8:0 1", "8:0 77\n", "8:0 77"),
            ("rdma.max", "mlx hca_handle=1", "mlx hca_handle=max hca_object=5 \n", "mlx hca_handle=max hca_object=5"),
            ("net_prio.ifpriomap", "lo 5", "lo 0\neth0 3\n", "lo 0"),
        ] {
            assert_eq!(row(file, value, text), want, "{file}: {value} over {text:?}");
            // Once it is written, the file shows it again.
            assert_eq!(row(file, want, text), want, "{file}: {want} over {text:?}");
        }
    }

    #[test]
    fn only_lines_with_a_name_are_apart() {
        assert!(
            is_keyed(&Write::new("io", "io.max", "8:0 rbps=1")) && is_keyed(&Write::new("rdma", "rdma.max", "a x=1"))
        );
        assert!(!is_keyed(&Write::new("cpu", "cpu.max", "1 2")) && !is_keyed(&Write::new("pids", "pids.max", "1")));
    }
}
