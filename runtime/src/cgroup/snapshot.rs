//! The limits before an update, so that a failed update changes nothing: the files are read before the first write, and
//! written back if they have another value afterwards.
//!
//! Some files show a value in another form than they take it: files about devices take one line and show all, others show a
//! word that they refuse. [`row_to_restore`] translates, without side effects. A file that cannot be read is not restored.

use super::{
    dir::Dir,
    location::{Cgroup, Driver, Hierarchy, Place},
    row::{Absent, Row},
    systemd::scope,
};
use crate::error::{Error, Result};

/// The directories that an update writes to, each with its place.
pub(super) type Dirs<'c> = Vec<(&'c Place, Dir)>;

/// The limits before an update. Dropping it accepts the update; [`Snapshot::roll_back`] undoes it.
#[derive(Debug)]
pub struct Snapshot<'c> {
    cgroup: &'c Cgroup,
    dirs: Dirs<'c>,
    rows: Vec<Row>,
    /// The update changed the properties of the unit.
    systemd_changed: bool,
}

impl<'c> Snapshot<'c> {
    /// Reads the values in `dirs` that `rows` will change.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub(super) fn take(cgroup: &'c Cgroup, dirs: Dirs<'c>, rows: &[Row]) -> Result<Self> {
        let mut snapshot = Self { cgroup, dirs, rows: Vec::with_capacity(rows.len()), systemd_changed: false };
        for row in rows {
            // The kernel forgets the weight of a cgroup that becomes idle.
            let weight = match (row.file.as_ref(), cgroup.hierarchy) {
                ("cpu.idle", Hierarchy::V1) => Some(Row::new(row.controller, "cpu.shares", "")),
                ("cpu.idle", Hierarchy::V2) => Some(Row::new(row.controller, "cpu.weight", "")),
                _ => None,
            };
            for row in weight.iter().chain([row]) {
                snapshot.remember(row)?;
            }
        }
        Ok(snapshot)
    }

    fn remember(&mut self, new: &Row) -> Result<()> {
        let Some(dir) = self.dir_of(new.controller) else { return Ok(()) };
        let files = match &new.absent {
            Absent::Instead(file, value) => [Some((new.file.clone(), &new.value)), Some(((*file).into(), value))],
            _ => [Some((new.file.clone(), &new.value)), None],
        };
        for (file, value) in files.into_iter().flatten() {
            // Some files can only be written.
            let Some(text) = show(dir, &file)? else { continue };
            let row = Row { file, value: row_to_restore(&new.file, value, &text), ..new.clone() };
            let known = |old: &Row| old.file == row.file && (old.value == row.value || !is_keyed(&row));
            if !self.rows.iter().any(known) {
                self.rows.push(row);
            }
            break;
        }
        Ok(())
    }

    /// The opened directory of a controller.
    pub(super) fn dir_of(&self, controller: &str) -> Option<&Dir> {
        let of = |(place, _): &&(&Place, Dir)| self.cgroup.hierarchy == Hierarchy::V2 || place.has(controller);
        self.dirs.iter().find(of).map(|(_, dir)| dir)
    }

    /// Notes that the properties of the unit have been changed and must be restored as well.
    pub(super) fn systemd_was_changed(&mut self) {
        self.systemd_changed = true;
    }

    /// Restores all limits and returns `cause`. If a limit cannot be restored, the error says so.
    pub fn roll_back(self, cause: Error) -> Error {
        let mut left: Vec<String> = self.rows.iter().rev().filter_map(|row| self.restore(row)).collect();
        if !left.is_empty() {
            // The kernel checks some files against each other (memory, and memory with swap): the second pass sets those that
            // came too early.
            left = self.rows.iter().rev().filter_map(|row| self.restore(row)).collect();
        }
        if let (true, Driver::Systemd(unit)) = (self.systemd_changed, &self.cgroup.driver)
            && let Err(e) = scope::restore(unit, self.cgroup, &mut self.rows.clone())
        {
            left.push(e.to_string());
        }
        if left.is_empty() { cause } else { cause.context(format!("not put back: {}", left.join("; "))) }
    }

    /// Writes one file back if its value has changed; returns the error text.
    fn restore(&self, row: &Row) -> Option<String> {
        let dir = self.dir_of(row.controller)?;
        let now = match show(dir, &row.file) {
            Ok(now) => now?,
            Err(e) => return Some(e.to_string()),
        };
        if row_to_restore(&row.file, &row.value, &now) == row.value {
            return None;
        }
        // A write of 0 bytes does not reach the kernel's file.
        let value = if row.value.is_empty() { "\n" } else { &row.value };
        dir.write(&row.file, value).err().map(|e| e.to_string())
    }
}

/// The content of a file; `None` if the file does not exist or cannot be read.
fn show(dir: &Dir, file: &str) -> Result<Option<String>> {
    match dir.read_if_there(file) {
        Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::EACCES | libc::EPERM | libc::EOPNOTSUPP)) => Ok(None),
        shown => shown,
    }
}

/// Files whose lines begin with a name.
const KEYED_BY_NAME: [&str; 6] = ["rdma.max", "misc.max", "dmem.max", "dmem.low", "dmem.min", "net_prio.ifpriomap"];

/// Whether a row sets only one line of its file: for a device or a name.
fn is_keyed(row: &Row) -> bool {
    key(&row.file, &row.value).is_some()
}

/// The device or name that a value is for.
fn key<'v>(file: &str, value: &'v str) -> Option<&'v str> {
    let (key, _) = value.split_once(' ')?;
    (key.contains(':') || KEYED_BY_NAME.contains(&file)).then_some(key)
}

/// The value to write to `file` so that it shows `text` again after `value` was written.
fn row_to_restore(file: &str, value: &str, text: &str) -> String {
    let text = text.trim_end();
    if let Some(key) = key(file, value) {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        return line.map_or_else(|| no_limit(file, key), |line| line.trim_end().to_owned());
    }
    let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    match file {
        "memory.oom_control" => word("oom_kill_disable").unwrap_or("0").to_owned(),
        _ if unlimited(file, text) => "-1".to_owned(),
        _ => word("default").map_or_else(|| text.to_owned(), |value| format!("default {value}")),
    }
}

/// Whether a v1 file shows no limit: the kernel shows the greatest number of whole pages.
fn unlimited(file: &str, text: &str) -> bool {
    const GREATEST: i64 = i64::MAX - 0xffff;
    file.ends_with("limit_in_bytes") && text.parse().is_ok_and(|bytes: i64| bytes >= GREATEST)
}

/// The line that removes the limit of `key`.
fn no_limit(file: &str, key: &str) -> String {
    let value = match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        "rdma.max" => "hca_handle=max hca_object=max",
        "misc.max" | "dmem.max" => "max",
        "dmem.low" | "dmem.min" | "net_prio.ifpriomap" => "0",
        file if file.starts_with("blkio.throttle.") => "0",
        _ => "default",
    };
    format!("{key} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_value_becomes_a_value_that_restores_it() {
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
            assert_eq!(row_to_restore(file, value, text), want, "{file}: {value} over {text:?}");
            // The restored value must not look changed.
            assert_eq!(row_to_restore(file, want, text), want, "{file}: {want} over {text:?}");
        }
    }

    #[test]
    fn rows_for_a_device_or_a_name_are_keyed() {
        assert!(is_keyed(&Row::new("io", "io.max", "8:0 rbps=1")) && is_keyed(&Row::new("rdma", "rdma.max", "a x=1")));
        assert!(!is_keyed(&Row::new("cpu", "cpu.max", "1 2")) && !is_keyed(&Row::new("pids", "pids.max", "1")));
    }
}
