//! A cgroup below the container's: where `exec --cgroup` puts its process. It has to be there already.

use std::path::{Component, Path, PathBuf};

use super::Cgroup;
use crate::error::{Error, Result};

/// See [`Cgroup::below`].
pub(super) fn below(cgroup: &Cgroup, subs: &[(Option<String>, PathBuf)]) -> Result<Cgroup> {
    let mut cgroup = cgroup.clone();
    for (controller, sub) in subs {
        let sub = inner(sub)?;
        let mut found = false;
        for place in cgroup.places.iter_mut().filter(|p| controller.as_ref().is_none_or(|c| p.has(c))) {
            // An empty one would only add a slash.
            if !sub.as_os_str().is_empty() {
                place.dir.push(&sub);
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

/// The path without what says nothing; one that leads out is refused.
fn inner(sub: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in sub.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(Error::invalid(format!("bad sub cgroup path: {}", sub.display()))),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Driver, Hierarchy, Place};

    fn dirs(hierarchy: Hierarchy, subs: &[(Option<&str>, &str)]) -> Result<Vec<String>> {
        let place = |controllers: &[&str], dir: &str| Place {
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            dir: dir.into(),
        };
        let places = match hierarchy {
            Hierarchy::V1 => vec![place(&["cpu", "cpuacct"], "/c/x"), place(&["memory"], "/m/x"), place(&[], "/u/x")],
            Hierarchy::V2 => vec![place(&[], "/u/x")],
        };
        let cgroup = Cgroup { hierarchy, driver: Driver::Cgroupfs, places, rootless: false };
        let subs: Vec<_> = subs.iter().map(|(c, p)| (c.map(str::to_owned), PathBuf::from(p))).collect();
        let below = below(&cgroup, &subs)?;
        Ok(below.places.iter().map(|p| p.dir.display().to_string()).collect())
    }

    #[test]
    fn each_controller_has_its_own_or_all_the_same() {
        for (hierarchy, subs, all) in [
            (Hierarchy::V1, [(None, "a/b")].as_slice(), ["/c/x/a/b", "/m/x/a/b", "/u/x/a/b"].as_slice()),
            (Hierarchy::V1, &[(Some("memory"), "/sub/"), (Some("cpuacct"), "s")], &["/c/x/s", "/m/x/sub", "/u/x"]),
            (Hierarchy::V1, &[], &["/c/x", "/m/x", "/u/x"]),
            (Hierarchy::V1, &[(None, "/")], &["/c/x", "/m/x", "/u/x"]),
            (Hierarchy::V2, &[(None, "./a")], &["/u/x/a"]),
        ] {
            assert_eq!(dirs(hierarchy, subs).unwrap(), all, "{subs:?}");
        }
    }

    #[test]
    fn what_leads_out_or_nowhere_is_refused() {
        for (hierarchy, sub, says) in [
            (Hierarchy::V1, (None, ".."), "bad sub cgroup path: .."),
            (Hierarchy::V1, (Some("cpu"), "a/../../b"), "bad sub cgroup path: a/../../b"),
            (Hierarchy::V1, (Some("warp"), "a"), "unknown controller warp of a sub cgroup path"),
            (Hierarchy::V2, (Some("cpu"), "a"), "unknown controller cpu of a sub cgroup path"),
        ] {
            assert_eq!(dirs(hierarchy, &[sub]).unwrap_err().to_string(), says);
        }
    }
}
