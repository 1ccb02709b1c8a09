//! The container's cgroup: made with its limits and device rules before anything runs in it, and everything that is done
//! to all of its processes at once.
//!
//! ```text
//! resolve -> begin (-> adopt) -> entry / add -> update, freeze, thaw, pids, stats, oom_watch … -> signal_all -> delete
//! ```
//!
//! Two closed enums: [`Driver`] is who owns the path, [`Hierarchy`] how a limit is written. Both and the directories are
//! in [`Cgroup`], which is plain data and goes into state.json, so a later process works on what is there and does not
//! resolve anew. Pure translation is in `v1`, `v2`, `devices`, `filter`; applying it in `make`.
//! Mounting a cgroup inside a container is left to the mounts, which ask [`host`].

mod absence;
mod allowlist;
mod before;
mod below;
mod check;
mod delegate;
mod devices;
mod dir;
mod entry;
mod filter;
mod freeze;
mod host;
mod kill;
mod limits;
mod make;
mod making;
mod oom;
mod path;
mod program;
mod rootless;
mod stats;
mod subs;
mod sys;
mod systemd;
mod tree;
mod unified;
mod v1;
mod v2;
mod write;

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub use self::{
    absence::{Absence, step_out},
    before::Before,
    check::check,
    devices::default_device_rules,
    entry::Entry,
    host::{Host, Mount, host},
    making::{Making, Request},
    oom::OomWatch,
    rootless::{Rights, Rootless},
    stats::{
        Blkio, BlkioEntry, Counters, IoEntry, MemoryEntry, MemoryEvents, Pids, Placement, Psi, PsiLine, Rdma,
        RdmaEntry, Stats, V1Cpu, V1Hugetlb, V1Memory, V1Stats, V2Cpu, V2Hugetlb, V2Io, V2Memory, V2Stats,
    },
    subs::{DELEGATE, SUBGROUP},
};
use self::{
    dir::{Dir, gone},
    tree::Deadline,
};
use crate::error::{Context, Error, Kind, Result};

/// Lets go of what is kept for the next operation, for a process that has nothing to do for a while: the connection to
/// the system bus, of which a user may have only some hundreds (dbus-daemon(1), `max_connections_per_user`).
pub fn rest() {
    systemd::disconnect();
}

/// Whether systemd is asked to make the cgroup: by the manager, or because the path has its form.
fn is_by_systemd(cgroups_path: Option<&Path>, by: Manager) -> bool {
    by == Manager::Systemd || by == Manager::Cgroupfs && cgroups_path.is_some_and(path::is_systemd_form)
}

/// How limits are written and processes counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// One hierarchy for each controller; with a v2 one beside them in hybrid mode.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Hierarchy {
    fn of(host: &Host) -> Self {
        if host.unified() { Self::V2 } else { Self::V1 }
    }
}

/// Who makes the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Driver {
    /// We do.
    Cgroupfs,
    /// systemd, for this unit.
    Systemd(systemd::Unit),
}

/// Who is asked to make a container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// We are, unless `linux.cgroupsPath` has systemd's form.
    #[default]
    Cgroupfs,
    /// systemd.
    Systemd,
    /// Nobody: the container is to stay where its maker is.
    Disabled,
}

/// A container's cgroup: where it is, whether or not it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    driver: Driver,
    places: Vec<Place>,
    /// Whoever made it has not all rights to cgroups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rootless: bool,
}

/// The cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The v1 controllers of the hierarchy; empty for v2.
    controllers: Vec<String>,
    dir: PathBuf,
}

impl Place {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl Cgroup {
    /// Where the container `id` with `linux.cgroupsPath` belongs on this machine. An absolute path counts from the root
    /// of the hierarchy, a relative one from the caller's own cgroup (on v2 from the one above it, which may hold no
    /// processes), none means `id`. A `..` is refused. With [`Manager::Systemd`], or when the path says so by its form
    /// `slice:prefix:name`, it is that of a scope; with [`Manager::Disabled`] there is none, whatever the path.
    /// With [`Rights::Delegated`] the user's instance of systemd makes the scope.
    pub fn resolve(cgroups_path: Option<&Path>, id: &str, by: Manager, rights: Rights) -> Result<Self> {
        if by == Manager::Disabled {
            // Rules of devices would be the maker's as well: what has no cgroup is as what may have none.
            let hierarchy = Hierarchy::of(host()?);
            return Ok(Self { hierarchy, driver: Driver::Cgroupfs, places: Vec::new(), rootless: true });
        }
        let (driver, inner) = if is_by_systemd(cgroups_path, by) {
            let whose = match rights {
                Rights::Full => systemd::Whose::Host,
                Rights::Delegated => systemd::Whose::User,
            };
            if whose == systemd::Whose::User && !host()?.unified() {
                let text = "cannot use rootless systemd cgroups manager on cgroup v1";
                return Err(Error::unsupported(format!("systemd cgroup driver: {text}")));
            }
            let unit = systemd::Unit::new(cgroups_path, id, whose)?;
            let inner = path::Inner::from_root(systemd::path(&unit)?);
            (Driver::Systemd(unit), inner)
        } else {
            (Driver::Cgroupfs, path::Inner::new(cgroups_path, id)?)
        };
        let host = host()?;
        let places = path::places(host, &inner)?;
        Ok(Self { hierarchy: Hierarchy::of(host), driver, places, rootless: false })
    }

    /// What is left of it for a runtime that may not make every cgroup: what is refused is left out, unless the container
    /// has limits there (on v2, any) or its path is `named`. Device rules are left out in any case. A container without any
    /// cgroup stays where its maker is.
    pub fn left_to_user(mut self, resources: &LinuxResources, named: bool) -> Result<Self> {
        rootless::attain(&mut self, resources, named).map(|()| self)
    }

    /// Whether it is what [`Cgroup::left_to_user`] has left.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// Device rules as far as they are berth's to see to: an ordinary user's are left to systemd, or to the cgroups above.
    fn own_rules<'r>(&self, rules: &'r [devices::Rule]) -> Option<&'r [devices::Rule]> {
        Some(rules).filter(|_| !self.rootless)
    }

    /// Whether there is any: [`Cgroup::left_to_user`] may leave none, [`Manager::Disabled`] does.
    pub fn is_any(&self) -> bool {
        !self.places.is_empty()
    }

    /// Begins to make a container's cgroup. What of it needs the container's init follows in [`Making::adopt`]; that has
    /// to be called before init does anything. Errors as [`Cgroup::create`] has them, and systemd's.
    pub fn begin<'c>(&'c self, request: &Request<'_>) -> Result<Making<'c>> {
        making::begin(self, request)
    }

    /// False when there is no directory before there is an init: a systemd scope on v2 is never without a process.
    pub fn comes_first(&self) -> bool {
        !(matches!(self.driver, Driver::Systemd(_)) && self.hierarchy == Hierarchy::V2)
    }

    /// Makes the directories in every hierarchy, with limits and device rules, before anybody is in it. Refuses one that
    /// exists and has processes or is frozen ([`Kind::FailedPrecondition`]). On error removes what it made, no more. A
    /// limit that cannot be written is named with file, value and errno.
    pub fn create(&self, resources: &LinuxResources) -> Result<()> {
        make::create(self, resources, &make::Asked::of(self.hierarchy, resources)?)
    }

    /// How a child comes into the cgroup by itself, in every hierarchy and without the 10 ms that [`Cgroup::add`] takes. An
    /// exec names its container's init by a directory in /proc: where the cgroup is gone it goes to init's.
    pub fn entry(&self, init: Option<&str>) -> Result<Entry> {
        entry::entry(self, init)
    }

    /// Puts this process, which has one thread, into the cgroup. An exec names its container's init by a directory in /proc:
    /// where the cgroup is gone, or takes no process of its own any more, it goes to init's, and where it may not be entered
    /// it stays outside, as with runc.
    pub fn enter(&self, init: Option<&str>) -> Result<()> {
        rootless::enter(self, init)
    }

    /// Has a user's systemd put process `pid`, an exec that could not enter by itself, into the cgroup.
    pub fn take_in(&self, pid: i32) -> Result<()> {
        match &self.driver {
            Driver::Systemd(unit) if self.rootless && !self.pids()?.contains(&pid) => systemd::attach(unit, pid),
            _ => Ok(()),
        }
    }

    /// The v2 cgroup that a process, named by its directory in /proc, is in now, for CLONE_INTO_CGROUP.
    pub fn of_process(process: &str) -> Result<OwnedFd> {
        entry::of_process(process)
    }

    /// The cgroup that has `subs` below it: for a controller, or for all where none is named, a path below the container's
    /// own. Whether it is there shows when it is entered. A `..` and a controller that is not there are refused.
    pub fn below(&self, subs: &[(Option<String>, PathBuf)]) -> Result<Self> {
        below::below(self, subs)
    }

    /// Moves process `pid`, which is there already, into the cgroup in every hierarchy. For a process that is being made
    /// [`Cgroup::entry`] is far cheaper.
    pub fn add(&self, pid: i32) -> Result<()> {
        for place in &self.places {
            add(&Dir::open(&place.dir)?, pid)?;
        }
        Ok(())
    }

    /// Sets the limits that `resources` names and leaves the others. Its device rules are not looked at, as with runc:
    /// callers pass what a container was made with, and others (GPU plug-ins) may have added to it since. A cgroup that is
    /// gone is [`Kind::NotFound`]. An update that fails leaves what was there before; one that does not can be taken back.
    pub fn update(&self, resources: &LinuxResources) -> Result<Before<'_>> {
        make::update(self, resources)
    }

    /// Puts the device rules of `resources` and the default ones in place of those that are in force, without a moment in
    /// which neither is, and without taking away what both have.
    pub fn update_devices(&self, resources: &LinuxResources) -> Result<()> {
        make::update_devices(self, resources)
    }

    /// Lets user `uid` of the host divide the cgroup further and move processes within it. v1 knows nothing like it that is
    /// safe: there nothing is done.
    fn delegate(&self, uid: u32) -> Result<()> {
        match self.hierarchy {
            Hierarchy::V1 => Ok(()),
            Hierarchy::V2 => delegate::delegate(&Dir::open(&self.main_place()?.dir)?, uid),
        }
    }

    /// The processes in the cgroup and in those below it, in ascending order. Gone: [`Kind::NotFound`].
    pub fn pids(&self) -> Result<Vec<i32>> {
        let dir = &self.main_place()?.dir;
        tree::pids(dir)?.ok_or_else(|| Error::new(Kind::NotFound, format!("cgroup {} does not exist", dir.display())))
    }

    /// Sends `signal` to every process that is in the cgroup or below it in any hierarchy and not in `sent`, so that none
    /// forks away from it, and adds them to `sent`, also when it fails. Gives how many processes were there. A frozen cgroup
    /// stays frozen except for SIGKILL, which could not work there; what keeps appearing is killed until `until`. Gone:
    /// [`Kind::NotFound`].
    pub fn signal_all(&self, signal: i32, until: Instant, sent: &mut HashSet<i32>) -> Result<usize> {
        kill::signal_all(self, signal, until, sent)
    }

    /// Stops every process and waits until they all stand, bounded; when they do not, lets all go on again.
    pub fn freeze(&self) -> Result<()> {
        match self.hierarchy {
            Hierarchy::V1 => freeze::freeze_v1(&self.freezer()?),
            Hierarchy::V2 => freeze::freeze_v2(&self.freezer()?),
        }
    }

    /// Lets every process go on.
    pub fn thaw(&self) -> Result<()> {
        match self.hierarchy {
            Hierarchy::V1 => freeze::thaw_v1(&self.freezer()?),
            Hierarchy::V2 => freeze::thaw_v2(&self.freezer()?),
        }
    }

    /// Whether [`Cgroup::freeze`] stops process `pid`.
    pub fn freezes(&self, pid: i32) -> Result<bool> {
        Ok(tree::pids(self.freezer()?.path())?.is_some_and(|pids| pids.contains(&pid)))
    }

    /// Whether it is frozen by [`Cgroup::freeze`]. One frozen only from above, without a freezer, or gone, is not.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Ok(dir) => freeze::is_frozen(&dir),
            Err(e) if gone(&e) || e.kind() == Kind::Unsupported => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// What it has used. Gone: [`Kind::NotFound`].
    pub fn stats(&self) -> Result<Stats> {
        stats::read(self)
    }

    /// Which CPUs and memory nodes it has, what each CPU did, and which huge pages are set aside: what the kernel says beyond
    /// [`Cgroup::stats`]. Gone: [`Kind::NotFound`].
    pub fn placement(&self) -> Result<Placement> {
        stats::read_placement(self)
    }

    /// An fd that tells of OOM kills, and their count. Without a memory controller: [`Kind::Unsupported`].
    pub fn oom_watch(&self) -> Result<OomWatch> {
        oom::watch(self)
    }

    /// How many processes have been OOM killed since the cgroup was made.
    pub fn oom_kills(&self) -> Result<u64> {
        oom::kills(self)
    }

    /// Removes the cgroup and those below it in every hierarchy, and the unit. Processes on their way out are waited for,
    /// about a second in all. What is not there is fine; all errors are told. A systemd that does not answer is only warned
    /// of once the directories are gone: a unit without processes ends by itself.
    pub fn delete(&self) -> Result<()> {
        self.delete_within(Duration::MAX)
    }

    /// The same, and no part of it takes longer than `patience`.
    pub fn delete_within(&self, patience: Duration) -> Result<()> {
        let stopped = match &self.driver {
            Driver::Cgroupfs => Ok(()),
            Driver::Systemd(unit) => systemd::stop(unit, patience),
        };
        let errors = self.remove_directories(patience);
        match stopped {
            Err(e) if errors.is_empty() => {
                log::warn!("{e}");
                Ok(())
            }
            stopped => Error::all(stopped.err().into_iter().chain(errors)),
        }
    }

    /// Removes the directories, and returns what went wrong.
    fn remove_directories(&self, patience: Duration) -> Vec<Error> {
        let until = Deadline::new(patience);
        self.places.iter().filter_map(|p| tree::remove(&p.dir, &until).err()).collect()
    }

    /// Whether the directory is there (v1: in the devices hierarchy, as runc asks).
    pub fn exists(&self) -> bool {
        self.main_place().is_ok_and(|p| p.dir.is_dir())
    }

    /// How its limits are written.
    pub fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// Its directory for a v1 controller (`cpu`, `name=systemd`), or on v2 for every controller; `""` is the v2
    /// hierarchy, in hybrid mode, too.
    pub fn path_in(&self, controller: &str) -> Option<&Path> {
        let found = |p: &&Place| match (self.hierarchy, controller) {
            (Hierarchy::V2, _) | (_, "") => p.controllers.is_empty(),
            (Hierarchy::V1, c) => p.has(c),
        };
        self.places.iter().find(found).map(|p| p.dir.as_path())
    }

    /// The directory that stands for all: v2's, or v1's of the devices controller.
    fn main_place(&self) -> Result<&Place> {
        let main = match self.hierarchy {
            Hierarchy::V1 => self.places.iter().find(|p| p.has("devices")).or(self.places.first()),
            Hierarchy::V2 => self.places.first(),
        };
        main.ok_or_else(|| Error::unsupported("cgroups not configured for container"))
    }

    fn freezer(&self) -> Result<Dir> {
        let why = if self.rootless {
            "cannot toggle freezer: cgroups not configured for container"
        } else {
            "freezer controller is not mounted"
        };
        let path = self.path_in("freezer").ok_or_else(|| Error::unsupported(why))?;
        Dir::open(path)
    }
}

/// Writes one pid. EINVAL can mean that the process is so new that the scheduler does not have it yet (v1 cpu,
/// TASK_NEW): that passes.
fn add(dir: &Dir, pid: i32) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..5 {
        last = dir.write("cgroup.procs", &pid.to_string());
        match &last {
            Err(e) if e.errno() == Some(libc::EINVAL) => std::thread::sleep(std::time::Duration::from_millis(30)),
            _ => break,
        }
    }
    last.with_context(|| format!("add process {pid} to cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hybrid() -> Cgroup {
        let place = |controllers: &[&str], dir: &str| Place {
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            dir: dir.into(),
        };
        let places = vec![place(&["cpu", "cpuacct"], "/c/x"), place(&["devices"], "/d/x"), place(&[], "/u/x")];
        Cgroup { hierarchy: Hierarchy::V1, driver: Driver::Cgroupfs, places, rootless: false }
    }

    #[test]
    fn state_json_keeps_all_of_it() {
        let json = serde_json::to_string(&hybrid()).unwrap();
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), hybrid());
    }

    #[test]
    fn paths_by_controller() {
        let c = hybrid();
        for (name, path) in [("cpuacct", Some("/c/x")), ("devices", Some("/d/x")), ("", Some("/u/x")), ("memory", None)]
        {
            assert_eq!(c.path_in(name), path.map(Path::new), "{name}");
        }
        assert_eq!(c.main_place().unwrap().dir, Path::new("/d/x"));
    }

    #[test]
    fn a_unit_is_kept_in_state_json_and_names_its_directories() {
        let path = Path::new("a-b.slice:p:n");
        let unit = systemd::Unit::new(Some(path), "c1", systemd::Whose::Host).unwrap();
        let cgroup = Cgroup { driver: Driver::Systemd(unit), ..hybrid() };
        let json = serde_json::to_string(&cgroup).unwrap();
        assert!(json.contains(r#""driver":{"systemd":{"name":"p-n.scope","slice":"a-b.slice"}}"#), "{json}");
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), cgroup);
    }
}
