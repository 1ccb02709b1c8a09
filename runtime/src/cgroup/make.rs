//! Making a container's cgroup: directories, what a new one must inherit, limits, devices. What fails is taken back.

use std::path::{Path, PathBuf};

use berth_init::mode::Umask;
use oci_spec::runtime::LinuxResources;
use rustix::{fs::Mode, io::Errno};

use super::{
    Before, Cgroup, Driver, Hierarchy, Place, allowlist,
    before::Dirs,
    devices::{self, Rule},
    dir::{Dir, gone},
    freeze,
    program::{self, Replaced},
    systemd, tree, unified, v1, v2,
    write::{Write, apply},
};
use crate::error::{Context, Error, Kind, Result};

/// Directories made so far; dropping it removes exactly these again.
struct Made {
    dirs: Vec<PathBuf>,
}

impl Made {
    /// For those who make them here, whatever the umask is: a container whose root is mapped looks into its cgroup as any
    /// other user.
    fn umask() -> Result<Umask> {
        Umask::set(0).context("unshare the umask")
    }

    /// Makes `path` and what is missing above it. True when `path` itself was made.
    fn make(&mut self, path: &Path) -> Result<bool> {
        let mode = Mode::from_raw_mode(0o755);
        let (mut at, mut missing) = (path, Vec::new());
        loop {
            match rustix::fs::mkdir(at, mode) {
                Ok(()) => {
                    self.dirs.push(at.to_owned());
                    match missing.pop() {
                        Some(below) => at = below,
                        None => return Ok(true),
                    }
                }
                // Two containers of one pod may make the pod's cgroup at once: either may win.
                Err(Errno::EXIST) => match missing.pop() {
                    Some(below) => at = below,
                    None => return Ok(false),
                },
                Err(Errno::NOENT) if missing.len() < 4096 => match at.parent() {
                    Some(parent) => {
                        missing.push(at);
                        at = parent;
                    }
                    None => return Err(failed(Errno::NOENT, path)),
                },
                Err(Errno::INTR) => {}
                Err(e) => return Err(failed(e, at)),
            }
        }
    }

    fn keep(mut self) {
        self.dirs.clear();
    }
}

/// In runc's words, by which callers know a caller without rights.
fn failed(e: Errno, at: &Path) -> Error {
    Error::from(e).context(format!("unable to apply cgroup configuration: make cgroup {}", at.display()))
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            let _ = rustix::fs::rmdir(dir);
        }
    }
}

/// Makes `path` and what is missing above it, for whoever removes all of it later.
pub(super) fn directories(path: &Path) -> Result<()> {
    let mut made = Made { dirs: Vec::new() };
    let _umask = Made::umask()?;
    made.make(path)?;
    made.keep();
    Ok(())
}

/// A place that was found, or made and is to be written in, and its directory.
struct Ready<'a> {
    place: &'a Place,
    dir: Dir,
    fresh: bool,
}

/// What the kernel is to be told.
pub(super) struct Asked {
    /// Limits.
    pub writes: Vec<Write>,
    /// Devices.
    pub rules: Vec<Rule>,
}

impl Asked {
    /// Reads `resources`, warning of what is left out.
    ///
    /// # Errors
    /// All that can be wrong in the request itself.
    pub(super) fn of(hierarchy: Hierarchy, resources: &LinuxResources) -> Result<Self> {
        let rules = devices::rules(resources)?;
        let writes = match hierarchy {
            Hierarchy::V1 => v1::writes(resources)?,
            Hierarchy::V2 => v2::writes(resources)?,
        };
        Ok(Self { writes, rules })
    }
}

/// Makes `cgroup` with what is `asked` of `resources`; see [`Cgroup::create`].
pub(super) fn create(cgroup: &Cgroup, resources: &LinuxResources, asked: &Asked) -> Result<()> {
    let Asked { writes, rules } = asked;
    let mut made = Made { dirs: Vec::new() };
    let mut ready = Vec::with_capacity(cgroup.places.len());
    let _umask = Made::umask()?;
    for place in &cgroup.places {
        let fresh = made.make(&place.dir)?;
        // A new one in which nothing is written need not be opened.
        if !fresh || is_written(place, writes) {
            ready.push(Ready { place, dir: Dir::open(&place.dir)?, fresh });
        }
    }
    for r in ready.iter().filter(|r| !r.fresh) {
        refuse_used(r)?;
    }
    let rules = cgroup.own_rules(rules);
    match cgroup.hierarchy {
        Hierarchy::V1 => fill_v1(&ready, writes, rules)?,
        Hierarchy::V2 => fill_v2(&ready, writes, resources, rules)?,
    }
    made.keep();
    Ok(())
}

/// Whether anything is written in a new cgroup of this hierarchy: limits, what it has to inherit, device rules.
fn is_written(place: &Place, writes: &[Write]) -> bool {
    let always = place.controllers.is_empty() || place.has("cpuset") || place.has("devices");
    always || writes.iter().any(|w| place.has(w.controller))
}

/// As [`create`] refuses, before anybody else is asked to make the cgroup.
pub(super) fn refuse_existing(cgroup: &Cgroup) -> Result<()> {
    for place in &cgroup.places {
        match Dir::open(&place.dir) {
            Ok(dir) => refuse_used(&Ready { place, dir, fresh: false })?,
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The rest of a cgroup that systemd has made for `scope` and put `init` into.
pub(super) fn settle(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    scope: &systemd::Scope<'_>,
    rules: Option<&[Rule]>,
    init: i32,
) -> Result<()> {
    let mut ready = Vec::with_capacity(cgroup.places.len());
    for place in &cgroup.places {
        let dir = Dir::open(&place.dir).with_context(|| format!("cgroup of unit {}", scope.name()))?;
        let inside = dir.read("cgroup.procs")?.lines().any(|pid| pid.parse() == Ok(init));
        match cgroup.hierarchy {
            _ if inside => {}
            // systemd does not know this controller, and init itself has not come to it yet.
            Hierarchy::V1 => super::add(&dir, init)?,
            Hierarchy::V2 => {
                let text = format!("unit {} has not put process {init} into {}", scope.name(), place.dir.display());
                return Err(Error::new(Kind::Internal, text));
            }
        }
        ready.push(Ready { place, dir, fresh: false });
    }
    match (cgroup.hierarchy, ready.first()) {
        (Hierarchy::V1, _) => fill_v1(&ready, &scope.writes, rules),
        (Hierarchy::V2, Some(r)) => {
            unified::enable_controllers(&r.dir, resources)?;
            unified::apply(&r.dir, &scope.writes)?;
            // Beside systemd's own, which is not touched.
            rules.map_or(Ok(()), |rules| program::install(&r.dir, rules, Replaced::Own))
        }
        (Hierarchy::V2, None) => Err(Error::new(Kind::Internal, "cgroup without a directory")),
    }
}

/// A cgroup that exists is taken over only when nobody is in it: the limits and the final kill would hit them, too.
fn refuse_used(r: &Ready<'_>) -> Result<()> {
    let found = tree::pids(&r.place.dir)?.unwrap_or_default().len();
    if found > 0 {
        let text = format!("container's cgroup is not empty: {found} process(es) found");
        return Err(Error::new(Kind::FailedPrecondition, text).context(r.place.dir.display().to_string()));
    }
    // In a frozen one the container would never take its first step.
    if freeze::wants_frozen(&r.dir)? {
        let text = "container's cgroup unexpectedly frozen";
        return Err(Error::new(Kind::FailedPrecondition, text).context(r.place.dir.display().to_string()));
    }
    Ok(())
}

/// Without `rules` the devices are left to the cgroups above.
fn fill_v1(ready: &[Ready<'_>], writes: &[Write], rules: Option<&[Rule]>) -> Result<()> {
    let of = |controller: &str| ready.iter().find(|r| r.place.has(controller));
    if let Some(r) = of("cpuset") {
        inherit_cpuset(r, writes)?;
    }
    let needed = |w: &&Write| {
        let fresh = of(w.controller).is_none_or(|r| r.fresh);
        !(fresh && v1::DEFAULTS.contains(&(w.file.as_ref(), w.value.as_str())))
    };
    let writes: Vec<Write> = writes.iter().filter(needed).cloned().collect();
    apply(&writes, |controller| of(controller).map(|r| &r.dir))?;
    let Some(rules) = rules else { return Ok(()) };
    match of("devices") {
        Some(r) => allowlist::apply(&r.dir, rules, r.fresh),
        None => Err(Error::unsupported("cgroup: devices hierarchy is not mounted")),
    }
}

/// A v1 cpuset starts empty and takes no process until it has CPUs and memory nodes: what the container does not name
/// comes from the parent, whose own may have to come from further up.
fn inherit_cpuset(r: &Ready<'_>, writes: &[Write]) -> Result<()> {
    const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let parent = Dir::open(r.place.dir.parent().unwrap_or(Path::new("/")))?;
    for file in FILES {
        // Also when the container names its own: the kernel wants the parent's to hold the child's.
        let list = effective(&parent, file)?;
        let named = writes.iter().any(|w| w.file == file);
        if !named && (r.fresh || r.dir.read(file)?.trim().is_empty()) {
            r.dir.write(file, &list)?;
        }
    }
    Ok(())
}

/// The list in `file` of `dir`, filled from above where it is empty. The root of the hierarchy is never empty.
fn effective(dir: &Dir, file: &str) -> Result<String> {
    let list = dir.read(file)?;
    if !list.trim().is_empty() {
        return Ok(list.trim().to_owned());
    }
    let mut empty = Vec::new();
    for above in dir.path().ancestors().skip(1) {
        let above = Dir::open(above)?;
        let list = above.read(file)?;
        let list = list.trim();
        if !list.is_empty() {
            for below in empty.iter().rev().chain([dir]) {
                below.write(file, list)?;
            }
            return Ok(list.to_owned());
        }
        empty.push(above);
    }
    Err(Error::new(Kind::Internal, format!("{file}: no parent of {} has one", dir.path().display())))
}

fn fill_v2(ready: &[Ready<'_>], writes: &[Write], resources: &LinuxResources, rules: Option<&[Rule]>) -> Result<()> {
    let Some(r) = ready.first() else {
        return writes.first().map_or(Ok(()), |write| Err(write.without_cgroup()));
    };
    unified::enable_controllers(&r.dir, resources)?;
    let default = |w: &Write| r.fresh && v2::DEFAULTS.contains(&(w.file.as_ref(), w.value.as_str()));
    let writes: Vec<Write> = writes.iter().filter(|w| !default(w)).cloned().collect();
    unified::apply(&r.dir, &writes)?;
    let replaced = if r.fresh { Replaced::None } else { Replaced::All };
    rules.map_or(Ok(()), |rules| program::install(&r.dir, rules, replaced))
}

/// New limits for a cgroup that is there; see [`Cgroup::update`].
pub(super) fn update<'c>(cgroup: &'c Cgroup, resources: &LinuxResources) -> Result<Before<'c>> {
    let updated = || {
        let (dirs, mut writes) = wanted(cgroup, resources)?;
        let mut before = Before::read(cgroup, dirs, &writes)?;
        match set(cgroup, &mut before, &mut writes) {
            Ok(()) => Ok(before),
            Err(e) => Err(before.put_back(e)),
        }
    };
    updated().context("update cgroup")
}

/// What an update writes, and where; all that can be wrong in the request itself is found here.
fn wanted<'c>(cgroup: &'c Cgroup, resources: &LinuxResources) -> Result<(Dirs<'c>, Vec<Write>)> {
    match cgroup.hierarchy {
        Hierarchy::V1 => {
            let mut writes = v1::writes(resources)?;
            if let Driver::Systemd(_) = &cgroup.driver {
                complete_v1(cgroup, &mut writes)?;
            }
            let used = |p: &&Place| writes.iter().any(|w| p.has(w.controller));
            let dirs = cgroup.places.iter().filter(used).map(|p| Ok((p, open(p)?))).collect::<Result<_>>()?;
            Ok((dirs, writes))
        }
        Hierarchy::V2 => {
            let place = cgroup.main_place()?;
            let dir = open(place)?;
            let resources = unified::complete(&dir, resources)?;
            let writes = v2::writes(&resources)?;
            unified::check_before_update(&dir, &resources)?;
            Ok((vec![(place, dir)], writes))
        }
    }
}

fn set(cgroup: &Cgroup, before: &mut Before<'_>, writes: &mut [Write]) -> Result<()> {
    if let Driver::Systemd(unit) = &cgroup.driver {
        systemd::update(unit, cgroup, writes)?;
        before.told_systemd();
    }
    match (cgroup.hierarchy, before.dir_of("")) {
        (Hierarchy::V2, Some(dir)) => unified::apply(dir, writes),
        _ => apply(writes, |controller| before.dir_of(controller)),
    }
}

/// systemd has one property for quota and period: the half that is not named is what the kernel has.
fn complete_v1(cgroup: &Cgroup, writes: &mut Vec<Write>) -> Result<()> {
    const FILES: [&str; 2] = ["cpu.cfs_period_us", "cpu.cfs_quota_us"];
    let missing: Vec<&str> = FILES.into_iter().filter(|file| !writes.iter().any(|w| w.file == *file)).collect();
    if let (&[file], Some(place)) = (missing.as_slice(), cgroup.places.iter().find(|p| p.has("cpu"))) {
        let now = open(place)?.read(file)?;
        writes.push(Write::new("cpu", file, now.trim()));
    }
    Ok(())
}

/// New device rules for a cgroup that is there; see [`Cgroup::update_devices`].
pub(super) fn update_devices(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    let rules = devices::rules(resources)?;
    let dir = open(cgroup.main_place()?)?;
    // First, so that at no moment more is open than was or will be: both sides have to allow a device.
    if let Driver::Systemd(unit) = &cgroup.driver {
        systemd::update_devices(unit, cgroup, &rules)?;
    }
    match cgroup.hierarchy {
        Hierarchy::V1 => allowlist::apply(&dir, &rules, false),
        Hierarchy::V2 => {
            let systemd = matches!(cgroup.driver, Driver::Systemd(_));
            program::install(&dir, &rules, if systemd { Replaced::Own } else { Replaced::All })
        }
    }
    .context("update device rules")
}

fn open(place: &Place) -> Result<Dir> {
    Dir::open(&place.dir).map_err(|e| if gone(&e) { e.with_kind(Kind::NotFound) } else { e })
}
