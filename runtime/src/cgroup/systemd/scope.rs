//! The operations on the scope of a container.
//!
//! ```text
//! prepare   connect and translate; nothing is made yet, and errors of the request show here
//!     clone: init waits
//! start     StartTransientUnit(PIDs=[init], all properties), then wait for the job; then files and device rules
//!     init goes on
//! update    SetUnitProperties, then the files            stop    StopUnit, ResetFailedUnit
//! ```
//!
//! systemd refuses a scope without a process. So init is cloned outside and moved into the scope, and makes its cgroup
//! namespace afterwards.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    device_policy,
    manager::{Manager, PATIENCE, Property, STOP_PATIENCE},
    properties,
};
use crate::{
    cgroup::{
        devices::rules::Rule,
        location::{Cgroup, Hierarchy},
        row::Row,
        unit::{Instance, Unit},
    },
    error::{Context, Error, Kind, Result},
};

/// A scope that can be started.
pub(in crate::cgroup) struct Scope<'a> {
    unit: &'a Unit,
    id: String,
    hierarchy: Hierarchy,
    manager: Option<Manager>,
    properties: Vec<Property>,
    /// All limits, also those with a property: they are written to the files after the start.
    pub rows: Vec<Row>,
}

impl<'a> Scope<'a> {
    /// Translates the request and connects to systemd. Makes nothing.
    ///
    /// # Errors
    /// A limit, rule or annotation that systemd cannot express; a systemd that cannot be reached or is too old.
    pub(in crate::cgroup) fn prepare(
        unit: &'a Unit,
        id: &str,
        hierarchy: Hierarchy,
        mut rows: Vec<Row>,
        rules: &[Rule],
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self> {
        let mut properties = properties::annotated(annotations)?;
        let devices = device_policy::properties(hierarchy, rules)?;
        let mut manager = Manager::connect(unit.instance, PATIENCE)?;
        let version = supported(&mut manager)?;
        // The later value of a property counts, so linux.resources overrides the annotations.
        properties.extend(properties::limits(hierarchy, &mut rows, version)?);
        properties.extend(devices);
        Ok(Self { unit, id: id.to_owned(), hierarchy, manager: Some(manager), properties, rows })
    }

    /// Starts the unit with the process `init` in it, and waits for the end of the job.
    ///
    /// # Errors
    /// systemd refuses a property or does not answer in time; the job fails.
    pub(in crate::cgroup) fn start(&mut self, init: i32) -> Result<()> {
        let Some(mut manager) = self.manager.take() else { return Ok(()) };
        let mut properties = properties::identity(self.unit, &self.id, init, self.hierarchy);
        properties.append(&mut self.properties);
        manager.start(&self.unit.name, &properties).context("unable to apply cgroup configuration")?;
        manager.done();
        Ok(())
    }

    /// The name of the unit.
    pub(in crate::cgroup) fn name(&self) -> &str {
        &self.unit.name
    }
}

/// Sets the properties of the unit for `rows`, and adjusts `rows` to the precision of systemd.
///
/// # Errors
/// systemd refuses a property or does not answer in time.
pub(in crate::cgroup) fn update(unit: &Unit, cgroup: &Cgroup, rows: &mut [Row]) -> Result<()> {
    let mut manager = Manager::connect(unit.instance, PATIENCE)?;
    let version = supported(&mut manager)?;
    let properties = properties::limits(cgroup.hierarchy(), rows, version)?;
    if !properties.is_empty() {
        set(&mut manager, unit, cgroup, &properties)?;
    }
    manager.done();
    Ok(())
}

/// Restores the properties of the unit after a failed update. `rows` are the limits before it.
///
/// # Errors
/// As [`update`].
pub(in crate::cgroup) fn restore(unit: &Unit, cgroup: &Cgroup, rows: &mut [Row]) -> Result<()> {
    let mut manager = Manager::connect(unit.instance, PATIENCE)?;
    let version = supported(&mut manager)?;
    let mut properties = properties::limits(cgroup.hierarchy(), rows, version)?;
    properties.extend(properties::unset(rows, version));
    if !properties.is_empty() {
        set(&mut manager, unit, cgroup, &properties)?;
    }
    manager.done();
    Ok(())
}

/// Sets properties of the unit. On v1 the cgroup is frozen meanwhile: systemd rewrites the whole list of devices at any
/// change, beginning with "nothing is allowed".
fn set(manager: &mut Manager, unit: &Unit, cgroup: &Cgroup, properties: &[Property]) -> Result<()> {
    let freeze = cgroup.hierarchy() == Hierarchy::V1 && cgroup.path_in("freezer").is_some() && !cgroup.is_frozen()?;
    if freeze {
        cgroup.freeze()?;
    }
    let set = manager.set_properties(&unit.name, properties);
    let thawed = if freeze { cgroup.thaw() } else { Ok(()) };
    set.and(thawed)
}

/// The cgroup of a unit, as a path from the root of the hierarchy. A user's systemd is asked for the cgroup that it manages.
///
/// # Errors
/// The user's systemd does not answer in time.
pub(in crate::cgroup) fn cgroup_path(unit: &Unit) -> Result<PathBuf> {
    if unit.instance == Instance::System {
        return Ok(unit.path());
    }
    let mut manager = Manager::connect(unit.instance, PATIENCE)?;
    let top = manager.control_group()?;
    manager.done();
    let inside = Path::new(top.trim_start_matches('/'));
    if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
        let text = format!("systemd: its cgroup {top:?} is not understood");
        return Err(Error::new(Kind::Internal, text));
    }
    Ok(inside.join(unit.path()))
}

/// Has systemd move a process into the cgroup of the unit.
///
/// # Errors
/// systemd refuses or does not answer in time.
pub(in crate::cgroup) fn attach(unit: &Unit, pid: i32) -> Result<()> {
    let mut manager = Manager::connect(unit.instance, PATIENCE)?;
    manager.attach(&unit.name, pid)?;
    manager.done();
    Ok(())
}

/// Stops the unit, if it exists, and makes systemd forget it. Waits for at most `patience`.
///
/// # Errors
/// systemd refuses or does not answer in time.
pub(in crate::cgroup) fn stop(unit: &Unit, patience: Duration) -> Result<()> {
    let mut manager = Manager::connect(unit.instance, STOP_PATIENCE.min(patience))?;
    manager.stop(&unit.name, &unit.slice)?;
    manager.done();
    Ok(())
}

/// The version of systemd, unless it is too old.
fn supported(manager: &mut Manager) -> Result<u32> {
    match manager.version()? {
        old if old < properties::OLDEST => Err(Error::unsupported(format!(
            "systemd cgroup driver: systemd {old} is too old, {} is needed",
            properties::OLDEST
        ))),
        version => Ok(version),
    }
}
