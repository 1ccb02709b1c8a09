//! The systemd of this host, through systemctl.

use crate::{cgroup, command::run, wait::LONG};
use std::{path::Path, time::Duration};

/// The bound of one command. systemd may be busy with another test's units.
const COMMAND: Duration = LONG;

/// Returns whether systemd runs this host, and prints that `test` is skipped if not.
pub fn here(test: &str) -> bool {
    let here = Path::new("/run/systemd/system").is_dir();
    if !here {
        eprintln!("{test}: skipped, this host is not run by systemd");
    }
    here
}

/// Runs systemctl with `words` and returns its output, whatever its exit status.
pub fn systemctl(words: &[&str]) -> String {
    run(std::process::Command::new("systemctl").arg("--no-pager").args(words), COMMAND).stdout
}

/// Returns properties of a unit as `NAME=VALUE`, sorted by name. systemctl prints defaults for a unit that does not
/// exist.
pub fn show(unit: &str, names: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> =
        systemctl(&["show", unit, "--property", &names.join(",")]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Returns whether systemd knows a unit of this name, also a failed one.
pub fn is_known(unit: &str) -> bool {
    show(unit, &["LoadState"]) != ["LoadState=not-found"]
}

/// A slice of one test. Dropping it stops the slice with all its units.
pub struct Slice(String);

impl Slice {
    /// Makes the slice. `name` must not have a dash, which would put it into another slice.
    pub fn new(name: &str) -> Self {
        Self(format!("berth_{}_{name}.slice", std::process::id()))
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the path in a hierarchy of the unit `scope` directly in this slice.
    pub fn path(&self, scope: &str) -> String {
        format!("/{}/{scope}", self.0)
    }

    /// Returns whether `scope` has a directory in any hierarchy.
    pub fn has(&self, scope: &str) -> bool {
        !cgroup::directories(&self.path(scope)).is_empty()
    }

    /// Reads a limit of `scope`: `v1` is `controller/file`, `v2` the file.
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
