//! Device rules: those of `linux.resources.devices`, and the default rules that every container gets.
//!
//! [`super::allowlist`] (v1) and [`super::filter`] (v2) translate them for the kernel.

use std::{fmt, ops::BitOr};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::error::{Error, Result};

/// One checked rule. [`super::allowlist::Allowlist`] defines the meaning of a list of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cgroup) enum Rule {
    /// All devices and accesses; discards all rules before it. The v1 kernel ignores the other fields of an `a` rule, and so
    /// does runc.
    All { allow: bool },
    /// These devices.
    Some { allow: bool, which: DeviceSet, access: Access },
}

/// The devices of a rule; None is the wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cgroup) struct DeviceSet {
    pub node: Node,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

/// The two kinds of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cgroup) enum Node {
    Block,
    Char,
}

/// A set of the accesses read, write and mknod. The bits are those of BPF_DEVCG_ACC_* and DEVCG_ACC_*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cgroup) struct Access(u8);

impl Access {
    pub(in crate::cgroup) const MKNOD: Self = Self(1);
    pub(in crate::cgroup) const READ: Self = Self(2);
    pub(in crate::cgroup) const WRITE: Self = Self(4);
    pub(in crate::cgroup) const ALL: Self = Self(7);

    pub(in crate::cgroup) fn parse(text: &str) -> Option<Self> {
        text.chars().try_fold(Self::default(), |set, c| match c {
            'r' => Some(set | Self::READ),
            'w' => Some(set | Self::WRITE),
            'm' => Some(set | Self::MKNOD),
            _ => None,
        })
    }

    pub(in crate::cgroup) fn bits(self) -> u8 {
        self.0
    }

    pub(in crate::cgroup) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(in crate::cgroup) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(in crate::cgroup) fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Access {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if !self.shared(bit).is_empty() {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for DeviceSet {
    /// The form of the v1 files: `c 1:*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let node = match self.node {
            Node::Block => 'b',
            Node::Char => 'c',
        };
        write!(f, "{node} {}:{}", number(self.major), number(self.minor))
    }
}

/// The rules that follow those of config.json: mknod of any node (a node alone gives no access), null, zero, full, random,
/// urandom, tty, ptmx, pts and tun. runc removed tun in 1.2 and had to bring it back. `/dev/console` needs no rule: it is a
/// pts in a container.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    let rule = |typ: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true).set_typ(Some(typ)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
        rule
    };
    let char = |major, minor| rule(LinuxDeviceType::C, Some(major), minor, "rwm");
    vec![
        rule(LinuxDeviceType::C, None, None, "m"),
        rule(LinuxDeviceType::B, None, None, "m"),
        char(1, Some(3)),
        char(1, Some(8)),
        char(1, Some(7)),
        char(5, Some(0)),
        char(1, Some(5)),
        char(1, Some(9)),
        char(136, None),
        char(5, Some(2)),
        char(10, Some(200)),
    ]
}

/// The rules of `resources`, followed by the default rules. runc has the same order, so a container cannot deny a default.
/// Before the first rule everything is denied.
///
/// # Errors
/// Names the first bad rule by its index.
pub(in crate::cgroup) fn rules(resources: &LinuxResources) -> Result<Vec<Rule>> {
    let default = default_device_rules();
    resources.devices().iter().flatten().chain(&default).enumerate().map(|(n, device)| rule(n, device)).collect()
}

/// Messages about letters in `access` that mean nothing. They are ignored, as with runc.
pub(in crate::cgroup) fn warnings(resources: &LinuxResources) -> Vec<String> {
    let unknown = |(n, device): (usize, &LinuxDeviceCgroup)| {
        let letters = device.access().as_deref().filter(|letters| known(letters) != *letters)?;
        Some(format!("linux.resources.devices[{n}].access: {letters:?}: only r, w and m are known"))
    };
    resources.devices().iter().flatten().enumerate().filter_map(unknown).collect()
}

/// The letters that mean an access.
fn known(letters: &str) -> String {
    letters.chars().filter(|c| "rwm".contains(*c)).collect()
}

fn rule(n: usize, d: &LinuxDeviceCgroup) -> Result<Rule> {
    let allow = d.allow();
    let letters = d.access().as_deref().unwrap_or("");
    if letters.is_empty() {
        return Err(Error::invalid(format!("device access at {n} field cannot be empty")));
    }
    let known = known(letters);
    let access = Access::parse(&known)
        .filter(|_| !known.is_empty())
        .ok_or_else(|| Error::invalid(format!("device access at {n} field {letters:?} must be of r, w, m")))?;
    let node = match d.typ().unwrap_or_default() {
        LinuxDeviceType::A => return Ok(Rule::All { allow }),
        LinuxDeviceType::B => Node::Block,
        LinuxDeviceType::C => Node::Char,
        other => {
            return Err(Error::invalid(format!("device rule at {n}: invalid cgroup device type {:?}", other.as_str())));
        }
    };
    let number = |what: &str, value: Option<i64>| match value.unwrap_or(-1) {
        -1 => Ok(None),
        v => u32::try_from(v).map(Some).map_err(|_| Error::invalid(format!("device rule at {n}: invalid {what} {v}"))),
    };
    let which = DeviceSet { node, major: number("major", d.major())?, minor: number("minor", d.minor())? };
    Ok(Rule::Some { allow, which, access })
}

#[cfg(test)]
pub(in crate::cgroup) mod tests {
    use super::*;
    use crate::{cgroup::fields::tests::resources, error::Kind};

    /// Reads a rule from text, `allow c 1:3 rw`, for the tables of tests.
    pub(in crate::cgroup) fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split([' ', ':']).collect();
        let allow = words[0] == "allow";
        let number = |w: &str| (w != "*").then(|| w.parse().unwrap());
        let node = match words[1] {
            "a" => return Rule::All { allow },
            "b" => Node::Block,
            _ => Node::Char,
        };
        let which = DeviceSet { node, major: number(words[2]), minor: number(words[3]) };
        Rule::Some { allow, which, access: Access::parse(words[4]).unwrap() }
    }

    #[test]
    fn default_rules_follow_those_of_config_json() {
        let rules = rules(&resources(
            r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
        ))
        .unwrap();
        assert_eq!(rules[0], rule("deny a"));
        assert_eq!(rules[1], rule("allow c 10:229 rw"));
        assert_eq!(rules[2], rule("allow c *:* m"));
        assert_eq!(rules.len(), 2 + default_device_rules().len());
    }

    #[test]
    fn error_names_the_bad_rule_by_index() {
        let rows = [
            (r#"{"allow":true,"type":"c"}"#, "device access at 0 field cannot be empty"),
            (r#"{"allow":true,"type":"c","access":"x"}"#, "device access at 0 field \"x\" must be of r, w, m"),
            (r#"{"allow":true,"type":"p","access":"r"}"#, "device rule at 0: invalid cgroup device type \"p\""),
            (r#"{"allow":true,"type":"c","major":-2,"access":"r"}"#, "device rule at 0: invalid major -2"),
            (
                r#"{"allow":true,"type":"b","minor":4294967296,"access":"r"}"#,
                "device rule at 0: invalid minor 4294967296",
            ),
        ];
        for (json, text) in rows {
            let e = rules(&resources(&format!(r#"{{"devices":[{json}]}}"#))).unwrap_err();
            assert_eq!((e.kind(), e.to_string().as_str()), (Kind::InvalidArgument, text));
        }
    }

    #[test]
    fn unknown_access_letters_are_warned_of() {
        let json = r#"{"devices":[{"allow":true,"access":"r"},{"allow":true,"access":"rx"}]}"#;
        let want = ["linux.resources.devices[1].access: \"rx\": only r, w and m are known"];
        assert_eq!(warnings(&resources(json)), want);
    }

    #[test]
    fn access_is_parsed_and_printed_in_canonical_order() {
        assert_eq!(Access::parse("mwr").unwrap().to_string(), "rwm");
        assert_eq!(Access::parse("rr").unwrap().to_string(), "r");
        assert!(Access::parse("x").is_none());
    }
}
