//! Device rules as the properties DevicePolicy and DeviceAllow (systemd.resource-control(5)).
//!
//! On v2 a device is open only if the program of systemd and that of berth both allow it. berth's program has exactly the
//! rules, so the properties may allow more, but never less. Then access does not change when systemd replaces its program
//! (`daemon-reload`). On v1 systemd and berth write the same list, so the properties must be exact.

use super::{manager::Property, value::Value};
use crate::{
    cgroup::{
        devices::{
            allowlist::Allowlist,
            rules::{Access, DeviceSet, Node, Rule},
        },
        location::Hierarchy,
    },
    error::{Error, Result},
};

/// The properties for `rules`.
///
/// # Errors
/// On v1: a rule that systemd cannot express, or that removes a part of a wildcard.
pub(super) fn properties(hierarchy: Hierarchy, rules: &[Rule]) -> Result<Vec<Property>> {
    let list = match (Allowlist::new(rules), hierarchy) {
        (Ok(list), _) => list,
        // Only a program can express the removal of a part of a wildcard.
        (Err(_), Hierarchy::V2) => return Ok(open()),
        (Err(e), Hierarchy::V1) => return Err(e),
    };
    if list.allows_by_default() {
        return match (list.exceptions().next(), hierarchy) {
            (Some((which, access)), Hierarchy::V1) => Err(inexact(which, access)),
            _ => Ok(open()),
        };
    }
    let mut entries = Vec::new();
    for (which, access) in list.exceptions() {
        let path = match (name(which), hierarchy) {
            (Some(path), _) => path,
            (None, Hierarchy::V1) => return Err(inexact(which, access)),
            // systemd has no name for `*:n`, so all devices of the kind are allowed.
            (None, Hierarchy::V2) => format!("{}-*", word(which.node)),
        };
        entries.push(Value::Struct(vec![Value::Text(path), Value::Text(access.to_string())]));
    }
    let [policy, none] = policy("strict");
    // The empty list clears entries of an annotation or of an earlier unit.
    Ok(vec![none, policy, allow(entries)])
}

/// The properties for no device rules at all.
fn open() -> Vec<Property> {
    let [policy, none] = policy("auto");
    vec![none, policy]
}

fn policy(word: &str) -> [Property; 2] {
    [("DevicePolicy".to_owned(), Value::text(word)), allow(Vec::new())]
}

fn allow(entries: Vec<Value>) -> Property {
    ("DeviceAllow".to_owned(), Value::Array("(ss)".to_owned(), entries))
}

fn word(node: Node) -> &'static str {
    match node {
        Node::Block => "block",
        Node::Char => "char",
    }
}

/// The name of `which` for systemd. All devices of one major are named by its number (systemd 240 and newer).
fn name(which: &DeviceSet) -> Option<String> {
    let word = word(which.node);
    match (which.major, which.minor) {
        (None, None) => Some(format!("{word}-*")),
        (Some(major), None) => Some(format!("{word}-{major}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{word}/{major}:{minor}")),
        (None, Some(_)) => None,
    }
}

fn inexact(which: &DeviceSet, access: &Access) -> Error {
    Error::unsupported(format!("device rule {which} {access}: systemd cannot express it on cgroup v1"))
}
