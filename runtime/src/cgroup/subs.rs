//! Cgroups below the container's own that its init is to be in, as crun has them by annotation.
//!
//! ```text
//! cgroupsPath                              the container's own: limits, device rules, all that is done to it
//! └ run.oci.systemd.subgroup               before there is a cgroup namespace: its root
//!   └ run.oci.delegate-cgroup              inside the namespace: the container divides it as it likes
//! ```
//!
//! On v2 alone: a v1 controller lets whoever divides it take more than it was given.

use std::{collections::HashMap, path::Component, path::Path};

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, Driver, Hierarchy, add, delegate, dir::Dir, make, unified};
use crate::error::{Context, Error, Result};

/// Names a cgroup below the scope; nothing without the systemd driver.
pub const SUBGROUP: &str = "run.oci.systemd.subgroup";
/// Names a cgroup below that.
pub const DELEGATE: &str = "run.oci.delegate-cgroup";

/// The two names.
pub(super) struct Subs {
    subgroup: Option<String>,
    delegated: Option<String>,
}

impl Subs {
    /// Those of a container's annotations.
    ///
    /// # Errors
    /// Names that lead elsewhere, and any on cgroup v1.
    pub(super) fn of(cgroup: &Cgroup, annotations: Option<&HashMap<String, String>>) -> Result<Self> {
        let named = |key: &str| {
            let Some(name) = annotations.and_then(|all| all.get(key)).filter(|name| !name.is_empty()) else {
                return Ok(None);
            };
            let why = match cgroup.hierarchy {
                Hierarchy::V1 => "there is none on cgroup v1",
                Hierarchy::V2 if !cgroup.is_any() => "the container has no cgroup",
                Hierarchy::V2 if !is_below(name) => "not a path below a cgroup",
                Hierarchy::V2 => return Ok(Some(name.clone())),
            };
            Err(Error::invalid(format!("annotations.{key}: {name:?}: {why}")))
        };
        let systemd = matches!(cgroup.driver, Driver::Systemd(_));
        Ok(Self { subgroup: if systemd { named(SUBGROUP)? } else { None }, delegated: named(DELEGATE)? })
    }

    /// Before init has a cgroup namespace: puts it into the subgroup.
    pub(super) fn before_namespace(&self, cgroup: &Cgroup, init: i32) -> Result<()> {
        match &self.subgroup {
            Some(name) => put(&cgroup.main_place()?.dir.join(name), init)
                .map(drop)
                .with_context(|| format!("annotations.{SUBGROUP}")),
            None => Ok(()),
        }
    }

    /// When init is in all of its namespaces: puts it into the delegated cgroup, and gives what is delegated to `owner`.
    pub(super) fn in_namespace(&self, cgroup: &Cgroup, init: i32, owner: Option<u32>) -> Result<()> {
        let Some(name) = &self.delegated else {
            return owner.map_or(Ok(()), |uid| cgroup.delegate(uid)).context("linux.cgroupsPath");
        };
        let given = || {
            let base = cgroup.main_place()?.dir.join(self.subgroup.as_deref().unwrap_or_default());
            let dir = put(&base.join(name), init)?;
            owner.map_or(Ok(()), |uid| delegate::delegate(&dir, uid))
        };
        given().with_context(|| format!("annotations.{DELEGATE}"))
    }
}

/// Names, and nothing else.
fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes the cgroup `path` below one that holds `init` alone, and moves it there; then nothing is in the one above, and
/// controllers go down.
fn put(path: &Path, init: i32) -> Result<Dir> {
    make::directories(path)?;
    let dir = Dir::open(path)?;
    add(&dir, init)?;
    unified::enable_controllers(&dir, &LinuxResources::default())?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below() {
        for (name, below) in
            [("a", true), ("a/b", true), ("/a", false), ("../a", false), ("a/../..", false), (".", false)]
        {
            assert_eq!(is_below(name), below, "{name}");
        }
    }
}
