//! Rules that name the same call, merged into one ordered list for each number of each convention.
//!
//! The order among rules that overlap is libseccomp's, since profiles are written against it: a rule without
//! comparisons swallows all others of the call (the first of two such wins); otherwise rules are ordered by what they
//! compare, not by where they stand in the profile. Turning the lists into a search is [`super::ranges`]' part.

use std::cmp::Ordering;

use super::arch::Abi;
use super::profile::{Block, Compare, Profile, Test};
use super::syscalls::{self, Call};
use crate::{Error, Result};

/// What to do with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same action whatever the arguments.
    Always(u32),
    /// The first alternative whose comparisons all hold decides, the default action if none does.
    ByArguments(Vec<Alternative>),
}

/// Comparisons, at least one, and the action if all of them hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Ordered by argument, each argument once.
    pub compares: Vec<Compare>,
    /// Raw action.
    pub action: u32,
}

/// The profile's calls, looked up: what every convention's list is made from.
pub struct Calls<'a> {
    default: u32,
    /// In the profile's order. Unknown names are left out, as runc does: a profile may be newer than the runtime.
    named: Vec<Named<'a>>,
}

/// A name of the profile.
struct Named<'a> {
    block: &'a Block<'a>,
    /// Which of the profile's blocks, which name in it.
    place: (usize, usize),
    call: Call,
}

impl<'a> Calls<'a> {
    /// Looks every name up once for all conventions.
    pub fn find(profile: &'a Profile<'a>) -> Self {
        let mut named = Vec::with_capacity(profile.blocks.iter().map(|b| b.names.len()).sum());
        for (n, block) in profile.blocks.iter().enumerate() {
            let found = block.names.iter().enumerate().filter_map(|(k, name)| Some((k, syscalls::lookup(name)?)));
            named.extend(found.map(|(k, call)| Named { block, place: (n, k), call }));
        }
        Self { default: profile.default, named }
    }

    /// The newest call the profile names under `abi`, whatever its action; none if it names none but number 0.
    ///
    /// i386's calls that are multiplexed do not count: runc's rule, as libseccomp gives those a negative number.
    pub fn newest(&self, abi: Abi) -> Option<u32> {
        let own = |call: &Call| if abi == Abi::X86 && call.mux.is_some() { None } else { call.number(abi) };
        self.named.iter().filter_map(|named| own(&named.call)).max().filter(|nr| *nr != 0)
    }

    /// Decisions for the numbers of `abi`, ascending.
    ///
    /// # Errors
    /// Two rules with the same comparisons and different actions.
    pub fn decisions(&self, abi: Abi) -> Result<Vec<(u32, Decision)>> {
        let mut entries = Vec::with_capacity(self.named.len() + 32);
        // A rule that says what the default says is skipped by runc, even where it would narrow another rule.
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
    /// Merges the name's rules into what is decided so far; `selector` is set for a call made through a multiplexer.
    fn add_to(&self, decision: &mut Decision, abi: Abi, selector: Option<u32>) -> Result<()> {
        for rule in &self.block.rules {
            let Decision::ByArguments(list) = decision else { return Ok(()) };
            let compares: Vec<Compare> = match selector {
                None => rule.iter().filter_map(|c| narrow(*c, abi)).collect(),
                // The multiplexer's arguments are its own: its first selects the call, which takes the place of what
                // the rule says of the first. libseccomp compares the others all the same.
                Some(call) => std::iter::once(Compare::equal(0, call.into()))
                    .chain(rule.iter().filter(|c| c.arg != 0).filter_map(|c| narrow(*c, abi)))
                    .collect(),
            };
            if compares.is_empty() {
                *decision = Decision::Always(self.block.action);
            } else {
                let new = Alternative { compares, action: self.block.action };
                insert(list, new, abi.wide()).map_err(|Clash| self.clash())?;
            }
        }
        Ok(())
    }

    fn clash(&self) -> Error {
        let (n, k) = self.place;
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

/// The same comparisons with another action.
struct Clash;

/// The comparison as `abi` can make it, none if it then always holds (a mask without bits).
fn narrow(mut compare: Compare, abi: Abi) -> Option<Compare> {
    if !abi.wide() {
        compare.mask &= u64::from(u32::MAX);
        compare.value &= u64::from(u32::MAX);
    }
    (compare.mask != 0).then_some(compare)
}

/// Puts `new` where libseccomp would test it.
fn insert(list: &mut Vec<Alternative>, new: Alternative, wide: bool) -> Result<(), Clash> {
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
            // Opposite outcomes of the same test exclude each other; any order will do.
            None if old_steps.iter().zip(&new_steps).any(|(a, b)| a.negate != b.negate) => (),
            None => match (old_steps.len().cmp(&new_steps.len()), old.action == new.action) {
                (Ordering::Equal, false) => return Err(Clash),
                // Nothing is left for the new rule to match.
                (Ordering::Equal, true) | (Ordering::Less, _) => return Ok(()),
                (Ordering::Greater, _) => (),
            },
        }
    }
    list.push(new);
    Ok(())
}

/// A 32-bit test of the tree that libseccomp builds; what it sorts by.
#[derive(Clone, Copy)]
struct Step {
    node: Node,
    family: u32,
    negate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    /// Twice the argument, one more for its high half.
    word: u32,
    test: Test,
    mask: u32,
    value: u32,
}

impl Step {
    /// Higher is tested first.
    fn rank(&self) -> (u32, u32, u32) {
        // The smaller bound of two "less than" is the narrower.
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
        let mut step = |high: bool, test| {
            let (mask, value) = c.half(high);
            let node = Node { word: c.arg * 2 + u32::from(high), test, mask, value };
            steps.push(Step { node, family, negate: c.negate });
        };
        if wide {
            if c.test != Test::Eq {
                step(true, Test::Gt);
            }
            step(true, Test::Eq);
        }
        step(false, c.test);
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

    /// Actions in the order they are tested for the only call.
    fn order(syscalls: Value) -> Vec<u32> {
        match decide(syscalls, Abi::X86_64).unwrap().pop().unwrap().1 {
            Decision::Always(action) => vec![action],
            Decision::ByArguments(list) => list.iter().map(|a| a.action).collect(),
        }
    }

    #[test]
    fn rules_without_arguments_swallow_the_others_and_the_first_of_them_wins() {
        let narrow = rule("read", "LOG", json!([arg(0, "EQ", 1)]));
        let allow = rule("read", "ALLOW", json!([]));
        assert_eq!(order(json!([narrow, allow])), [ALLOW]);
        assert_eq!(order(json!([allow, narrow])), [ALLOW]);
        assert_eq!(order(json!([allow, rule("read", "LOG", json!([]))])), [ALLOW]);
        // A mask without bits compares nothing.
        assert_eq!(order(json!([rule("read", "LOG", json!([arg(0, "MASKED_EQ", 0)]))])), [LOG]);
    }

    #[test]
    fn overlapping_rules_are_ordered_by_what_they_compare() {
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
    fn the_more_specific_rule_goes_first_or_never_matters() {
        let narrow = rule("read", "LOG", json!([arg(0, "EQ", 1), arg(1, "EQ", 2)]));
        let broad = rule("read", "ALLOW", json!([arg(0, "EQ", 1)]));
        assert_eq!(order(json!([narrow, broad])), [LOG, ALLOW]);
        assert_eq!(order(json!([broad, narrow])), [ALLOW]);
    }

    #[test]
    fn a_contradiction_is_refused_by_name() {
        let list = json!([
            rule("read", "LOG", json!([arg(0, "EQ", 1)])),
            {"names": ["write", "read"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, "EQ", 1)]},
        ]);
        let want =
            "linux.seccomp.syscalls[1].names[1]: read: an earlier rule has another action for the same arguments";
        assert_eq!(decide(list, Abi::X86_64).unwrap_err().to_string(), want);
        // The same test with opposite outcomes contradicts nothing.
        let list =
            json!([rule("read", "LOG", json!([arg(0, "EQ", 1)])), rule("read", "ALLOW", json!([arg(0, "NE", 1)])),]);
        assert_eq!(order(list).len(), 2);
    }

    #[test]
    fn i386_makes_socket_and_ipc_calls_two_ways() {
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
    fn unknown_names_and_the_defaults_own_action_are_skipped_but_the_latter_is_named() {
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
    fn the_newest_call_leaves_out_what_i386_multiplexes() {
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
        // Number 0 alone is no hint of a kernel's age: runc's rule.
        assert_eq!(newest("read", Abi::X86_64), None);
    }
}
