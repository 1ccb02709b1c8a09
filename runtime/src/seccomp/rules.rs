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
