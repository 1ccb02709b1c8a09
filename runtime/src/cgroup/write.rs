//! A limit as the kernel takes it: one value into one file of one controller. Making the list is left to v1 and v2
//! (pure, tested as rows); here it is only carried out.

use std::borrow::Cow;

use super::dir::{Dir, File};
use crate::error::{Error, Result};

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The controller whose directory holds the file.
    pub controller: &'static str,
    /// The file's name; never with a slash.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// What a missing file means.
    pub absent: Absent,
    /// EINVAL here means "not yet": the kernel checks the pair of two files, so this one is written again after all
    /// others. That keeps the order right for raising and for lowering without reading what was there.
    pub paired: bool,
}

/// What it means that the kernel does not have the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The limit cannot be set: an error.
    Fail,
    /// Nothing is lost without it.
    Skip,
    /// Another file serves, with a value of its own.
    Instead(&'static str, String),
}

impl Write {
    /// A value that must be written.
    pub(super) fn new(controller: &'static str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        let (file, value) = (file.into(), value.to_string());
        Self { controller, file, value, absent: Absent::Fail, paired: false }
    }

    /// The same, with another meaning of a missing file.
    pub(super) fn absent(self, absent: Absent) -> Self {
        Self { absent, ..self }
    }

    /// That there is nowhere to write it.
    pub(super) fn without_cgroup(&self) -> Error {
        let what = self.controller;
        named(self, Error::unsupported(format!("cannot set {what} limit: container could not join or create cgroup")))
    }

    /// The same, one half of a pair.
    pub(super) fn paired(self, paired: bool) -> Self {
        Self { paired, ..self }
    }
}

/// Carries out `writes` in order. `dir_of` gives a controller's directory, None when its hierarchy is not there.
/// Stops at the first error, which names file, value and errno.
pub(super) fn apply<'a>(writes: &[Write], dir_of: impl Fn(&str) -> Option<&'a Dir>) -> Result<()> {
    let mut later: Vec<&Write> = Vec::new();
    let mut open: Option<(&str, File<'a>)> = None;
    for write in writes {
        let dir = dir_of(write.controller).ok_or_else(|| write.without_cgroup())?;
        let reuse = open.take().filter(|(c, f)| *c == write.controller && f.name() == write.file);
        let done = match reuse {
            Some((_, file)) => file.write(&write.value).map(|()| file),
            None => dir.write_first(&write.file, &write.value),
        };
        match done {
            Ok(file) => open = Some((write.controller, file)),
            Err(e) if e.errno() == Some(libc::ENOENT) && write.absent != Absent::Fail => {
                if let Absent::Instead(file, value) = &write.absent {
                    dir.write(file, value)?;
                }
            }
            Err(e) if e.errno() == Some(libc::EINVAL) && write.paired => later.push(write),
            Err(e) => return Err(explain(e, dir, write)),
        }
    }
    for write in later {
        if let Some(dir) = dir_of(write.controller) {
            dir.write(&write.file, &write.value).map_err(|e| explain(e, dir, write))?;
        }
    }
    Ok(())
}

/// The members of `linux.resources` whose files do not have their names.
const MEMBERS: [(&str, &str); 3] =
    [("net_cls.classid", "network.classID"), ("net_prio.ifpriomap", "network.priorities"), ("rdma.max", "rdma")];

/// The error with the member that it is about, where nobody would know from the file.
fn named(write: &Write, e: Error) -> Error {
    match MEMBERS.iter().find(|(file, _)| *file == write.file) {
        Some((_, member)) => e.context(format!("linux.resources.{member}")),
        None => e,
    }
}

/// The kernel says only EBUSY when a v1 memory limit is below what is in use; the numbers are worth having.
fn explain(e: Error, dir: &Dir, write: &Write) -> Error {
    if write.file != "memory.limit_in_bytes" || e.errno() != Some(libc::EBUSY) {
        return named(write, e);
    }
    let read = |file| dir.read(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let (usage, peak) = (read("memory.usage_in_bytes"), read("memory.max_usage_in_bytes"));
    e.context(format!("unable to set memory limit to {} (current usage: {usage}, peak usage: {peak})", write.value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory that stands in for a cgroup: ordinary files take writes the same way.
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
    fn writes_reach_their_files_and_missing_ones_mean_what_was_said() {
        let fake = Fake::new("a", &["pids.max", "io.weight"]);
        let dir = Dir::open(&fake.0).unwrap();
        let list = [
            Write::new("pids", "pids.max", 7),
            Write::new("cpu", "cpu.cfs_burst_us", 1).absent(Absent::Skip),
            Write::new("io", "io.bfq.weight", 10).absent(Absent::Instead("io.weight", "100".into())),
        ];
        apply(&list, |_| Some(&dir)).unwrap();
        assert_eq!(fs::read_to_string(fake.0.join("pids.max")).unwrap(), "7");
        assert_eq!(fs::read_to_string(fake.0.join("io.weight")).unwrap(), "100");
    }

    #[test]
    fn a_missing_file_or_hierarchy_is_said() {
        let fake = Fake::new("b", &[]);
        let dir = Dir::open(&fake.0).unwrap();
        let list = [Write::new("pids", "pids.max", 7)];
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
            let write = [Write::new(controller, file, "x")];
            let text = apply(&write, |_| None).unwrap_err().to_string();
            assert!(text.starts_with(says), "{text}");
            let text = apply(&write, |_| Some(&dir)).unwrap_err().to_string();
            assert!(text.starts_with(says.split_inclusive(": ").next().unwrap()) && text.contains(file), "{text}");
        }
    }
}
