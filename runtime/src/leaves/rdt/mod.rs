//! `linux.intelRdt`: a group of the resctrl file system for a container, which has shares of the L3 cache and of memory
//! bandwidth, or is only counted (Documentation/filesystems/resctrl.rst).
//!
//! ```text
//! <root>/info/{L3,MB,last_cmd_status}        what the machine has
//! <root>/<closID or id>/{tasks,schemata}     the class of service
//! <root>/<...>/mon_groups/<id>/tasks         who is counted together
//! ```
//! A class that config.json names stays: others may be in it. One that bears the container's id, and was not there
//! before, goes with the container, as does its monitoring group. The root is found by [`root`] and handed to the rest.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Kind, Result, host::mountinfo};

const FIELD: &str = "linux.intelRdt";
/// Where the kernel makes a directory for it (4.10).
const USUAL: &str = "/sys/fs/resctrl";
/// magic.h `RDTGROUP_SUPER_MAGIC`.
const MAGIC: i64 = 0x0765_5821;

/// Where resctrl is mounted; `None` where the machine has none, or nobody has mounted it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn root() -> Result<Option<PathBuf>> {
    match rustix::fs::statfs(USUAL) {
        Ok(found) if found.f_type == MAGIC => Ok(Some(USUAL.into())),
        Ok(_) => mountinfo::first_of("resctrl"),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::from(e).context(format!("statfs {USUAL}"))),
    }
}

/// The group of a container, on record for execs and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    root: PathBuf,
    class: PathBuf,
    /// Made for this container alone.
    own: bool,
    monitor: Option<PathBuf>,
}

/// A group under way; dropped, it is removed again.
pub struct Making(Option<Group>);

/// What is wrong with the field, on a machine with resctrl at `root`.
///
/// # Errors
/// Names the member.
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
        if given(schema) && !feature.is_in(root) {
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

fn given(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// What is written as the schemata, in this order: a later line of a resource overrides an earlier one.
fn schemata(rdt: &LinuxIntelRdt) -> String {
    let one = [rdt.l3_cache_schema(), rdt.mem_bw_schema()].into_iter().flatten();
    one.chain(rdt.schemata().iter().flatten()).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// Other schemas for a group that is there: those of `update`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Update<'a> {
    /// Of the L3 cache.
    pub l3_cache: Option<&'a str>,
    /// Of memory bandwidth.
    pub memory_bandwidth: Option<&'a str>,
}

impl Update<'_> {
    /// There is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.l3_cache.is_none() && self.memory_bandwidth.is_none()
    }

    /// Whether a container whose group this is can have them; to be asked before anything is written.
    ///
    /// # Errors
    /// The machine has no such thing, or the container was made without a group.
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

    /// Writes them.
    ///
    /// # Errors
    /// What the kernel says of them.
    pub fn apply(&self, group: Option<&Group>) -> Result<()> {
        let lines: String = [self.l3_cache, self.memory_bandwidth].iter().flatten().map(|l| format!("{l}\n")).collect();
        match group {
            Some(group) if !lines.is_empty() => group.set(&lines),
            _ => Ok(()),
        }
    }
}

impl Making {
    /// The group of the container `id`, which is not made yet.
    ///
    /// # Errors
    /// There is no resctrl.
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

    /// For the record.
    pub fn group(&self) -> Option<Group> {
        self.0.clone()
    }

    /// Makes it, and writes what its members may use before it has any.
    ///
    /// # Errors
    /// The class is not there though nothing is said of its shares; or what the kernel says.
    pub fn make(&mut self, rdt: Option<&LinuxIntelRdt>) -> Result<()> {
        let (Some(group), Some(rdt)) = (&mut self.0, rdt) else { return Ok(()) };
        let lines = schemata(rdt);
        if given(rdt.clos_id()) && lines.is_empty() {
            let text =
                "clos dir not accessible (must be pre-created when schemata, l3CacheSchema and memBwSchema are empty)";
            fs::metadata(&group.class).context(text).context(FIELD)?;
        }
        if !made(&group.class).map_err(|e| group.explain(e.into()))? {
            group.own = false;
        }
        if !lines.is_empty() {
            group.set(&lines)?;
        }
        match &group.monitor {
            Some(monitor) => made(monitor).map(drop).map_err(|e| group.explain(e.into())),
            None => Ok(()),
        }
    }

    /// Takes in a process that has not begun.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(&self, pid: i32) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.adopt(pid))
    }

    /// It is the container's.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.as_ref().map(Group::remove) {
            log::warn!("{e}");
        }
    }
}

/// Whether the directory was not there before.
fn made(dir: &Path) -> std::io::Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(std::io::Error::new(e.kind(), format!("mkdir {}: {e}", dir.display()))),
    }
}

impl Group {
    /// Takes in a process, and what it forks from then on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(&self, pid: i32) -> Result<()> {
        for dir in [Some(&self.class), self.monitor.as_ref()].into_iter().flatten() {
            fs::write(dir.join("tasks"), pid.to_string()).map_err(|e| {
                self.explain(Error::from(e).context(format!("intelrdt: unable to add pid {pid} to {}", dir.display())))
            })?;
        }
        Ok(())
    }

    /// An exec's process: a group that somebody has removed is none any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt_late(&self, pid: i32) -> Result<()> {
        if self.class.exists() { self.adopt(pid) } else { Ok(()) }
    }

    fn set(&self, lines: &str) -> Result<()> {
        let what = || format!("intelrdt: unable to write {lines:?}");
        fs::write(self.class.join("schemata"), lines).map_err(|e| self.explain(Error::from(e).context(what())))
    }

    /// Removes what was made for the container.
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

    /// The errno says little of what the kernel dislikes.
    fn explain(&self, error: Error) -> Error {
        match fs::read_to_string(self.root.join("info/last_cmd_status")) {
            Ok(status) => error.context(format!("{FIELD}: last_cmd_status {:?}", status.trim())),
            Err(_) => error.context(FIELD),
        }
    }
}

#[cfg(test)]
mod tests;
