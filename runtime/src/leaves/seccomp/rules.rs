//! Merges the rules for a call into one ordered list, for each call number of each ABI.
//!
//! Overlapping rules have libseccomp's order, because profiles are written for it. A rule without comparisons replaces
//! all others of its call; of two such rules the first wins. Other rules are ordered by their comparisons, not by their
//! place in the profile. [`super::ranges`] builds the search from the lists.

use std::cmp::Ordering;

use super::{
    arch::Abi,
    bpf::Half,
    profile::{Block, Compare, Profile, Test},
    syscalls::{self, Call},
};
use crate::{Error, Result};

/// The answer for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The action, whatever the arguments are.
    Always(u32),
    /// The first alternative whose comparisons all hold decides. If none does, the default action applies.
    ByArguments(Vec<Alternative>),
}

/// At least one comparison, and the action if all of them hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Ordered by argument; each argument occurs once.
    pub compares: Vec<Compare>,
    /// Raw action.
    pub action: u32,
}

/// The calls of the profile with their numbers.
pub struct Calls<'a> {
    default: u32,
    /// In the profile's order. Unknown names are left out as in runc, because a profile may be newer than the runtime.
    named: Vec<Named<'a>>,
}

/// A name of the profile.
struct Named<'a> {
    block: &'a Block<'a>,
    /// Index of the block, and index of the name in it.
    position: (usize, usize),
    call: Call,
}

impl<'a> Calls<'a> {
    /// Looks up every name once for all ABIs.
    pub fn find(profile: &'a Profile<'a>) -> Self {
        let mut named = Vec::with_capacity(profile.blocks.iter().map(|b| b.names.len()).sum());
        for (n, block) in profile.blocks.iter().enumerate() {
            let found = block.names.iter().enumerate().filter_map(|(k, name)| Some((k, syscalls::lookup(name)?)));
            named.extend(found.map(|(k, call)| Named { block, position: (n, k), call }));
        }
        Self { default: profile.default, named }
    }

    /// Returns the newest call that the profile names under `abi`, whatever its action is. Returns `None` if the
    /// profile names only call 0.
    ///
    /// Multiplexed calls of i386 do not count. runc ignores them, as libseccomp gives them negative numbers.
    pub fn newest(&self, abi: Abi) -> Option<u32> {
        let own = |call: &Call| if abi == Abi::X86 && call.mux.is_some() { None } else { call.number(abi) };
        self.named.iter().filter_map(|named| own(&named.call)).max().filter(|nr| *nr != 0)
    }

    /// Returns the decisions for the call numbers of `abi`, ascending.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for two rules with equal comparisons and different actions.
    pub fn decisions(&self, abi: Abi) -> Result<Vec<(u32, Decision)>> {
        let mut entries = Vec::with_capacity(self.named.len() + 32);
        // runc skips a rule with the default action, even if it would narrow another rule.
        for (order, named) in self.named.iter().enumerate().filter(|(_, named)| named.block.action != self.default) {
            if let (Abi::X86, Some(mux)) = (abi, named.call.mux) {
                entries.push((mux.nr, order, Some(mux.selector), named));
            }
            if let Some(nr) = named.call.number(abi) {
                entries.push((nr, order, None, named));
            }
        }
        entries.sort_unstable_by_key(|(nr, order, ..)| (*nr, *order));
        let mut decisions = Vec::with_capacity(entries.len());
        for (nr, _, selector, named) in entries {
            let mut decision = match decisions.pop_if(|(last, _)| *last == nr) {
                Some((_, decision)) => decision,
                None => Decision::ByArguments(Vec::new()),
            };
            named.add_to(&mut decision, abi, selector)?;
            decisions.push((nr, decision));
        }
        Ok(decisions)
    }
}

impl Named<'_> {
    /// Adds the name's rules to `decision`. `selector` is set for a call through `socketcall` or `ipc`.
    fn add_to(&self, decision: &mut Decision, abi: Abi, selector: Option<u32>) -> Result<()> {
        for rule in &self.block.rules {
            let Decision::ByArguments(list) = decision else { return Ok(()) };
            let compares: Vec<Compare> = match selector {
                None => rule.iter().filter_map(|c| narrow(*c, abi)).collect(),
                // The first argument of the multiplexer selects the call, so it replaces the rule's comparison of
                // argument 0. libseccomp keeps the other comparisons, although the multiplexer has other arguments.
                Some(call) => std::iter::once(Compare::equal(0, call.into()))
                    .chain(rule.iter().filter(|c| c.arg != 0).filter_map(|c| narrow(*c, abi)))
                    .collect(),
            };
            if compares.is_empty() {
                *decision = Decision::Always(self.block.action);
            } else {
                let new = Alternative { compares, action: self.block.action };
                insert(list, new, abi.wide()).map_err(|Conflict| self.conflict())?;
            }
        }
        Ok(())
    }

    fn conflict(&self) -> Error {
        let (n, k) = self.position;
        let name = self.block.names.get(k).map_or("", String::as_str);
        Error::invalid(format!(
            "linux.seccomp.syscalls[{n}].names[{k}]: {name}: an earlier rule has another action for the same arguments"
        ))
    }
}

impl Compare {
    fn equal(arg: u32, value: u64) -> Self {
        Self { arg, test: Test::Eq, negate: false, mask: u64::MAX, value }
    }
}

/// Two rules have equal comparisons and different actions.
struct Conflict;

/// Reduces the comparison to the width of `abi`. Returns `None` if it then always holds, because its mask has no bits.
fn narrow(mut compare: Compare, abi: Abi) -> Option<Compare> {
    if !abi.wide() {
        compare.mask &= u64::from(u32::MAX);
        compare.value &= u64::from(u32::MAX);
    }
    (compare.mask != 0).then_some(compare)
}

/// Inserts `new` at the place where libseccomp would test it.
fn insert(list: &mut Vec<Alternative>, new: Alternative, wide: bool) -> Result<(), Conflict> {
    let new_steps = steps(&new, wide);
    for (n, old) in list.iter().enumerate() {
        let old_steps = steps(old, wide);
        let differ = old_steps.iter().zip(&new_steps).find(|(a, b)| a.node != b.node);
        match differ {
            Some((a, b)) if a.rank() < b.rank() => {
                list.insert(n, new);
                return Ok(());
            }
            Some(_) => (),
            // Opposite outcomes of one test exclude each other, so their order does not matter.
            None if old_steps.iter().zip(&new_steps).any(|(a, b)| a.negate != b.negate) => (),
            None => match (old_steps.len().cmp(&new_steps.len()), old.action == new.action) {
                (Ordering::Equal, false) => return Err(Conflict),
                // The old rule matches everything that the new one does.
                (Ordering::Equal, true) | (Ordering::Less, _) => return Ok(()),
                (Ordering::Greater, _) => (),
            },
        }
    }
    list.push(new);
    Ok(())
}

/// A 32-bit test in libseccomp's tree, with its sort key.
#[derive(Clone, Copy)]
struct Step {
    node: Node,
    family: u32,
    negate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    /// Twice the index of the argument, plus one for the high half.
    word: u32,
    test: Test,
    mask: u32,
    value: u32,
}

impl Step {
    /// Returns the sort key. The higher step is tested first.
    fn rank(&self) -> (u32, u32, u32) {
        // Of two "less than" tests the one with the smaller bound is narrower.
        let narrow = if self.family == 2 { !self.node.value } else { self.node.value };
        (self.node.word, self.family, narrow)
    }
}

fn steps(alternative: &Alternative, wide: bool) -> Vec<Step> {
    let mut steps = Vec::with_capacity(alternative.compares.len() * 3);
    for c in &alternative.compares {
        let family = match (c.test, c.negate) {
            (Test::Eq, _) => 3,
            (_, true) => 2,
            (_, false) => 1,
        };
        let mut step = |which: Half, test| {
            let (mask, value) = c.half(which);
            let node = Node { word: c.arg * 2 + which.index(), test, mask, value };
            steps.push(Step { node, family, negate: c.negate });
        };
        if wide {
            if c.test != Test::Eq {
                step(Half::High, Test::Gt);
            }
            step(Half::High, Test::Eq);
        }
        step(Half::Low, c.test);
    }
    steps
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccomp;
    use serde_json::{Value, json};

    use super::super::profile::check;
    use super::*;

    const DEFAULT: u32 = 0x0005_0001;
    const ALLOW: u32 = 0x7fff_0000;
    const LOG: u32 = 0x7ffc_0000;

    fn decide(syscalls: Value, abi: Abi) -> Result<Vec<(u32, Decision)>> {
        let profile: LinuxSeccomp =
            serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls})).unwrap();
        let profile = check(&profile, Abi::X86_64)?;
        Calls::find(&profile).decisions(abi)
    }

    fn rule(name: &str, action: &str, args: Value) -> Value {
        json!({"names": [name], "action": format!("SCMP_ACT_{action}"), "args": args})
    }

    fn arg(index: u32, op: &str, value: u64) -> Value {
        json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value, "valueTwo": 0})
    }

    /// Returns the actions in the order of their tests, for a profile with one call.
    fn order(syscalls: Value) -> Vec<u32> {
        match decide(syscalls, Abi::X86_64).unwrap().pop().unwrap().1 {
            Decision::Always(action) => vec![action],
            Decision::ByArguments(list) => list.iter().map(|a| a.action).collect(),
        }
    }

    #[test]
    fn first_rule_without_arguments_replaces_all_others_of_the_call() {
        let narrow = rule("read", "LOG", json!([arg(0, "EQ", 1)]));
        let allow = rule("read", "ALLOW", json!([]));
        assert_eq!(order(json!([narrow, allow])), [ALLOW]);
        assert_eq!(order(json!([allow, narrow])), [ALLOW]);
        assert_eq!(order(json!([allow, rule("read", "LOG", json!([]))])), [ALLOW]);
        // A mask without bits compares nothing, so the rule always holds.
        assert_eq!(order(json!([rule("read", "LOG", json!([arg(0, "MASKED_EQ", 0)]))])), [LOG]);
    }

    #[test]
    fn overlapping_rules_are_ordered_by_their_comparisons() {
        let rules = |a: Value, b: Value| {
            (
                json!([rule("read", "ALLOW", json!([a])), rule("read", "LOG", json!([b]))]),
                json!([rule("read", "LOG", json!([b])), rule("read", "ALLOW", json!([a]))]),
            )
        };
        for (first, second) in [
            (arg(1, "EQ", 5), arg(0, "EQ", 5)),
            (arg(0, "EQ", 5), arg(0, "LT", 9)),
            (arg(0, "LT", 9), arg(0, "GT", 3)),
            (arg(0, "GT", 9), arg(0, "GT", 3)),
            (arg(0, "LE", 3), arg(0, "LE", 9)),
        ] {
            let (one, other) = rules(first, second);
            assert_eq!(order(one.clone()), [ALLOW, LOG], "{one}");
            assert_eq!(order(other.clone()), [ALLOW, LOG], "{other}");
        }
    }

    #[test]
    fn more_specific_rule_is_tested_first_or_dropped() {
        let narrow = rule("read", "LOG", json!([arg(0, "EQ", 1), arg(1, "EQ", 2)]));
        let broad = rule("read", "ALLOW", json!([arg(0, "EQ", 1)]));
        assert_eq!(order(json!([narrow, broad])), [LOG, ALLOW]);
        assert_eq!(order(json!([broad, narrow])), [ALLOW]);
    }

    #[test]
    fn contradicting_rules_are_refused_by_name() {
        let list = json!([
            rule("read", "LOG", json!([arg(0, "EQ", 1)])),
            {"names": ["write", "read"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, "EQ", 1)]},
        ]);
        let want =
            "linux.seccomp.syscalls[1].names[1]: read: an earlier rule has another action for the same arguments";
        assert_eq!(decide(list, Abi::X86_64).unwrap_err().to_string(), want);
        // The same test with the opposite outcome is no contradiction.
        let list =
            json!([rule("read", "LOG", json!([arg(0, "EQ", 1)])), rule("read", "ALLOW", json!([arg(0, "NE", 1)])),]);
        assert_eq!(order(list).len(), 2);
    }

    #[test]
    fn i386_socket_and_ipc_calls_are_filtered_in_both_forms() {
        let list = json!([rule("socket", "ALLOW", json!([arg(0, "NE", 40), arg(2, "EQ", 7)]))]);
        let found = decide(list.clone(), Abi::X86).unwrap();
        let eq = |arg, value| Compare { mask: u64::from(u32::MAX), ..Compare::equal(arg, value) };
        let alternatives = |n: usize| match &found[n].1 {
            Decision::ByArguments(list) => list.iter().map(|a| a.compares.clone()).collect::<Vec<_>>(),
            Decision::Always(_) => panic!("{found:?}"),
        };
        assert_eq!(found.iter().map(|(nr, _)| *nr).collect::<Vec<_>>(), [102, 359]);
        assert_eq!(alternatives(0), [vec![Compare::equal(0, 1), eq(2, 7)]]);
        assert_eq!(alternatives(1), [vec![Compare { negate: true, ..eq(0, 40) }, eq(2, 7)]]);
        let list = json!([rule("shmctl", "ALLOW", json!([])), rule("recv", "ALLOW", json!([]))]);
        let numbers: Vec<_> = decide(list, Abi::X86).unwrap().into_iter().map(|(nr, _)| nr).collect();
        assert_eq!(numbers, [102, 117, 396]);
    }

    #[test]
    fn rules_with_unknown_names_or_the_default_action_are_skipped() {
        let list = json!([
            rule("no_such_call", "ALLOW", json!([])),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            rule("read", "ALLOW", json!([])),
        ]);
        assert_eq!(decide(list.clone(), Abi::X86_64).unwrap(), [(0, Decision::Always(ALLOW))]);
        let profile: LinuxSeccomp =
            serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list})).unwrap();
        let profile = check(&profile, Abi::X86_64).unwrap();
        assert_eq!(profile.default, DEFAULT);
        assert_eq!(Calls::find(&profile).newest(Abi::X86_64), Some(435));
    }

    #[test]
    fn multiplexed_calls_of_i386_do_not_count_as_newest() {
        let newest = |name: &str, abi| {
            let profile: LinuxSeccomp = serde_json::from_value(
                json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read", "ALLOW", json!([])), rule(name, "ALLOW", json!([]))]}),
            )
            .unwrap();
            let profile = check(&profile, Abi::X86_64).unwrap();
            Calls::find(&profile).newest(abi)
        };
        assert_eq!(newest("socket", Abi::X86), Some(3));
        assert_eq!(newest("socket", Abi::X86_64), Some(41));
        assert_eq!(newest("socket", Abi::X32), Some(0x4000_0029));
        // As in runc, call number 0 alone says nothing about the age of a profile.
        assert_eq!(newest("read", Abi::X86_64), None);
    }
}
