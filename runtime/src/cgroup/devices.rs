//! Device rules: what `linux.resources.devices` says, checked, and what every container is given besides.
//!
//! How the kernel is told is left to [`super::allowlist`] (v1) and [`super::filter`] (v2).

use std::{fmt, ops::BitOr};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::error::{Error, Result};

/// One rule, checked. What a list of them means is [`super::allowlist`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Every device, every access; forgets all rules before it. The other fields of an `a` rule do not count, in v1's
    /// kernel as in runc.
    All { allow: bool },
    /// Some devices.
    Some { allow: bool, which: Which, access: Access },
}

/// Which devices a rule is about; None is the wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Which {
    pub node: Node,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

/// The two kinds of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Block,
    Char,
}

/// A set of the accesses read, write and mknod. The bits are the kernel's BPF_DEVCG_ACC_* and DEVCG_ACC_*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access(u8);

impl Access {
    pub(super) const MKNOD: Self = Self(1);
    pub(super) const READ: Self = Self(2);
    pub(super) const WRITE: Self = Self(4);
    pub(super) const ALL: Self = Self(7);

    pub(super) fn parse(text: &str) -> Option<Self> {
        text.chars().try_fold(Self::default(), |set, c| match c {
            'r' => Some(set | Self::READ),
            'w' => Some(set | Self::WRITE),
            'm' => Some(set | Self::MKNOD),
            _ => None,
        })
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn shared(self, other: Self) -> Self {
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

impl fmt::Display for Which {
    /// As v1's files spell it: `c 1:*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let node = match self.node {
            Node::Block => 'b',
            Node::Char => 'c',
        };
        write!(f, "{node} {}:{}", number(self.major), number(self.minor))
    }
}

/// The devices that every container gets, after the rules of its own: mknod of any node (a node is no access), null,
/// zero, full, random, urandom, tty, ptmx, pts, and tun, which runc took away in 1.2 and had to give back.
/// `/dev/console` is a pts in a container and so needs no rule.
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

/// The rules of `resources` and after them the default ones, in which order runc has them, too: the defaults cannot be
/// denied. Before the first rule everything is denied.
pub(super) fn rules(resources: &LinuxResources) -> Result<Vec<Rule>> {
    let given = resources.devices().iter().flatten();
    let mut rules = Vec::new();
    for (n, device) in given.enumerate() {
        rules.push(rule(n, device)?);
        // Other letters say nothing, as in runc.
        if let Some(letters) = device.access().as_deref().filter(|letters| known(letters) != *letters) {
            log::warn!("linux.resources.devices[{n}].access: {letters:?}: only r, w and m are known");
        }
    }
    for device in &default_device_rules() {
        rules.push(rule(rules.len(), device)?);
    }
    Ok(rules)
}

/// What is wrong with the rules of `resources`.
///
/// # Errors
/// Names the rule by its place.
pub(super) fn check(resources: &LinuxResources) -> Result<()> {
    resources.devices().iter().flatten().enumerate().try_for_each(|(n, device)| rule(n, device).map(drop))
}

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
    let which = Which { node, major: number("major", d.major())?, minor: number("minor", d.minor())? };
    Ok(Rule::Some { allow, which, access })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{Kind, cgroup::limits::tests::resources};

    /// Rules as text, `allow c 1:3 rw`, for tables in tests.
    pub(in crate::cgroup) fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split([' ', ':']).collect();
        let allow = words[0] == "allow";
        let number = |w: &str| (w != "*").then(|| w.parse().unwrap());
        let node = match words[1] {
            "a" => return Rule::All { allow },
            "b" => Node::Block,
            _ => Node::Char,
        };
        let which = Which { node, major: number(words[2]), minor: number(words[3]) };
        Rule::Some { allow, which, access: Access::parse(words[4]).unwrap() }
    }

    #[test]
    fn given_rules_come_first_then_the_defaults() {
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
    fn bad_rules_are_named() {
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
    fn access_reads_and_prints() {
        assert_eq!(Access::parse("mwr").unwrap().to_string(), "rwm");
        assert_eq!(Access::parse("rr").unwrap().to_string(), "r");
        assert!(Access::parse("x").is_none());
    }
}
