//! A cgroup below the container's, for `exec --cgroup`. It must exist already.

use std::path::{Component, Path, PathBuf};

use super::location::Cgroup;
use crate::error::{Error, Result};

impl Cgroup {
    /// The cgroup with these paths below the container's own: a path for one v1 controller, or for all if no controller is
    /// named. Whether it exists shows when a process joins it.
    ///
    /// # Errors
    /// A path contains `..`; a controller is unknown.
    pub fn nested(&self, paths: &[(Option<String>, PathBuf)]) -> Result<Self> {
        let mut cgroup = self.clone();
        for (controller, path) in paths {
            let path = checked(path)?;
            let mut found = false;
            for place in cgroup.places.iter_mut().filter(|p| controller.as_ref().is_none_or(|c| p.has(c))) {
                // PathBuf::push of an empty path adds a slash.
                if !path.as_os_str().is_empty() {
                    place.dir.push(&path);
                }
                found = true;
            }
            if !found {
                let name = controller.as_deref().unwrap_or_default();
                return Err(Error::invalid(format!("unknown controller {name} of a sub cgroup path")));
            }
        }
        Ok(cgroup)
    }
}

/// The path without slashes at its ends and without `.`; one with `..` is refused.
fn checked(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(Error::invalid(format!("bad sub cgroup path: {}", path.display()))),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::location::{Driver, Hierarchy, tests::place};

    fn dirs(hierarchy: Hierarchy, paths: &[(Option<&str>, &str)]) -> Result<Vec<String>> {
        let places = match hierarchy {
            Hierarchy::V1 => vec![place(&["cpu", "cpuacct"], "/c/x"), place(&["memory"], "/m/x"), place(&[], "/u/x")],
            Hierarchy::V2 => vec![place(&[], "/u/x")],
        };
        let cgroup = Cgroup { hierarchy, driver: Driver::Cgroupfs, places, rootless: false };
        let paths: Vec<_> = paths.iter().map(|(c, p)| (c.map(str::to_owned), PathBuf::from(p))).collect();
        let nested = cgroup.nested(&paths)?;
        Ok(nested.places.iter().map(|p| p.dir.display().to_string()).collect())
    }

    #[test]
    fn path_applies_to_its_controller_or_to_all() {
        for (hierarchy, paths, all) in [
            (Hierarchy::V1, [(None, "a/b")].as_slice(), ["/c/x/a/b", "/m/x/a/b", "/u/x/a/b"].as_slice()),
            (Hierarchy::V1, &[(Some("memory"), "/sub/"), (Some("cpuacct"), "s")], &["/c/x/s", "/m/x/sub", "/u/x"]),
            (Hierarchy::V1, &[], &["/c/x", "/m/x", "/u/x"]),
            (Hierarchy::V1, &[(None, "/")], &["/c/x", "/m/x", "/u/x"]),
            (Hierarchy::V2, &[(None, "./a")], &["/u/x/a"]),
        ] {
            assert_eq!(dirs(hierarchy, paths).unwrap(), all, "{paths:?}");
        }
    }

    #[test]
    fn path_with_dot_dot_and_unknown_controller_are_refused() {
        for (hierarchy, path, says) in [
            (Hierarchy::V1, (None, ".."), "bad sub cgroup path: .."),
            (Hierarchy::V1, (Some("cpu"), "a/../../b"), "bad sub cgroup path: a/../../b"),
            (Hierarchy::V1, (Some("warp"), "a"), "unknown controller warp of a sub cgroup path"),
            (Hierarchy::V2, (Some("cpu"), "a"), "unknown controller cpu of a sub cgroup path"),
        ] {
            assert_eq!(dirs(hierarchy, &[path]).unwrap_err().to_string(), says);
        }
    }
}
