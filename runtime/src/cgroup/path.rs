//! From `linux.cgroupsPath` to the directories of a container, one in each hierarchy.
//!
//! The rules are runc's: an absolute path counts from the root of the hierarchy, a relative one from the cgroup of the
//! caller, and no path means the container's id. Unlike runc, berth refuses `..` instead of removing it: such a path is a
//! mistake or an attack.

use std::path::{Component, Path, PathBuf};

use super::{host::Host, location::Place};
use crate::error::{Error, Result};

/// The v1 controllers whose hierarchies a container joins. Other named hierarchies belong to other software.
const JOINED: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// A checked cgroupsPath: never empty, without `..`, never the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CgroupsPath {
    absolute: bool,
    path: PathBuf,
}

impl CgroupsPath {
    /// Checks `cgroups_path`; without one the path is `id`.
    ///
    /// # Errors
    /// Quotes the path or the id.
    pub(super) fn new(cgroups_path: Option<&Path>, id: &str) -> Result<Self> {
        let given = cgroups_path.filter(|p| !p.as_os_str().is_empty());
        let refuse = |why: &str| {
            Err(match given {
                Some(p) => Error::invalid(format!("linux.cgroupsPath: {p:?}: {why}")),
                None => Error::invalid(format!("cgroup name {id:?}: {why}")),
            })
        };
        let path = given.unwrap_or(Path::new(id));
        if path.as_os_str().as_encoded_bytes().iter().any(|b| *b == 0 || *b == b'\n') {
            return refuse("must not contain a null byte or a newline");
        }
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => return refuse("\"..\" is not allowed"),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if clean.as_os_str().is_empty() {
            return refuse("names no cgroup of its own");
        }
        if given.is_none() && id.contains('/') {
            return refuse("must be a single name");
        }
        Ok(Self { absolute: path.is_absolute(), path: clean })
    }

    /// A path from the root of the hierarchy, which the caller has checked.
    pub(super) fn from_root(path: PathBuf) -> Self {
        Self { absolute: true, path }
    }
}

/// Whether a path has the systemd form, `slice:prefix:name`.
pub(super) fn is_systemd_form(path: &Path) -> bool {
    path.to_str().is_some_and(|p| !p.starts_with('/') && p.split(':').count() == 3)
}

/// The directories of `path` in every hierarchy of `host` that a container joins.
///
/// # Errors
/// A v1 host has no devices hierarchy.
pub(super) fn places(host: &Host, path: &CgroupsPath) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for mount in host.mounts() {
        let joins = mount.is_v2() || mount.controllers.iter().any(|c| JOINED.contains(&c.as_str()));
        if !joins {
            continue;
        }
        let base = match (path.absolute, host.unified()) {
            (true, _) => mount.point.clone(),
            // On v2 the container's cgroup becomes a sibling of the caller's: a v2 cgroup with processes, such as the
            // caller, cannot have limited children (cgroups(7), "no internal processes").
            (false, true) => {
                let own = mount.own_dir();
                if own == mount.point { own } else { own.parent().map_or(mount.point.clone(), Path::to_path_buf) }
            }
            (false, false) => mount.own_dir(),
        };
        places.push(Place { controllers: mount.controllers.clone(), dir: base.join(&path.path) });
    }
    // Without device rules every device of the host would be open to the container.
    if !host.unified() && !places.iter().any(|p| p.has("devices")) {
        return Err(Error::unsupported("cgroup: devices hierarchy is not mounted"));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn checked(path: &str) -> Result<CgroupsPath> {
        CgroupsPath::new(Some(Path::new(path)), "id1")
    }

    #[test]
    fn path_is_cleaned_and_id_is_the_default() {
        let rows = [
            ("/kubepods/pod1/c1", true, "kubepods/pod1/c1"),
            ("//kubepods/./pod1//c1/", true, "kubepods/pod1/c1"),
            ("a/b", false, "a/b"),
            ("", false, "id1"),
            ("...", false, "..."),
        ];
        for (given, absolute, path) in rows {
            assert_eq!(checked(given).unwrap(), CgroupsPath { absolute, path: path.into() }, "{given}");
        }
        assert_eq!(CgroupsPath::new(None, "c9").unwrap(), CgroupsPath { absolute: false, path: "c9".into() });
    }

    #[test]
    fn path_that_leaves_the_hierarchy_is_refused() {
        let rows = [
            ("../x", "\"..\" is not allowed"),
            ("/a/../../etc", "\"..\" is not allowed"),
            ("a/..", "\"..\" is not allowed"),
            ("/", "names no cgroup of its own"),
            (".", "names no cgroup of its own"),
            ("a\0b", "null byte"),
            ("a\nb", "newline"),
        ];
        for (given, why) in rows {
            let e = checked(given).unwrap_err();
            assert_eq!(e.kind(), Kind::InvalidArgument);
            assert!(e.to_string().contains(why) && e.to_string().contains("cgroupsPath"), "{given:?}: {e}");
        }
        for id in ["..", "a/b", "", "."] {
            assert_eq!(CgroupsPath::new(None, id).unwrap_err().kind(), Kind::InvalidArgument, "{id:?}");
        }
    }

    #[test]
    fn systemd_form_has_three_parts() {
        for (path, is) in
            [("a.slice:cri:1", true), (":runc:x", true), ("/a:b:c", false), ("a:b", false), ("a:b:c:d", false)]
        {
            assert_eq!(is_systemd_form(Path::new(path)), is, "{path}");
        }
    }
}
