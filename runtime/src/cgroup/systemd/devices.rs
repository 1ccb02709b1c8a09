//! Device rules as DevicePolicy and DeviceAllow (systemd.resource-control(5)).
//!
//! On v2 a device is open only if systemd's program and our own both allow it. Ours says exactly what was asked, so what
//! systemd cannot say may be wider there, never narrower; whatever systemd does with its own (`daemon-reload` makes it
//! anew) access stays what it was. On v1 there is one list for both, so there it must be exact.

use super::{manager::Property, value::Value};
use crate::{
    cgroup::{
        Hierarchy,
        allowlist::Allowlist,
        devices::{Access, Node, Rule, Which},
    },
    error::{Error, Result},
};

/// The properties for `rules`.
pub(super) fn properties(hierarchy: Hierarchy, rules: &[Rule]) -> Result<Vec<Property>> {
    let list = match (Allowlist::new(rules), hierarchy) {
        (Ok(list), _) => list,
        // A hole in a wildcard: only a program can say that.
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
            // `*:n` has no name; every device of the kind has.
            (None, Hierarchy::V2) => format!("{}-*", word(which.node)),
        };
        entries.push(Value::Struct(vec![Value::Text(path), Value::Text(access.to_string())]));
    }
    let [policy, none] = policy("strict");
    // The empty list first: it clears what an annotation or an earlier unit left there.
    Ok(vec![none, policy, allow(entries)])
}

/// No rules of systemd's.
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

/// systemd's name for some devices. A group is by its number, which it takes from 240 on.
fn name(which: &Which) -> Option<String> {
    let word = word(which.node);
    match (which.major, which.minor) {
        (None, None) => Some(format!("{word}-*")),
        (Some(major), None) => Some(format!("{word}-{major}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{word}/{major}:{minor}")),
        (None, Some(_)) => None,
    }
}

fn inexact(which: &Which, access: &Access) -> Error {
    Error::unsupported(format!("device rule {which} {access}: systemd cannot express it on cgroup v1"))
}
