//! The container's cgroups: made, limited and removed as berth does it, with every decision taken before.

use super::json::{Failure, c_string, list, text, word};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, unlinkat},
    io::Errno,
};
use serde_json::Value;
use std::{
    ffi::CString,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The mount point.
    pub root: PathBuf,
    /// Whether it is the v2 hierarchy.
    pub unified: bool,
}

impl Hierarchy {
    /// Returns the directory of a cgroup.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Returns every hierarchy of the machine.
///
/// # Errors
/// No hierarchy is mounted.
pub fn hierarchies() -> Result<Vec<Hierarchy>, Failure> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = berth_integration::mounts::parse(&table).into_iter();
    let found: Vec<_> = mounts
        .filter(|mount| mount.fs == "cgroup" || mount.fs == "cgroup2")
        .map(|mount| Hierarchy { unified: mount.fs == "cgroup2", root: mount.point.into() })
        .collect();
    if found.is_empty() { Err("no cgroup hierarchy is mounted".into()) } else { Ok(found) }
}

/// One write to a cgroup file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The v1 controller.
    pub controller: &'static str,
    /// The name of the file on v1.
    pub file: &'static str,
    /// The value on v1.
    pub value: String,
    /// The file and value on v2, if v2 has one.
    pub unified: Option<(&'static str, String)>,
}

/// Returns the limits of `linux.resources` in the order of writing: everything that the CRI can ask for, except huge
/// pages.
///
/// # Errors
/// The floor does not know a field.
pub fn limits(resources: &Value) -> Result<Vec<Write>, Failure> {
    let mut writes = Vec::new();
    let mut put = |controller, file, value: String, unified| writes.push(Write { controller, file, value, unified });
    for (section, fields) in resources.as_object().into_iter().flatten() {
        let number = |name: &str| fields[name].as_i64().filter(|value| *value != 0);
        let names = match section.as_str() {
            "devices" => continue,
            "unified" if fields.as_object().is_none_or(serde_json::Map::is_empty) => continue,
            "memory" => ["limit", "swap", ""],
            "cpu" => ["shares", "quota", "period"],
            "pids" => ["limit", "", ""],
            other => return Err(format!("linux.resources.{other}: not known here").into()),
        };
        let known = |name: &String| names.contains(&name.as_str());
        if let Some(name) = fields.as_object().into_iter().flat_map(serde_json::Map::keys).find(|name| !known(name)) {
            return Err(format!("linux.resources.{section}.{name}: not known here").into());
        }
        match section.as_str() {
            "memory" => {
                let (limit, swap) = (number("limit"), number("swap"));
                if let Some(bytes) = limit {
                    put("memory", "memory.limit_in_bytes", bytes.to_string(), Some(("memory.max", bytes.to_string())));
                }
                if let Some(bytes) = swap {
                    // v1's swap limit includes memory, v2's does not.
                    let alone = (bytes - limit.unwrap_or(0)).to_string();
                    put("memory", "memory.memsw.limit_in_bytes", bytes.to_string(), Some(("memory.swap.max", alone)));
                }
            }
            "cpu" => {
                if let Some(shares) = number("shares") {
                    let weight = 1 + (shares - 2) * 9999 / 262_142;
                    put("cpu", "cpu.shares", shares.to_string(), Some(("cpu.weight", weight.to_string())));
                }
                let (quota, period) = (number("quota"), number("period").unwrap_or(100_000));
                if period != 100_000 {
                    put("cpu", "cpu.cfs_period_us", period.to_string(), None);
                }
                if let Some(quota) = quota {
                    let both = format!("{quota} {period}");
                    put("cpu", "cpu.cfs_quota_us", quota.to_string(), Some(("cpu.max", both)));
                }
            }
            _ => {
                if let Some(limit) = number("limit") {
                    put("pids", "pids.max", limit.to_string(), Some(("pids.max", limit.to_string())));
                }
            }
        }
    }
    for rule in devices(&resources["devices"])? {
        let file = if rule.0 { "devices.allow" } else { "devices.deny" };
        put("devices", file, rule.1, None);
    }
    Ok(writes)
}

/// Returns device rules as lines for v1: all devices are denied, then those of the configuration and the default ones
/// are allowed.
fn devices(rules: &Value) -> Result<Vec<(bool, String)>, Failure> {
    let default = [
        "b *:* m",
        "c *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 10:200 rwm",
        "c 136:* rwm",
    ];
    let mut lines = vec![(false, "a *:* rwm".to_owned())];
    for rule in list(rules) {
        let access = word(&rule["access"]).unwrap_or("rwm");
        if rule["allow"] != true {
            if rule.get("type").is_some_and(|kind| kind != "a") || rule.get("major").is_some() {
                return Err(format!("linux.resources.devices: {rule} is not known here").into());
            }
            continue;
        }
        let kind = word(&rule["type"]).unwrap_or("a");
        let number = |name: &str| rule[name].as_i64().map_or("*".to_owned(), |n| n.to_string());
        lines.push((true, format!("{kind} {}:{} {access}", number("major"), number("minor"))));
    }
    for line in default {
        if !lines.iter().any(|(_, there)| there == line) {
            lines.push((true, line.to_owned()));
        }
    }
    Ok(lines)
}

/// The cgroups of a container, with paths ready for system calls.
pub struct Cgroups {
    /// The directory in each hierarchy.
    directories: Vec<(CString, Hierarchy)>,
    /// For each hierarchy, the files below its directory in the order of writing, with the values.
    writes: Vec<Vec<(CString, Vec<u8>)>>,
    /// The parent directories, which are made once.
    parents: Vec<PathBuf>,
}

/// The cgroups of a container, made and open.
pub struct Made {
    /// The v1 `tasks` files.
    pub tasks: Vec<OwnedFd>,
    /// The v2 directory.
    pub unified: Option<OwnedFd>,
}

impl Cgroups {
    /// Makes `parent` in every hierarchy. The container's cgroup is `path` below the roots.
    ///
    /// # Errors
    /// A hierarchy is not writable.
    pub fn new(parent: &str, path: &str, limits: &[Write]) -> Result<Self, Failure> {
        let mut new = Self { directories: Vec::new(), writes: Vec::new(), parents: Vec::new() };
        for hierarchy in hierarchies()? {
            let above = hierarchy.directory(parent);
            fs::create_dir(&above).map_err(|e| format!("make cgroup {}: {e}", above.display()))?;
            new.parents.push(above.clone());
            let directory = hierarchy.directory(path);
            let name = hierarchy.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let file = |file: &str| c_string(&directory.join(file).to_string_lossy());
            let mut writes = Vec::new();
            if name == "cpuset" {
                // A v1 cpuset begins empty, and no process can enter it then.
                for set in ["cpuset.cpus", "cpuset.mems"] {
                    let whole = fs::read_to_string(hierarchy.root.join(set))?;
                    fs::write(above.join(set), whole.trim())?;
                    writes.push((file(set)?, whole.trim().into()));
                }
            }
            for limit in limits {
                match &limit.unified {
                    Some((name, value)) if hierarchy.unified && directory_has(&hierarchy, name) => {
                        writes.push((file(name)?, value.clone().into_bytes()));
                    }
                    _ if !hierarchy.unified && name == limit.controller => {
                        writes.push((file(limit.file)?, limit.value.clone().into_bytes()));
                    }
                    _ => {}
                }
            }
            new.directories.push((c_string(&directory.to_string_lossy())?, hierarchy));
            new.writes.push(writes);
        }
        Ok(new)
    }

    /// Makes the container's cgroups and writes their limits.
    ///
    /// # Errors
    /// The error names the file.
    pub fn make(&self) -> Result<Made, Failure> {
        let mut made = Made { tasks: Vec::new(), unified: None };
        for ((directory, hierarchy), writes) in self.directories.iter().zip(&self.writes) {
            let name = || text(directory);
            mkdirat(CWD, directory, Mode::from_raw_mode(0o755)).map_err(|e| format!("{}: {e}", name()))?;
            let mut before: Option<(&CString, OwnedFd)> = None;
            for (file, value) in writes {
                // Lines for the same file share one open file.
                let open_file = match before.take() {
                    Some((name, open)) if name == file => open,
                    _ => open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                        .map_err(|e| format!("{}: {e}", text(file)))?,
                };
                rustix::io::write(&open_file, value).map_err(|e| format!("write {}: {e}", text(file)))?;
                before = Some((file, open_file));
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = open(directory, flags, Mode::empty()).map_err(|e| format!("{}: {e}", name()))?;
            if hierarchy.unified {
                made.unified = Some(fd);
            } else {
                let tasks = openat(fd.as_fd(), c"tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                made.tasks.push(tasks.map_err(|e| format!("{}/tasks: {e}", name()))?);
            }
        }
        Ok(made)
    }

    /// Removes the container's empty cgroups.
    ///
    /// # Errors
    /// The error names the directory.
    pub fn remove(&self) -> Result<(), Failure> {
        for (directory, _) in &self.directories {
            match unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(format!("remove {}: {e}", text(directory)).into()),
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // The earlier error is the one to report.
        let _ = self.remove();
        for parent in &self.parents {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Returns whether cgroups directly below the root of v2 have a file. Its controller may be attached to v1.
fn directory_has(hierarchy: &Hierarchy, file: &str) -> bool {
    let controller = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let controller = controller.split('.').next().unwrap_or_default().to_owned();
    let enabled = fs::read_to_string(hierarchy.root.join("cgroup.controllers")).unwrap_or_default();
    enabled.split_whitespace().any(|name| name == controller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(resources: &Value) -> Vec<String> {
        limits(resources).unwrap().iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }

    #[test]
    fn limits_of_a_pod_become_v1_files() {
        let resources = json!({"memory": {"limit": 64, "swap": 64}, "cpu": {"quota": 50_000, "period": 100_000}});
        let lines = lines(&resources);
        assert_eq!(
            lines[..3],
            ["cpu.cfs_quota_us=50000", "memory.limit_in_bytes=64", "memory.memsw.limit_in_bytes=64"]
        );
        assert_eq!((lines[3].as_str(), lines.len()), ("devices.deny=a *:* rwm", 3 + 12));
    }

    #[test]
    fn configured_devices_come_before_the_default_ones() {
        let allowed = json!({"devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}, {"allow": true, "type": "c", "major": 1, "minor": 3}]});
        let lines = lines(&allowed);
        assert_eq!(lines[..3], ["devices.deny=a *:* rwm", "devices.allow=c 10:229 rw", "devices.allow=c 1:3 rwm"]);
        assert_eq!(lines.len(), 1 + 2 + 10);
    }

    #[test]
    fn bare_refuses_unknown_limits() {
        for resources in [
            json!({"blockIO": {"weight": 10}}),
            json!({"memory": {"kernel": 10}}),
            json!({"devices": [{"allow": false, "type": "c", "major": 1}]}),
        ] {
            limits(&resources).unwrap_err();
        }
    }
}
