//! systemd units: from `linux.cgroupsPath` in the systemd form, `slice:prefix:name`, to a unit and the path of its cgroup.
//! [`super::systemd`] makes the unit.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The maximal length of the name of a unit in bytes (systemd.unit(5)).
const LONGEST: usize = 255;

/// An instance of systemd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Instance {
    /// The system instance (pid 1).
    #[default]
    System,
    /// The instance of the calling user (`systemd --user`).
    User,
}

impl Instance {
    /// Whether it is the system instance, which state.json does not mention.
    fn is_system(&self) -> bool {
        *self == Self::System
    }

    /// The default slice of a unit.
    fn slice(self) -> &'static str {
        match self {
            Self::System => "system.slice",
            Self::User => "user.slice",
        }
    }
}

/// A scope and its slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unit {
    /// `cri-containerd-0123.scope`.
    pub name: String,
    /// `kubepods-burstable.slice`.
    pub slice: String,
    /// The instance of systemd that has the unit. Earlier versions wrote `whose`.
    #[serde(default, alias = "whose", skip_serializing_if = "Instance::is_system")]
    pub instance: Instance,
}

impl Unit {
    /// The unit of container `id` with this `cgroups_path`. Without a path it is the same as with runc: `runc-<id>.scope` in
    /// system.slice, or in user.slice for the user's instance.
    ///
    /// # Errors
    /// A path of another form; a name that systemd does not allow.
    pub(super) fn new(cgroups_path: Option<&Path>, id: &str, instance: Instance) -> Result<Self> {
        let Some(path) = cgroups_path.filter(|p| !p.as_os_str().is_empty()) else {
            let what = || format!("container id {id:?}");
            return Ok(Self {
                name: checked(format!("runc-{id}.scope"), what)?,
                slice: instance.slice().to_owned(),
                instance,
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
        let slice = checked(if slice.is_empty() { instance.slice() } else { slice }.to_owned(), what)?;
        expand(&slice).ok_or_else(|| Error::invalid(format!("{}: invalid slice name {slice:?}", what())))?;
        Ok(Self { name: checked(format!("{prefix}-{name}.scope"), what)?, slice, instance })
    }

    /// The path of the cgroup below the one that its instance of systemd manages; for the system instance that is the root of
    /// the hierarchy.
    pub(super) fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }
}

/// Checks a name: ASCII letters, digits and some other characters (systemd.unit(5)), but no slash. So the path stays below
/// the slice.
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

/// The path of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)), and `-.slice` is the root.
pub(super) fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty())?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn unit(path: &str) -> Result<Unit> {
        Unit::new(Some(Path::new(path)), "c1", Instance::System)
    }

    #[test]
    fn cgroups_path_names_the_unit_and_its_cgroup() {
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
        assert_eq!(Unit::new(None, "c9", Instance::System).unwrap().name, "runc-c9.scope");
        let users = |path| Unit::new(Some(Path::new(path)), "c9", Instance::User).unwrap().path();
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
        assert!(
            Unit::new(None, "a+b", Instance::System).unwrap_err().to_string().contains("container id \"a+b\": '+'")
        );
    }
}
