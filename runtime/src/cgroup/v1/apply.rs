//! Writes limits and device rules into the v1 directories of a new cgroup.

use std::path::Path;

use super::limits::DEFAULTS;
use crate::{
    cgroup::{
        devices::{allowlist, rules::Rule},
        dir::Dir,
        location::{OpenPlace, Place},
        row::{self, Row},
    },
    error::{Error, Kind, Result},
};

/// Whether [`fill`] writes anything into a new directory of this hierarchy: limits, an inherited cpuset, device rules.
pub(in crate::cgroup) fn is_written(place: &Place, rows: &[Row]) -> bool {
    place.has("cpuset") || place.has("devices") || rows.iter().any(|row| place.has(row.controller))
}

/// Writes the rows, and the device rules unless they are None.
///
/// # Errors
/// Names the file and the value that the kernel refuses.
pub(in crate::cgroup) fn fill(open: &[OpenPlace<'_>], rows: &[Row], rules: Option<&[Rule]>) -> Result<()> {
    let of = |controller: &str| open.iter().find(|o| o.place.has(controller));
    if let Some(cpuset) = of("cpuset") {
        inherit_cpuset(cpuset, rows)?;
    }
    let is_needed = |row: &&Row| {
        let fresh = of(row.controller).is_none_or(|o| o.fresh);
        !(fresh && DEFAULTS.contains(&(row.file.as_ref(), row.value.as_str())))
    };
    let rows: Vec<Row> = rows.iter().filter(is_needed).cloned().collect();
    row::apply(&rows, |controller| of(controller).map(|o| &o.dir))?;
    let Some(rules) = rules else { return Ok(()) };
    match of("devices") {
        Some(o) => allowlist::apply(&o.dir, rules, o.fresh),
        None => Err(Error::unsupported("cgroup: devices hierarchy is not mounted")),
    }
}

/// Copies CPUs and memory nodes that the container does not name from the parent. A v1 cpuset starts empty and takes no
/// process until it has both. The parent's own lists may be empty as well.
fn inherit_cpuset(open: &OpenPlace<'_>, rows: &[Row]) -> Result<()> {
    const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let parent = Dir::open(open.place.dir.parent().unwrap_or(Path::new("/")))?;
    for file in FILES {
        // Also if the container names its own list: the kernel requires that the parent's contains it.
        let list = filled_list(&parent, file)?;
        let named = rows.iter().any(|row| row.file == file);
        if !named && (open.fresh || open.dir.read(file)?.trim().is_empty()) {
            open.dir.write(file, &list)?;
        }
    }
    Ok(())
}

/// The list in `file` of `dir`. An empty list is filled with that of the nearest ancestor first; the root of the hierarchy
/// always has one.
fn filled_list(dir: &Dir, file: &str) -> Result<String> {
    let list = dir.read(file)?;
    if !list.trim().is_empty() {
        return Ok(list.trim().to_owned());
    }
    let mut empty = Vec::new();
    for ancestor in dir.path().ancestors().skip(1) {
        let ancestor = Dir::open(ancestor)?;
        let list = ancestor.read(file)?;
        let list = list.trim();
        if !list.is_empty() {
            for child in empty.iter().rev().chain([dir]) {
                child.write(file, list)?;
            }
            return Ok(list.to_owned());
        }
        empty.push(ancestor);
    }
    Err(Error::new(Kind::Internal, format!("{file}: no parent of {} has one", dir.path().display())))
}
