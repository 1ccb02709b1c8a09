//! Cgroups below the container's own that annotations ask for, as with crun. The container's init is moved into them.
//!
//! ```text
//! cgroupsPath                   the container's own cgroup: limits, device rules, all operations
//! └ run.oci.systemd.subgroup    init is moved here before it makes a cgroup namespace: the root of the namespace
//!   └ run.oci.delegate-cgroup   init is moved here afterwards: the container may divide this cgroup
//! ```
//!
//! Only on v2: a v1 controller lets the owner of a cgroup raise its limits.

use std::{
    collections::HashMap,
    path::{Component, Path},
};

use super::{
    delegate::delegate,
    dir::Dir,
    join::add,
    location::{Cgroup, Hierarchy},
    mkdir::NewDirs,
    v2::apply::enable_controllers,
};
use crate::error::{Context, Error, Result};

/// The annotation for a cgroup below the scope. It has no effect without the systemd driver.
pub const SUBGROUP_ANNOTATION: &str = "run.oci.systemd.subgroup";
/// The annotation for a delegated cgroup below that.
pub const DELEGATE_ANNOTATION: &str = "run.oci.delegate-cgroup";

/// The names from the two annotations.
pub(super) struct SubCgroups {
    subgroup: Option<String>,
    delegated: Option<String>,
}

impl SubCgroups {
    /// Reads the annotations of a container.
    ///
    /// # Errors
    /// A name is no relative path below the cgroup; cgroup v1.
    pub(super) fn of(cgroup: &Cgroup, annotations: Option<&HashMap<String, String>>) -> Result<Self> {
        let named = |key: &str| {
            let Some(name) = annotations.and_then(|all| all.get(key)).filter(|name| !name.is_empty()) else {
                return Ok(None);
            };
            let why = match cgroup.hierarchy {
                Hierarchy::V1 => "there is none on cgroup v1",
                Hierarchy::V2 if !cgroup.is_managed() => "the container has no cgroup",
                Hierarchy::V2 if !is_below(name) => "not a path below a cgroup",
                Hierarchy::V2 => return Ok(Some(name.clone())),
            };
            Err(Error::invalid(format!("annotations.{key}: {name:?}: {why}")))
        };
        let subgroup = if cgroup.is_by_systemd() { named(SUBGROUP_ANNOTATION)? } else { None };
        Ok(Self { subgroup, delegated: named(DELEGATE_ANNOTATION)? })
    }

    /// Moves init into the subgroup. Called before init makes a cgroup namespace.
    ///
    /// # Errors
    /// Names the annotation.
    pub(super) fn before_namespace(&self, cgroup: &Cgroup, init: i32) -> Result<()> {
        match &self.subgroup {
            Some(name) => make_and_add(&cgroup.main_place()?.dir.join(name), init)
                .map(drop)
                .with_context(|| format!("annotations.{SUBGROUP_ANNOTATION}")),
            None => Ok(()),
        }
    }

    /// Moves init into the delegated cgroup, and gives the delegated cgroup (without an annotation the container's own) to
    /// user `owner` of the host. Called when init is in all its namespaces.
    ///
    /// # Errors
    /// Names the annotation, or the file whose owner cannot be changed.
    pub(super) fn in_namespace(&self, cgroup: &Cgroup, init: i32, owner: Option<u32>) -> Result<()> {
        let Some(name) = &self.delegated else {
            return owner.map_or(Ok(()), |uid| cgroup.delegate(uid)).context("linux.cgroupsPath");
        };
        let given = || {
            let base = cgroup.main_place()?.dir.join(self.subgroup.as_deref().unwrap_or_default());
            let dir = make_and_add(&base.join(name), init)?;
            owner.map_or(Ok(()), |uid| delegate(&dir, uid))
        };
        given().with_context(|| format!("annotations.{DELEGATE_ANNOTATION}"))
    }
}

/// Whether a path has only names, so that it stays below.
fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes the cgroup `path` and moves `init` into it. Its parent had no other process, so controllers can be enabled for
/// `path` afterwards.
fn make_and_add(path: &Path, init: i32) -> Result<Dir> {
    let mut made = NewDirs::new()?;
    made.make(path)?;
    // The whole cgroup is removed with the container.
    made.keep();
    let dir = Dir::open(path)?;
    add(&dir, init)?;
    enable_controllers(&dir, false)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_paths_without_dots_are_below() {
        for (name, below) in
            [("a", true), ("a/b", true), ("/a", false), ("../a", false), ("a/../..", false), (".", false)]
        {
            assert_eq!(is_below(name), below, "{name}");
        }
    }
}
