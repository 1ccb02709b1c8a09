//! `berth check`: what berth needs of the host and of the engines. Nothing is changed.

mod cgroup;
mod engines;
mod kernel;
mod report;
mod security;
mod users;

pub use report::{json, text};
pub use users::{TRIAL, try_namespace};

use serde::Serialize;

use crate::host::Host;

/// The verdict about one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As berth wants it.
    Ok,
    /// berth works, and something is lost.
    Warning,
    /// berth does not work.
    Missing,
    /// Not on this host, and not needed.
    Absent,
}

/// One line of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The group of the line.
    pub area: &'static str,
    /// The subject.
    pub name: String,
    /// The verdict.
    pub status: Status,
    /// The thing that was found.
    pub found: String,
    /// Why it matters; empty if all is well.
    pub why: String,
    /// The remedy; empty if all is well.
    pub todo: String,
}

impl Finding {
    fn new(area: &'static str, name: &str, status: Status, found: impl Into<String>) -> Self {
        Self { area, name: name.to_owned(), status, found: found.into(), why: String::new(), todo: String::new() }
    }

    fn ok(area: &'static str, name: &str, found: impl Into<String>) -> Self {
        Self::new(area, name, Status::Ok, found)
    }

    fn absent(area: &'static str, name: &str, found: impl Into<String>) -> Self {
        Self::new(area, name, Status::Absent, found)
    }

    fn warning(area: &'static str, name: &str, found: impl Into<String>) -> Self {
        Self::new(area, name, Status::Warning, found)
    }

    fn missing(area: &'static str, name: &str, found: impl Into<String>) -> Self {
        Self::new(area, name, Status::Missing, found)
    }

    /// Adds the reason and the remedy.
    fn because(mut self, why: &str, todo: &str) -> Self {
        (self.why, self.todo) = (why.to_owned(), todo.to_owned());
        self
    }
}

/// The caller: root needs no user namespaces, and an ordinary user needs them for each container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Root of the host or of a user namespace.
    Root,
    /// An ordinary user.
    User,
}

/// Looks at the host. Without the running kernel (`--destdir`) only the configuration of the engines is read.
pub fn run(host: &Host, caller: Caller) -> Vec<Finding> {
    let mut findings = Vec::new();
    if host.is_own() {
        findings.extend(kernel::findings());
        findings.extend(cgroup::findings(host, caller));
        findings.extend(security::findings(host));
        findings.extend(users::findings(host, caller));
    }
    findings.extend(engines::findings(host));
    findings
}

/// The exit status: 1 if something that is needed is missing.
pub fn status(findings: &[Finding]) -> i32 {
    i32::from(findings.iter().any(|finding| finding.status == Status::Missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_need_fails_the_check() {
        let of = |status| Finding::new("a", "b", status, "c");
        assert_eq!(status(&[of(Status::Ok), of(Status::Warning), of(Status::Absent)]), 0);
        assert_eq!(status(&[of(Status::Ok), of(Status::Missing)]), 1);
    }
}
