//! A cgroup on its way to being a container's: everything before the container's first step, taken back unless it is kept.

use std::{collections::HashMap, time::Duration};

use oci_spec::runtime::LinuxResources;

use super::{
    Cgroup, Driver, devices,
    make::{self, Asked},
    subs::Subs,
    systemd,
};
use crate::error::Result;

/// What a container's cgroup is made with.
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// `linux.resources`.
    pub resources: &'a LinuxResources,
    /// Of config.json; systemd's properties may be among them.
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// A cgroup that is removed again unless it is kept.
pub struct Making<'c> {
    cgroup: &'c Cgroup,
    scope: Option<Wanted<'c>>,
    subs: Subs,
    progress: Progress,
}

/// A scope, and what has to be done in its cgroup.
struct Wanted<'c> {
    scope: systemd::Scope<'c>,
    resources: LinuxResources,
    rules: Vec<devices::Rule>,
}

/// What has to be taken back.
#[derive(PartialEq, Eq)]
enum Progress {
    Nothing,
    Directories,
    Unit,
    Kept,
}

/// See [`Cgroup::begin`].
pub(super) fn begin<'c>(cgroup: &'c Cgroup, request: &Request<'_>) -> Result<Making<'c>> {
    let resources = request.resources;
    let asked = Asked::of(cgroup.hierarchy, resources)?;
    let subs = Subs::of(cgroup, request.annotations)?;
    let Driver::Systemd(unit) = &cgroup.driver else {
        make::create(cgroup, resources, &asked)?;
        return Ok(Making { cgroup, scope: None, subs, progress: Progress::Directories });
    };
    make::refuse_existing(cgroup)?;
    let (writes, rules) = (asked.writes.clone(), asked.rules.clone());
    let scope = systemd::prepare(unit, request.id, cgroup.hierarchy, writes, &rules, request.annotations)?;
    let scope = Some(Wanted { scope, resources: resources.clone(), rules });
    if cgroup.comes_first() {
        // The container's mounts may bind these directories before there is a unit, and init puts itself into them far
        // cheaper than systemd could; systemd takes directories that are there.
        make::create(cgroup, resources, &asked)?;
        return Ok(Making { cgroup, scope, subs, progress: Progress::Directories });
    }
    Ok(Making { cgroup, scope, subs, progress: Progress::Nothing })
}

impl Making<'_> {
    /// Takes in the container's init, which is there and has not begun. Nothing to do where it was born inside.
    pub fn adopt(&mut self, init: i32) -> Result<()> {
        let Some(wanted) = &mut self.scope else { return Ok(()) };
        wanted.scope.start(init)?;
        self.progress = Progress::Unit;
        make::settle(self.cgroup, &wanted.resources, &wanted.scope, self.cgroup.own_rules(&wanted.rules), init)?;
        self.subs.before_namespace(self.cgroup, init)
    }

    /// Lets user `owner` of the host divide what is delegated to the container, whose init is in all of its namespaces; it
    /// is in a cgroup of its own below where an annotation says so.
    pub fn delegate(&self, init: i32, owner: Option<u32>) -> Result<()> {
        self.subs.in_namespace(self.cgroup, init, owner)
    }

    /// The container has it now.
    pub fn keep(mut self) {
        self.progress = Progress::Kept;
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        match self.progress {
            Progress::Nothing | Progress::Kept => {}
            Progress::Directories => {
                let _ = self.cgroup.remove_directories(Duration::MAX);
            }
            Progress::Unit => {
                let _ = self.cgroup.delete();
            }
        }
    }
}
