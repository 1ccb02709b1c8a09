//! New limits and device rules for a cgroup that exists.

use oci_spec::runtime::LinuxResources;

use super::{
    check,
    devices::rules,
    dir::{Dir, gone},
    location::{Cgroup, Driver, Hierarchy, Place},
    row::{self, Row},
    snapshot::{Dirs, Snapshot},
    systemd::scope,
    v1, v2,
};
use crate::error::{Context, Error, Kind, Result};

impl Cgroup {
    /// Sets the limits that `resources` name and leaves all others. Ignores their device rules, as runc does: callers repeat
    /// those of config.json, and a device plug-in (GPU) may have changed them since. The returned snapshot can undo the
    /// update.
    ///
    /// # Errors
    /// Names the bad field, or file, value and errno of a limit that the kernel refuses; no limit is changed then.
    /// [`Kind::NotFound`] if the cgroup does not exist.
    pub fn update(&self, resources: &LinuxResources) -> Result<Snapshot<'_>> {
        rules::rules(resources).context("resources.devices")?;
        check::check(resources, "resources")?;
        let updated = || {
            let (dirs, mut rows) = wanted(self, resources)?;
            let mut snapshot = Snapshot::take(self, dirs, &rows)?;
            match set(self, &mut snapshot, &mut rows) {
                Ok(()) => Ok(snapshot),
                Err(e) => Err(snapshot.roll_back(e)),
            }
        };
        updated().context("update cgroup")
    }
}

/// The rows of an update and the directories that they go to. Every error of the request is found here.
fn wanted<'c>(cgroup: &'c Cgroup, resources: &LinuxResources) -> Result<(Dirs<'c>, Vec<Row>)> {
    match cgroup.hierarchy {
        Hierarchy::V1 => {
            v1::limits::check(resources)?;
            let mut rows = v1::limits::rows(resources);
            if cgroup.is_by_systemd() {
                complete_quota_v1(cgroup, &mut rows)?;
            }
            let used = |p: &&Place| rows.iter().any(|row| p.has(row.controller));
            let dirs = cgroup.places.iter().filter(used).map(|p| Ok((p, open(p)?))).collect::<Result<_>>()?;
            Ok((dirs, rows))
        }
        Hierarchy::V2 => {
            let place = cgroup.main_place()?;
            let dir = open(place)?;
            let resources = v2::apply::complete(&dir, resources)?;
            v2::limits::check(&resources)?;
            v2::apply::check_before_update(&dir, &resources)?;
            Ok((vec![(place, dir)], v2::limits::rows(&resources)))
        }
    }
}

fn set(cgroup: &Cgroup, snapshot: &mut Snapshot<'_>, rows: &mut [Row]) -> Result<()> {
    if let Driver::Systemd(unit) = &cgroup.driver {
        scope::update(unit, cgroup, rows)?;
        snapshot.systemd_was_changed();
    }
    match (cgroup.hierarchy, snapshot.dir_of("")) {
        (Hierarchy::V2, Some(dir)) => v2::apply::apply(dir, rows),
        _ => row::apply(rows, |controller| snapshot.dir_of(controller)),
    }
}

/// Adds the quota or the period, whichever is missing, from the kernel: systemd has one property for both.
fn complete_quota_v1(cgroup: &Cgroup, rows: &mut Vec<Row>) -> Result<()> {
    const FILES: [&str; 2] = ["cpu.cfs_period_us", "cpu.cfs_quota_us"];
    let missing: Vec<&str> = FILES.into_iter().filter(|file| !rows.iter().any(|row| row.file == *file)).collect();
    if let (&[file], Some(place)) = (missing.as_slice(), cgroup.places.iter().find(|p| p.has("cpu"))) {
        let now = open(place)?.read(file)?;
        rows.push(Row::new("cpu", file, now.trim()));
    }
    Ok(())
}

fn open(place: &Place) -> Result<Dir> {
    place.open().map_err(|e: Error| if gone(&e) { e.with_kind(Kind::NotFound) } else { e })
}
