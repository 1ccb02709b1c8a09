//! The systemd driver: the container's cgroup is that of a transient scope, which systemd makes and keeps on record.
//!
//! ```text
//! prepare: connect, translate        nothing is made yet, all that can be wrong in the request is said
//!    clone: init waits for its go
//! adopt:   StartTransientUnit(PIDs=[init], every property) -> job done -> the files, device rules
//!    go
//! update:  SetUnitProperties -> the files      stop: StopUnit -> ResetFailedUnit
//! ```
//!
//! A scope has no process of its own and is refused without one, so init is cloned outside and moved; its cgroup namespace
//! is made after that. Translation is in `unit`, `properties`, `devices`, `text`; the bus in `value`, `message`, `bus`,
//! `manager`. Everything that works on directories is left to the siblings: they find the scope's where they would find
//! their own.

mod bus;
mod devices;
mod manager;
mod message;
mod properties;
mod text;
mod unit;
mod value;
mod whose;

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use self::manager::{Manager, PATIENCE, Property, STOP};
pub(super) use self::{
    unit::Unit,
    whose::{Whose, owner_of_bus},
};
use super::{Cgroup, Hierarchy, devices::Rule, write::Write};
use crate::error::{Context, Error, Kind, Result};

/// A unit that is about to be started.
pub(super) struct Scope<'a> {
    unit: &'a Unit,
    id: String,
    hierarchy: Hierarchy,
    manager: Option<Manager>,
    properties: Vec<Property>,
    /// What the unit has no property for, and what it has, written to the files once more.
    pub writes: Vec<Write>,
}

/// Connects, and translates all of the request.
pub(super) fn prepare<'a>(
    unit: &'a Unit,
    id: &str,
    hierarchy: Hierarchy,
    mut writes: Vec<Write>,
    rules: &[Rule],
    annotations: Option<&HashMap<String, String>>,
) -> Result<Scope<'a>> {
    let mut properties = properties::annotated(annotations)?;
    // After the annotations: linux.resources has the last word.
    let devices = devices::properties(hierarchy, rules)?;
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    let version = supported(&mut manager)?;
    properties.extend(properties::limits(hierarchy, &mut writes, version)?);
    properties.extend(devices);
    Ok(Scope { unit, id: id.to_owned(), hierarchy, manager: Some(manager), properties, writes })
}

impl Scope<'_> {
    /// Starts the unit with the process `init` in it, and returns when it is there.
    pub(super) fn start(&mut self, init: i32) -> Result<()> {
        let Some(mut manager) = self.manager.take() else { return Ok(()) };
        let mut properties = properties::identity(self.unit, &self.id, init, self.hierarchy);
        properties.append(&mut self.properties);
        manager.start(&self.unit.name, &properties).context("unable to apply cgroup configuration")?;
        manager.done();
        Ok(())
    }

    /// The unit's name.
    pub(super) fn name(&self) -> &str {
        &self.unit.name
    }
}

/// Gives the unit the limits that `writes` are, which may be rounded by it.
pub(super) fn update(unit: &Unit, cgroup: &Cgroup, writes: &mut [Write]) -> Result<()> {
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    let version = supported(&mut manager)?;
    let properties = properties::limits(cgroup.hierarchy(), writes, version)?;
    if !properties.is_empty() {
        set(&mut manager, unit, cgroup, &properties)?;
    }
    manager.done();
    Ok(())
}

/// Gives the unit the limits back that it had before an update: `rows` are what the files had then.
pub(super) fn put_back(unit: &Unit, cgroup: &Cgroup, rows: &mut [Write]) -> Result<()> {
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    let version = supported(&mut manager)?;
    let mut properties = properties::limits(cgroup.hierarchy(), rows, version)?;
    properties.extend(properties::unset(rows, version));
    if !properties.is_empty() {
        set(&mut manager, unit, cgroup, &properties)?;
    }
    manager.done();
    Ok(())
}

/// Gives the unit other device rules.
pub(super) fn update_devices(unit: &Unit, cgroup: &Cgroup, rules: &[Rule]) -> Result<()> {
    let properties = devices::properties(cgroup.hierarchy(), rules)?;
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    set(&mut manager, unit, cgroup, &properties)?;
    manager.done();
    Ok(())
}

/// On v1 systemd writes the whole list of devices anew whatever changes, "nothing is allowed" first: nobody may run
/// meanwhile.
fn set(manager: &mut Manager, unit: &Unit, cgroup: &Cgroup, properties: &[Property]) -> Result<()> {
    let freeze = cgroup.hierarchy() == Hierarchy::V1 && cgroup.path_in("freezer").is_some() && !cgroup.is_frozen()?;
    if freeze {
        cgroup.freeze()?;
    }
    let set = manager.set_properties(&unit.name, properties);
    let thawed = if freeze { cgroup.thaw() } else { Ok(()) };
    set.and(thawed)
}

/// The cgroup of a unit, from the root of the v2 hierarchy: a user's systemd says where all of its own are.
pub(super) fn path(unit: &Unit) -> Result<PathBuf> {
    if unit.whose == Whose::Host {
        return Ok(unit.path());
    }
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    let top = manager.control_group()?;
    manager.done();
    let inside = Path::new(top.trim_start_matches('/'));
    if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
        let text = format!("systemd: its cgroup {top:?} is not understood");
        return Err(Error::new(Kind::Internal, text));
    }
    Ok(inside.join(unit.path()))
}

/// Has systemd put a process into the unit's cgroup.
pub(super) fn attach(unit: &Unit, pid: i32) -> Result<()> {
    let mut manager = Manager::connect(unit.whose, PATIENCE)?;
    manager.attach(&unit.name, pid)?;
    manager.done();
    Ok(())
}

/// Ends the unit, if there is one, and makes systemd forget it; takes no longer than `patience`.
pub(super) fn stop(unit: &Unit, patience: Duration) -> Result<()> {
    let mut manager = Manager::connect(unit.whose, STOP.min(patience))?;
    manager.stop(&unit.name, &unit.slice)?;
    manager.done();
    Ok(())
}

/// Closes the connection that is kept, unless it is in use.
pub(super) fn disconnect() {
    manager::disconnect();
}

fn supported(manager: &mut Manager) -> Result<u32> {
    match manager.version()? {
        old if old < properties::OLDEST => Err(Error::unsupported(format!(
            "systemd cgroup driver: systemd {old} is too old, {} is needed",
            properties::OLDEST
        ))),
        version => Ok(version),
    }
}
