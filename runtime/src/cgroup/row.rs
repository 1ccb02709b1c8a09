//! A limit as the kernel takes it: one value for one file of one controller. `v1::limits` and `v2::limits` make the rows;
//! [`apply`] writes them.

use std::borrow::Cow;

use super::dir::{Dir, File};
use crate::error::{Error, Result};

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The controller whose directory holds the file.
    pub controller: &'static str,
    /// The name of the file, without a slash.
    pub file: Cow<'static, str>,
    /// The value to write.
    pub value: String,
    /// The meaning of a missing file.
    pub absent: Absent,
    /// The kernel checks this file against another one that is written as well. On EINVAL the row is written again after
    /// all others: so raising and lowering both work, without reading the old values.
    pub paired: bool,
}

/// The meaning of a file that the kernel does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The limit cannot be set: an error.
    Fail,
    /// The limit holds anyway: the row is skipped.
    Skip,
    /// Another file is written, with this value.
    Instead(&'static str, String),
}

impl Row {
    /// A row whose file must exist.
    pub(super) fn new(controller: &'static str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        let (file, value) = (file.into(), value.to_string());
        Self { controller, file, value, absent: Absent::Fail, paired: false }
    }

    /// The same row with another meaning of a missing file.
    pub(super) fn absent(self, absent: Absent) -> Self {
        Self { absent, ..self }
    }

    /// The error for a row whose controller has no cgroup.
    pub(super) fn without_cgroup(&self) -> Error {
        let what = self.controller;
        named(self, Error::unsupported(format!("cannot set {what} limit: container could not join or create cgroup")))
    }

    /// The same row, as one half of a pair of files.
    pub(super) fn paired(self, paired: bool) -> Self {
        Self { paired, ..self }
    }
}

/// Writes `rows` in order. `dir_of` returns the directory of a controller, or None if its hierarchy is not mounted.
///
/// # Errors
/// The first failure; names file, value and errno.
pub(super) fn apply<'a>(rows: &[Row], dir_of: impl Fn(&str) -> Option<&'a Dir>) -> Result<()> {
    let mut later: Vec<&Row> = Vec::new();
    let mut open: Option<(&str, File<'a>)> = None;
    for row in rows {
        let dir = dir_of(row.controller).ok_or_else(|| row.without_cgroup())?;
        let reuse = open.take().filter(|(c, f)| *c == row.controller && f.name() == row.file);
        let done = match reuse {
            Some((_, file)) => file.write(&row.value).map(|()| file),
            None => dir.write_first(&row.file, &row.value),
        };
        match done {
            Ok(file) => open = Some((row.controller, file)),
            Err(e) if e.errno() == Some(libc::ENOENT) && row.absent != Absent::Fail => {
                if let Absent::Instead(file, value) = &row.absent {
                    dir.write(file, value)?;
                }
            }
            Err(e) if e.errno() == Some(libc::EINVAL) && row.paired => later.push(row),
            Err(e) => return Err(explain(e, dir, row)),
        }
    }
    for row in later {
        if let Some(dir) = dir_of(row.controller) {
            dir.write(&row.file, &row.value).map_err(|e| explain(e, dir, row))?;
        }
    }
    Ok(())
}

/// The members of `linux.resources` whose files have other names.
const MEMBERS: [(&str, &str); 3] =
    [("net_cls.classid", "network.classID"), ("net_prio.ifpriomap", "network.priorities"), ("rdma.max", "rdma")];

/// Adds the member of `linux.resources` to an error whose file does not show it.
fn named(row: &Row, e: Error) -> Error {
    match MEMBERS.iter().find(|(file, _)| *file == row.file) {
        Some((_, member)) => e.context(format!("linux.resources.{member}")),
        None => e,
    }
}

/// Adds the usage to the kernel's bare EBUSY for a v1 memory limit that is below it.
fn explain(e: Error, dir: &Dir, row: &Row) -> Error {
    if row.file != "memory.limit_in_bytes" || e.errno() != Some(libc::EBUSY) {
        return named(row, e);
    }
    let read = |file| dir.read(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let (usage, peak) = (read("memory.usage_in_bytes"), read("memory.max_usage_in_bytes"));
    e.context(format!("unable to set memory limit to {} (current usage: {usage}, peak usage: {peak})", row.value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory in place of a cgroup: its ordinary files take writes the same way.
    struct Fake(std::path::PathBuf);

    impl Fake {
        fn new(name: &str, files: &[&str]) -> Self {
            let path = std::env::temp_dir().join(format!("berth-write-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for file in files {
                fs::write(path.join(file), "").unwrap();
            }
            Self(path)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn row_with_missing_file_is_skipped_or_goes_to_the_other_file() {
        let fake = Fake::new("a", &["pids.max", "io.weight"]);
        let dir = Dir::open(&fake.0).unwrap();
        let list = [
            Row::new("pids", "pids.max", 7),
            Row::new("cpu", "cpu.cfs_burst_us", 1).absent(Absent::Skip),
            Row::new("io", "io.bfq.weight", 10).absent(Absent::Instead("io.weight", "100".into())),
        ];
        apply(&list, |_| Some(&dir)).unwrap();
        assert_eq!(fs::read_to_string(fake.0.join("pids.max")).unwrap(), "7");
        assert_eq!(fs::read_to_string(fake.0.join("io.weight")).unwrap(), "100");
    }

    #[test]
    fn error_names_the_missing_file_or_hierarchy() {
        let fake = Fake::new("b", &[]);
        let dir = Dir::open(&fake.0).unwrap();
        let list = [Row::new("pids", "pids.max", 7)];
        let text = apply(&list, |_| Some(&dir)).unwrap_err().to_string();
        assert!(
            text.contains("\"7\"") && text.contains("pids.max") && text.ends_with("no such file or directory"),
            "{text}"
        );
        let e = apply(&list, |_| None).unwrap_err();
        assert_eq!(e.to_string(), "cannot set pids limit: container could not join or create cgroup");
        for (controller, file, says) in [
            ("rdma", "rdma.max", "linux.resources.rdma: cannot set rdma limit: container could"),
            ("net_cls", "net_cls.classid", "linux.resources.network.classID: cannot set net_cls"),
            ("net_prio", "net_prio.ifpriomap", "linux.resources.network.priorities: cannot set net_prio"),
        ] {
            let write = [Row::new(controller, file, "x")];
            let text = apply(&write, |_| None).unwrap_err().to_string();
            assert!(text.starts_with(says), "{text}");
            let text = apply(&write, |_| Some(&dir)).unwrap_err().to_string();
            assert!(text.starts_with(says.split_inclusive(": ").next().unwrap()) && text.contains(file), "{text}");
        }
    }
}
