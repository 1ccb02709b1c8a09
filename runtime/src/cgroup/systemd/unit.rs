//! From `linux.cgroupsPath` in systemd's form, `slice:prefix:name`, to a unit and the path of its cgroup.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::whose::Whose;
use crate::error::{Error, Result};

/// The longest name of a unit (systemd.unit(5)); longer than a file name may be.
const LONGEST: usize = 255;

/// A scope and the slice that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cgroup) struct Unit {
    /// `cri-containerd-0123.scope`.
    pub name: String,
    /// `kubepods-burstable.slice`.
    pub slice: String,
    /// Whose systemd has it.
    #[serde(default, skip_serializing_if = "Whose::is_host")]
    pub whose: Whose,
}

impl Unit {
    /// The unit that `cgroups_path` names for the container `id`. Without one it is runc's: `runc-<id>.scope` in
    /// system.slice, a user's in user.slice.
    pub(in crate::cgroup) fn new(cgroups_path: Option<&Path>, id: &str, whose: Whose) -> Result<Self> {
        let Some(path) = cgroups_path.filter(|p| !p.as_os_str().is_empty()) else {
            let what = || format!("container id {id:?}");
            return Ok(Self {
                name: checked(format!("runc-{id}.scope"), what)?,
                slice: whose.slice().to_owned(),
                whose,
            });
        };
        let what = || format!("cgroupsPath {path:?}");
        let parts: Vec<&str> = path.to_str().unwrap_or_default().split(':').collect();
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(Error::invalid(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
            )));
        };
        if name.is_empty() {
            return Err(Error::invalid(format!("{}: names no unit", what())));
        }
        if name.ends_with(".slice") {
            // org.freedesktop.systemd1(5): only scopes are given processes.
            return Err(Error::invalid(format!("{}: a slice holds no processes, a container needs a scope", what())));
        }
        let slice = checked(if slice.is_empty() { whose.slice() } else { slice }.to_owned(), what)?;
        expand(&slice).ok_or_else(|| Error::invalid(format!("{}: invalid slice name {slice:?}", what())))?;
        Ok(Self { name: checked(format!("{prefix}-{name}.scope"), what)?, slice, whose })
    }

    /// The cgroup, from the root of what its systemd manages, which for the machine's is that of a hierarchy.
    pub(in crate::cgroup) fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }
}

/// systemd.unit(5): ASCII letters, digits and these. So no slash, and the path stays below the slice.
fn checked(name: String, what: impl Fn() -> String) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(Error::invalid(format!("{}: {c:?} is not allowed in the name of a systemd unit", what())));
    }
    if name.len() > LONGEST {
        return Err(Error::invalid(format!("{}: the name of a systemd unit has at most {LONGEST} bytes", what())));
    }
    Ok(name)
}

/// `a-b.slice` is in `a.slice` (systemd.slice(5)); `-.slice` is the root of all.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty())?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    let mut above = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        above.push_str(part);
        path.push(format!("{above}.slice"));
        above.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn unit(path: &str) -> Result<Unit> {
        Unit::new(Some(Path::new(path)), "c1", Whose::Host)
    }

    #[test]
    fn units_and_their_cgroups() {
        let rows = [
            ("system.slice:docker:12", "docker-12.scope", "system.slice/docker-12.scope"),
            (":runc:x", "runc-x.scope", "system.slice/runc-x.scope"),
            ("", "runc-c1.scope", "system.slice/runc-c1.scope"),
            ("-.slice:p:n", "p-n.scope", "p-n.scope"),
            ("a.slice::n", "-n.scope", "a.slice/-n.scope"),
            (
                "kubepods-burstable-podab_12.slice:cri-containerd:0a",
                "cri-containerd-0a.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_12.slice/cri-containerd-0a.scope",
            ),
        ];
        for (given, name, path) in rows {
            let unit = unit(given).unwrap();
            assert_eq!((unit.name.as_str(), unit.path().as_path()), (name, Path::new(path)), "{given}");
        }
        assert_eq!(Unit::new(None, "c9", Whose::Host).unwrap().name, "runc-c9.scope");
        let users = |path| Unit::new(Some(Path::new(path)), "c9", Whose::User).unwrap().path();
        assert_eq!(users(""), Path::new("user.slice/runc-c9.scope"));
        assert_eq!(users(":p:n"), Path::new("user.slice/p-n.scope"));
        assert_eq!(users("a-b.slice:p:n"), Path::new("a.slice/a-b.slice/p-n.scope"));
    }

    #[test]
    fn refused_by_name() {
        let long = format!("a.slice:p:{}", "n".repeat(250));
        let rows = [
            ("/kubepods/c1", "slice:prefix:name"),
            ("a:b", "slice:prefix:name"),
            ("a.slice:b:c:d", "slice:prefix:name"),
            ("a:b:c", "invalid slice name \"a\""),
            (".slice:b:c", "invalid slice name \".slice\""),
            ("a--b.slice:b:c", "invalid slice name"),
            ("-a.slice:b:c", "invalid slice name"),
            ("a-.slice:b:c", "invalid slice name"),
            ("a/b.slice:p:n", "'/' is not allowed"),
            ("a.slice:p:../n", "'/' is not allowed"),
            ("a.slice:p:n+1", "'+' is not allowed"),
            ("a.slice:p:n'", "'\\'' is not allowed"),
            ("a.slice:p:", "names no unit"),
            ("a.slice:p:b.slice", "a slice holds no processes"),
            (long.as_str(), "at most 255 bytes"),
        ];
        for (given, why) in rows {
            let e = unit(given).unwrap_err();
            assert_eq!(e.kind(), Kind::InvalidArgument, "{given}");
            assert!(e.to_string().contains(why) && e.to_string().contains("cgroupsPath"), "{given}: {e}");
        }
        assert!(Unit::new(None, "a+b", Whose::Host).unwrap_err().to_string().contains("container id \"a+b\": '+'"));
    }
}
