//! The systemd that runs this host, asked as an administrator asks it: by systemctl.

use std::path::Path;
use std::time::Duration;

use crate::cgroup;
use crate::command::run;
use crate::wait::LONG;

/// The bound of one command: systemd may be busy with another test's units.
const COMMAND: Duration = LONG;

/// False on a host that systemd does not run, and says so.
pub fn here(test: &str) -> bool {
    let here = Path::new("/run/systemd/system").is_dir();
    if !here {
        eprintln!("{test}: skipped, this host is not run by systemd");
    }
    here
}

/// What systemctl says to `words`; its exit status is not looked at.
pub fn systemctl(words: &[&str]) -> String {
    run(std::process::Command::new("systemctl").arg("--no-pager").args(words), COMMAND).stdout
}

/// Some properties of a unit as `NAME=VALUE`, in the order of their names. Of a unit that is not there it has defaults.
pub fn show(unit: &str, names: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> =
        systemctl(&["show", unit, "--property", &names.join(",")]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Whether systemd has a unit of this name on record, be it only as failed.
pub fn is_known(unit: &str) -> bool {
    show(unit, &["LoadState"]) != ["LoadState=not-found"]
}

/// A slice of one test's own, stopped in the end with all that is in it.
pub struct Slice(String);

impl Slice {
    /// `name` has no dash: a dash would put it into another slice.
    pub fn new(name: &str) -> Self {
        Self(format!("berth_{}_{name}.slice", std::process::id()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Where the unit `scope` is in a hierarchy, when it is in this slice itself.
    pub fn path(&self, scope: &str) -> String {
        format!("/{}/{scope}", self.0)
    }

    /// Whether `scope` has a directory in any hierarchy.
    pub fn has(&self, scope: &str) -> bool {
        !cgroup::directories(&self.path(scope)).is_empty()
    }

    /// A limit of `scope`: `v1` is `controller/file`, `v2` the file.
    pub fn value(&self, scope: &str, v1: &str, v2: &str) -> String {
        cgroup::value(&self.path(scope), v1, v2)
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        systemctl(&["stop", &self.0]);
        cgroup::kill_and_remove(&format!("/{}", self.0));
    }
}
