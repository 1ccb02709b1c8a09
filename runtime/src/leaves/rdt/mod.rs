//! `linux.intelRdt`: a resctrl group for a container, with shares of L3 cache and memory bandwidth, or only for
//! monitoring
//! (Documentation/filesystems/resctrl.rst).
//!
//! ```text
//! <root>/info/{L3,MB,last_cmd_status}        features of the machine
//! <root>/<closID or id>/{tasks,schemata}     the class of service
//! <root>/<...>/mon_groups/<id>/tasks         monitoring group
//! ```
//! A class that config.json names stays, because other processes may be in it. A class with the container's id, if
//! berth has created it, is removed with the container. So is the monitoring group. [`root`] finds the mount point for
//! all functions.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Kind, Result, host::mountinfo};

const FIELD: &str = "linux.intelRdt";
/// The directory that the kernel creates for resctrl (Linux 4.10).
const DEFAULT_ROOT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC` of magic.h.
const MAGIC: i64 = 0x0765_5821;

/// Returns the mount point of resctrl. `None` if the kernel lacks it or it is not mounted.
///
/// # Errors
/// As statfs(2), or the mount table cannot be read.
pub fn root() -> Result<Option<PathBuf>> {
    match rustix::fs::statfs(DEFAULT_ROOT) {
        Ok(found) if found.f_type == MAGIC => Ok(Some(DEFAULT_ROOT.into())),
        Ok(_) => mountinfo::first_of("resctrl"),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::from(e).context(format!("statfs {DEFAULT_ROOT}"))),
    }
}

/// The group of a container. state.json keeps it for execs and for delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    root: PathBuf,
    class: PathBuf,
    /// berth has created the class for this container.
    own: bool,
    monitor: Option<PathBuf>,
}

/// A group that is being set up. Dropping this removes the group.
pub struct PendingGroup(Option<Group>);

/// Checks `linux.intelRdt` on a machine with resctrl at `root`.
///
/// # Errors
/// Names the member: [`Kind::Unsupported`] if the machine lacks a feature, [`Kind::InvalidArgument`] for a bad
/// `closID`.
pub fn check(rdt: &LinuxIntelRdt, root: Option<&Path>) -> Result<()> {
    let Some(root) = root else {
        let text = format!("{FIELD}: intelRdt is specified in config, but Intel RDT is not enabled");
        return Err(Error::unsupported(text));
    };
    if let Some(class) = rdt.clos_id()
        && (matches!(class.as_str(), "." | "..") || class.contains('\0') || class.len() > 1 && class.contains('/'))
    {
        return Err(Error::invalid(format!("{FIELD}.closID: invalid intelRdt.ClosID {class:?}")));
    }
    for (schema, field, feature) in [
        (rdt.l3_cache_schema(), "l3CacheSchema", Feature::L3),
        (rdt.mem_bw_schema(), "memBwSchema", Feature::MemoryBandwidth),
    ] {
        if is_set(schema) && !feature.is_in(root) {
            let text =
                format!("{FIELD}.{field}: is specified in config, but Intel RDT/{} is not enabled", feature.short());
            return Err(Error::unsupported(text));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Feature {
    L3,
    MemoryBandwidth,
}

impl Feature {
    fn is_in(self, root: &Path) -> bool {
        let name = match self {
            Self::L3 => "L3",
            Self::MemoryBandwidth => "MB",
        };
        root.join("info").join(name).exists()
    }

    fn short(self) -> &'static str {
        match self {
            Self::L3 => "CAT",
            Self::MemoryBandwidth => "MBA",
        }
    }
}

fn is_set(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// Returns the lines for `schemata`. A later line overrides an earlier one of the same resource.
fn schemata(rdt: &LinuxIntelRdt) -> String {
    let lines = [rdt.l3_cache_schema(), rdt.mem_bw_schema()].into_iter().flatten();
    lines
        .chain(rdt.schemata().iter().flatten())
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}

/// New schemata for an existing group (`update`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Update<'a> {
    /// The L3 cache schema.
    pub l3_cache: Option<&'a str>,
    /// The memory bandwidth schema.
    pub memory_bandwidth: Option<&'a str>,
}

impl Update<'_> {
    /// Returns true if there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.l3_cache.is_none() && self.memory_bandwidth.is_none()
    }

    /// Checks the change before anything is written.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the machine lacks the feature. [`Kind::FailedPrecondition`] if the container has no
    /// group.
    pub fn check(&self, group: Option<&Group>, root: Option<&Path>) -> Result<()> {
        let off = |feature: Feature| !root.is_some_and(|root| feature.is_in(root));
        if self.l3_cache.is_some() && off(Feature::L3) {
            return Err(Error::unsupported("Intel RDT/CAT: l3 cache schema is not enabled"));
        }
        if self.memory_bandwidth.is_some() && off(Feature::MemoryBandwidth) {
            return Err(Error::unsupported("Intel RDT/MBA: memory bandwidth schema is not enabled"));
        }
        if !self.is_empty() && group.is_none() {
            let text = "updating a non-existent Intel RDT configuration is not supported";
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        Ok(())
    }

    /// Writes the new schemata.
    ///
    /// # Errors
    /// The kernel's, with its explanation.
    pub fn apply(&self, group: Option<&Group>) -> Result<()> {
        let lines: String = [self.l3_cache, self.memory_bandwidth].iter().flatten().map(|l| format!("{l}\n")).collect();
        match group {
            Some(group) if !lines.is_empty() => group.write_schemata(&lines),
            _ => Ok(()),
        }
    }
}

impl PendingGroup {
    /// Plans the group of the container `id`, without creating it.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if resctrl is not mounted.
    pub fn of(rdt: Option<&LinuxIntelRdt>, id: &str, root: impl FnOnce() -> Result<Option<PathBuf>>) -> Result<Self> {
        let Some(rdt) = rdt else { return Ok(Self(None)) };
        let root = root()?.ok_or_else(|| Error::unsupported(format!("{FIELD}: Intel RDT is not enabled")))?;
        let named = rdt.clos_id().as_deref().filter(|class| !class.is_empty());
        let class = match named {
            Some("/") => root.clone(),
            other => root.join(other.unwrap_or(id)),
        };
        let own = named.is_none() && !class.exists();
        let monitor = (*rdt.enable_monitoring() == Some(true)).then(|| class.join("mon_groups").join(id));
        Ok(Self(Some(Group { root, class, own, monitor })))
    }

    /// Returns the group for state.json.
    pub fn group(&self) -> Option<Group> {
        self.0.clone()
    }

    /// Creates the group and writes its schemata, before any process is in it.
    ///
    /// # Errors
    /// The named class does not exist and there are no schemata. Otherwise the kernel's, with its explanation.
    pub fn create(&mut self, rdt: Option<&LinuxIntelRdt>) -> Result<()> {
        let (Some(group), Some(rdt)) = (&mut self.0, rdt) else { return Ok(()) };
        let lines = schemata(rdt);
        if is_set(rdt.clos_id()) && lines.is_empty() {
            let text =
                "clos dir not accessible (must be pre-created when schemata, l3CacheSchema and memBwSchema are empty)";
            fs::metadata(&group.class).context(text).context(FIELD)?;
        }
        if !create_dir_if_missing(&group.class).map_err(|e| group.explain(e.into()))? {
            group.own = false;
        }
        if !lines.is_empty() {
            group.write_schemata(&lines)?;
        }
        match &group.monitor {
            Some(monitor) => create_dir_if_missing(monitor).map(drop).map_err(|e| group.explain(e.into())),
            None => Ok(()),
        }
    }

    /// Adds a process that still waits at the barrier.
    ///
    /// # Errors
    /// The kernel's, with its explanation.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.add_process(pid))
    }

    /// Leaves the group to the container.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for PendingGroup {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.as_ref().map(Group::remove) {
            log::warn!("{e}");
        }
    }
}

/// Creates a directory. Returns false if it exists already.
fn create_dir_if_missing(dir: &Path) -> std::io::Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(std::io::Error::new(e.kind(), format!("mkdir {}: {e}", dir.display()))),
    }
}

impl Group {
    /// Adds a process. Its later children are in the group as well.
    ///
    /// # Errors
    /// The kernel's, with its explanation.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        for dir in [Some(&self.class), self.monitor.as_ref()].into_iter().flatten() {
            fs::write(dir.join("tasks"), pid.to_string()).map_err(|e| {
                self.explain(Error::from(e).context(format!("intelrdt: unable to add pid {pid} to {}", dir.display())))
            })?;
        }
        Ok(())
    }

    /// Adds the process of an exec. Does nothing if the group has been removed meanwhile.
    ///
    /// # Errors
    /// The kernel's, with its explanation.
    pub fn add_exec_process(&self, pid: i32) -> Result<()> {
        if self.class.exists() { self.add_process(pid) } else { Ok(()) }
    }

    fn write_schemata(&self, lines: &str) -> Result<()> {
        let what = || format!("intelrdt: unable to write {lines:?}");
        fs::write(self.class.join("schemata"), lines).map_err(|e| self.explain(Error::from(e).context(what())))
    }

    /// Removes the directories that were created for the container.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn remove(&self) -> Result<()> {
        let own = self.own.then_some(&self.class);
        for dir in [self.monitor.as_ref(), own].into_iter().flatten() {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    let what = format!("unable to remove container's IntelRDT group: rmdir {}", dir.display());
                    return Err(Error::from(e).context(what));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the text of `info/last_cmd_status`, because the errno alone does not say what is wrong with a schema.
    fn explain(&self, error: Error) -> Error {
        match fs::read_to_string(self.root.join("info/last_cmd_status")) {
            Ok(status) => error.context(format!("{FIELD}: last_cmd_status {:?}", status.trim())),
            Err(_) => error.context(FIELD),
        }
    }
}

#[cfg(test)]
mod tests;
