//! Where a container's cgroup is: its directory in each hierarchy, and who makes these directories.
//!
//! [`Cgroup`] is plain data and part of state.json, so a later process works on the recorded directories and does not
//! resolve cgroupsPath again. The operations on it are in the sibling modules, each as an `impl Cgroup`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{dir::Dir, host::host, unit::Unit};
use crate::error::{Error, Result};

/// The version of the cgroup interface: it decides how limits are written and how usage is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// One hierarchy for each controller. In hybrid mode a v2 hierarchy without controllers is mounted as well.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Hierarchy {
    /// The version that this host uses.
    ///
    /// # Errors
    /// No cgroup hierarchy is mounted.
    pub fn of_host() -> Result<Self> {
        Ok(if host()?.unified() { Self::V2 } else { Self::V1 })
    }
}

/// Who makes the directories of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Driver {
    /// berth, with mkdir(2).
    Cgroupfs,
    /// systemd, for this unit.
    Systemd(Unit),
}

/// The cgroup driver that the caller chose (`--systemd-cgroup`, `--cgroup-manager`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// berth makes the cgroup, unless `linux.cgroupsPath` has the systemd form `slice:prefix:name`.
    #[default]
    Cgroupfs,
    /// systemd makes the cgroup, as that of a scope.
    Systemd,
    /// The container gets no cgroup and stays in the caller's.
    Disabled,
}

/// A container's cgroup. The directories need not exist (yet, or any more).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub(super) hierarchy: Hierarchy,
    pub(super) driver: Driver,
    pub(super) places: Vec<Place>,
    /// The caller had no full rights to cgroups ([`super::Rights::Delegated`]), or chose [`Manager::Disabled`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) rootless: bool,
}

/// The directory of a cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The v1 controllers of the hierarchy; empty for v2.
    pub controllers: Vec<String>,
    pub dir: PathBuf,
}

impl Place {
    /// Whether this is the hierarchy of a v1 controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Whether this is the v2 hierarchy.
    pub(super) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Opens the directory.
    pub(super) fn open(&self) -> Result<Dir> {
        Dir::open(&self.dir)
    }
}

/// The opened directory of a cgroup that is being set up, in one hierarchy.
pub(super) struct OpenPlace<'a> {
    pub place: &'a Place,
    pub dir: Dir,
    /// This setup made the directory, so its files still have the kernel's defaults.
    pub fresh: bool,
}

impl Cgroup {
    /// Whether a cgroup was made for the container. False if the container stays in the caller's cgroup
    /// ([`Manager::Disabled`], or an unprivileged caller that may make none).
    pub fn is_managed(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether the caller had no full rights to cgroups.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// Whether berth sets device rules. It does not for a rootless cgroup: both versions let only root of the host change
    /// them, so the rules of the parent cgroups hold.
    pub(super) fn has_device_rules(&self) -> bool {
        !self.rootless
    }

    /// Whether the directories exist before the container's init does. True except for a systemd scope on v2: systemd
    /// makes a scope only together with a process, and removes it with the last one.
    pub fn exists_before_init(&self) -> bool {
        !(self.is_by_systemd() && self.hierarchy == Hierarchy::V2)
    }

    /// Whether systemd makes the cgroup.
    pub(super) fn is_by_systemd(&self) -> bool {
        matches!(self.driver, Driver::Systemd(_))
    }

    /// Whether the directory exists. On v1 that of the devices controller counts, as with runc.
    pub fn exists(&self) -> bool {
        self.main_place().is_ok_and(|p| p.dir.is_dir())
    }

    /// The version of the cgroup interface.
    pub fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// The directory for a v1 controller (`cpu`, `name=systemd`). On v2 all controllers have the same directory. `""` means
    /// the v2 hierarchy, also in hybrid mode.
    pub fn path_in(&self, controller: &str) -> Option<&Path> {
        let found = |p: &&Place| match (self.hierarchy, controller) {
            (Hierarchy::V2, _) | (_, "") => p.is_v2(),
            (Hierarchy::V1, c) => p.has(c),
        };
        self.places.iter().find(found).map(|p| p.dir.as_path())
    }

    /// The place whose directory stands for the whole cgroup: on v1 that of the devices controller.
    pub(super) fn main_place(&self) -> Result<&Place> {
        let main = match self.hierarchy {
            Hierarchy::V1 => self.places.iter().find(|p| p.has("devices")).or(self.places.first()),
            Hierarchy::V2 => self.places.first(),
        };
        main.ok_or_else(|| Error::unsupported("cgroups not configured for container"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cgroup::unit::Instance;

    /// A cgroup in three hierarchies of a hybrid host.
    fn hybrid() -> Cgroup {
        let places = vec![place(&["cpu", "cpuacct"], "/c/x"), place(&["devices"], "/d/x"), place(&[], "/u/x")];
        Cgroup { hierarchy: Hierarchy::V1, driver: Driver::Cgroupfs, places, rootless: false }
    }

    /// A place with these controllers.
    pub(in crate::cgroup) fn place(controllers: &[&str], dir: &str) -> Place {
        Place { controllers: controllers.iter().map(|c| (*c).to_owned()).collect(), dir: dir.into() }
    }

    #[test]
    fn cgroup_survives_a_round_trip_through_state_json() {
        let json = serde_json::to_string(&hybrid()).unwrap();
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), hybrid());
    }

    #[test]
    fn path_in_finds_the_directory_of_a_controller() {
        let c = hybrid();
        for (name, path) in [("cpuacct", Some("/c/x")), ("devices", Some("/d/x")), ("", Some("/u/x")), ("memory", None)]
        {
            assert_eq!(c.path_in(name), path.map(Path::new), "{name}");
        }
        assert_eq!(c.main_place().unwrap().dir, Path::new("/d/x"));
    }

    #[test]
    fn state_json_keeps_the_systemd_unit() {
        let path = Path::new("a-b.slice:p:n");
        let unit = |instance| Unit::new(Some(path), "c1", instance).unwrap();
        let of = |instance| Cgroup { driver: Driver::Systemd(unit(instance)), ..hybrid() };
        let json = serde_json::to_string(&of(Instance::System)).unwrap();
        assert!(json.contains(r#""driver":{"systemd":{"name":"p-n.scope","slice":"a-b.slice"}}"#), "{json}");
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), of(Instance::System));
        let json = serde_json::to_string(&of(Instance::User)).unwrap();
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), of(Instance::User));
        // The name of the field in records of earlier versions.
        let json = json.replace("\"instance\"", "\"whose\"");
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), of(Instance::User));
    }
}
