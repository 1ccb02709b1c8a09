//! Device rules for v1: the list that the kernel keeps for a `devices` cgroup, and the writes that change one list into
//! another.
//!
//! The kernel's list has a default and exceptions; `devices.allow` and `devices.deny` add or remove an exception (kernel
//! documentation, admin-guide/cgroup-v1/devices). The kernel silently ignores the removal of a part of a wildcard, so berth
//! refuses such a rule.

use std::collections::BTreeMap;

use super::rules::{Access, DeviceSet, Node, Rule};
use crate::{
    cgroup::dir::Dir,
    error::{Error, Kind, Result},
};

/// A state of the kernel's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cgroup) struct Allowlist {
    /// Whether a device without an exception is allowed.
    allow: bool,
    exceptions: BTreeMap<DeviceSet, Access>,
}

/// A line for `devices.allow` or `devices.deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Change {
    pub allow: bool,
    pub line: String,
}

impl Allowlist {
    /// The list after `rules`, starting with a list that allows nothing.
    ///
    /// # Errors
    /// A rule removes a part of a wildcard.
    pub(in crate::cgroup) fn new(rules: &[Rule]) -> Result<Self> {
        let mut list = Self::default();
        for rule in rules {
            match *rule {
                Rule::All { allow } => list = Self { allow, exceptions: BTreeMap::new() },
                Rule::Some { allow, which, access } if allow != list.allow => list.add(which, access),
                Rule::Some { which, access, .. } => list.remove(which, access)?,
            }
        }
        Ok(list)
    }

    /// Whether a device without an exception is allowed.
    pub(in crate::cgroup) fn allows_by_default(&self) -> bool {
        self.allow
    }

    /// The exceptions, in a fixed order.
    pub(in crate::cgroup) fn exceptions(&self) -> impl Iterator<Item = (&DeviceSet, &Access)> {
        self.exceptions.iter()
    }

    /// Reads `devices.list`. If the default is to allow, the file does not show the exceptions.
    pub(in crate::cgroup) fn parse(text: &str) -> Result<Self> {
        let mut list = Self::default();
        for line in text.lines() {
            let bad = || Error::new(Kind::Internal, format!("devices.list: malformed line {line:?}"));
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let &[node, major, minor, access] = words.as_slice() else { return Err(bad()) };
            let number = |text: &str| if text == "*" { Ok(None) } else { text.parse().map(Some).map_err(|_| bad()) };
            let node = match node {
                "a" => return Ok(Self { allow: true, exceptions: BTreeMap::new() }),
                "b" => Node::Block,
                "c" => Node::Char,
                _ => return Err(bad()),
            };
            let which = DeviceSet { node, major: number(major)?, minor: number(minor)? };
            list.add(which, Access::parse(access).ok_or_else(bad)?);
        }
        Ok(list)
    }

    /// The writes that change `from` into this list. They do not touch exceptions that both lists have, so a running
    /// container never loses a device that it keeps. `None` stands for an unknown list: the first write discards it.
    pub(in crate::cgroup) fn changes(&self, from: Option<&Self>) -> Vec<Change> {
        let none = BTreeMap::new();
        let mut out = Vec::new();
        // A list that allows by default hides its exceptions, so it cannot be changed step by step.
        let old = match from {
            Some(f) if !f.allow && !self.allow => &f.exceptions,
            _ => {
                out.push(Change { allow: self.allow, line: "a *:* rwm".into() });
                &none
            }
        };
        let mut change = |allow: bool, which: &DeviceSet, access: Access| {
            if !access.is_empty() {
                out.push(Change { allow, line: format!("{which} {access}") });
            }
        };
        for (which, had) in old {
            change(self.allow, which, had.without(self.access(which)));
        }
        for (which, access) in &self.exceptions {
            change(!self.allow, which, access.without(old.get(which).copied().unwrap_or_default()));
        }
        out
    }

    fn access(&self, which: &DeviceSet) -> Access {
        self.exceptions.get(which).copied().unwrap_or_default()
    }

    fn add(&mut self, which: DeviceSet, access: Access) {
        let entry = self.exceptions.entry(which).or_default();
        *entry = *entry | access;
    }

    fn remove(&mut self, which: DeviceSet, access: Access) -> Result<()> {
        let DeviceSet { node, major, minor } = which;
        let wider = [(None, minor), (major, None), (None, None)].map(|(major, minor)| DeviceSet { node, major, minor });
        for wide in wider.iter().filter(|w| **w != which) {
            let overlap = self.access(wide).shared(access);
            if !overlap.is_empty() {
                return Err(Error::unsupported(format!(
                    "device rule {which} {access}: not supported by devices cgroupv1 \
                     (cannot punch hole in existing wildcard rule {wide} {overlap})"
                )));
            }
        }
        let left = self.access(&which).without(access);
        if left.is_empty() {
            self.exceptions.remove(&which);
        } else {
            self.exceptions.insert(which, left);
        }
        Ok(())
    }
}

/// Sets the list of the `devices` cgroup `dir` to `rules`, and reads it back: a device that is not denied is open to the
/// container. `fresh` means that no process runs in the cgroup yet.
///
/// # Errors
/// A rule that the kernel cannot express or refuses; a list that is not the expected one afterwards.
pub(in crate::cgroup) fn apply(dir: &Dir, rules: &[Rule], fresh: bool) -> Result<()> {
    let target = Allowlist::new(rules)?;
    let read = || Allowlist::parse(&dir.read("devices.list")?);
    let changes = if fresh { target.changes(None) } else { target.changes(Some(&read()?)) };
    // Changes of one kind come in a row, so each file is opened at most once.
    for run in changes.chunk_by(|a, b| a.allow == b.allow) {
        let Some((first, rest)) = run.split_first() else { continue };
        let file = dir.write_first(if first.allow { "devices.allow" } else { "devices.deny" }, &first.line)?;
        for change in rest {
            file.write(&change.line)?;
        }
    }
    let is = read()?;
    let same = if target.allow { is.allow } else { is == target };
    if !same {
        let path = dir.path().display();
        return Err(Error::new(
            Kind::Internal,
            format!("{path}: resulting devices cgroup doesn't precisely match target"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::devices::rules::tests::rule;

    fn list(rules: &[&str]) -> Allowlist {
        Allowlist::new(&rules.iter().map(|r| rule(r)).collect::<Vec<_>>()).unwrap()
    }

    fn lines(to: &Allowlist, from: Option<&Allowlist>) -> Vec<String> {
        let word = |c: Change| format!("{} {}", if c.allow { "allow" } else { "deny" }, c.line);
        to.changes(from).into_iter().map(word).collect()
    }

    #[test]
    fn fresh_cgroup_is_denied_everything_first() {
        let to = list(&["deny a", "allow c 1:3 rw", "allow c 1:3 m", "allow b 8:* r"]);
        assert_eq!(lines(&to, None), ["deny a *:* rwm", "allow b 8:* r", "allow c 1:3 rwm"]);
    }

    #[test]
    fn list_that_allows_by_default_is_written_whole() {
        let to = list(&["allow a", "deny b 8:0 w", "allow c 1:3 rwm"]);
        assert_eq!(lines(&to, None), ["allow a *:* rwm", "deny b 8:0 w"]);
        assert_eq!(lines(&to, Some(&list(&["allow a"]))), ["allow a *:* rwm", "deny b 8:0 w"]);
    }

    #[test]
    fn update_writes_only_the_differences() {
        let from = list(&["allow c 1:3 rwm", "allow c 1:5 rwm", "allow b 8:0 r"]);
        let to = list(&["allow c 1:3 rwm", "allow c 1:5 r", "allow b 8:0 rw"]);
        assert_eq!(lines(&to, Some(&from)), ["deny c 1:5 wm", "allow b 8:0 w"]);
        assert_eq!(lines(&to, Some(&to)), [""; 0]);
    }

    #[test]
    fn removal_of_a_part_of_a_wildcard_is_refused() {
        let rows = [
            &["allow c 1:* rw", "deny c 1:3 r"][..],
            &["allow c *:* m", "deny c 1:3 rwm"],
            &["allow a", "deny c *:3 r", "allow c 1:3 r"],
        ];
        for rules in rows {
            let e = Allowlist::new(&rules.iter().map(|r| rule(r)).collect::<Vec<_>>()).unwrap_err();
            assert!(e.to_string().contains("cannot punch hole"), "{e}");
        }
        // The removal of another access, or of the whole wildcard, is no hole.
        assert_eq!(list(&["allow c 1:* rw", "deny c 1:3 m"]), list(&["allow c 1:* rw"]));
        assert_eq!(list(&["allow c 1:* rw", "deny c 1:* w"]), list(&["allow c 1:* r"]));
    }

    #[test]
    fn devices_list_is_parsed() {
        let text = "c 1:3 rwm\nb *:* m\nc 136:* rwm\n";
        assert_eq!(Allowlist::parse(text).unwrap(), list(&["allow c 1:3 rwm", "allow b *:* m", "allow c 136:* rwm"]));
        assert_eq!(Allowlist::parse("a *:* rwm\n").unwrap(), list(&["allow a"]));
        assert_eq!(Allowlist::parse("").unwrap(), list(&["deny a"]));
        for bad in ["x 1:3 r", "c 1 r", "c x:3 r", "c 1:3 q"] {
            assert!(Allowlist::parse(bad).is_err(), "{bad}");
        }
    }
}
