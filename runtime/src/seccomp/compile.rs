//! From a profile to a program: which convention, which number, which arguments, in this order.

use oci_spec::runtime::LinuxSeccomp;

use super::Filter;
use super::arch::Abi;
use super::bpf::{self, Assembler, Jump, Target};
use super::profile::{self, Compare, Profile, Test};
use super::ranges::{BAD_ARCH, Background, Range};
use super::rules::{Alternative, Calls, Decision};
use crate::Result;

/// Compiles for a machine whose own convention is `native`.
pub fn compile(profile: &LinuxSeccomp, native: Abi) -> Result<Filter> {
    let profile = profile::check(profile, native)?;
    let calls = Calls::find(&profile);
    let mut asm = Assembler::default();
    // Written backwards: the machine's own convention comes last to be tested first.
    let mut bodies = Vec::with_capacity(profile.abis.len());
    for group in groups(&profile.abis).iter().rev() {
        bodies.push((group.audit, body(&mut asm, &profile, &calls, &group.abis)?));
    }
    let mut entry = Target::Return(BAD_ARCH);
    for (audit, body) in bodies {
        entry = asm.branch(Jump::Eq, audit, body, entry);
    }
    if let Target::At(_) = entry {
        asm.load(bpf::ARCH);
    } else {
        asm.start_at(entry);
    }
    Ok(Filter::new(asm.finish()?, profile.flags))
}

/// Conventions with the same token.
struct Group {
    audit: u32,
    abis: Vec<Abi>,
}

fn groups(abis: &[Abi]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::with_capacity(abis.len());
    for abi in abis {
        match groups.iter_mut().find(|group| group.audit == abi.audit()) {
            Some(group) => group.abis.push(*abi),
            None => groups.push(Group { audit: abi.audit(), abis: vec![*abi] }),
        }
    }
    groups
}

/// Writes the search over the numbers of one token and what its leaves need.
fn body(asm: &mut Assembler, profile: &Profile, calls: &Calls, abis: &[Abi]) -> Result<Target> {
    let mut rules = Vec::new();
    for abi in abis {
        // Several calls often share their comparisons: one copy of each list will do.
        let mut chains: Vec<(Vec<Alternative>, Target)> = Vec::new();
        for (nr, decision) in calls.decisions(*abi)? {
            let answer = match decision {
                Decision::Always(action) => Target::Return(action),
                Decision::ByArguments(list) => match chains.iter().find(|(known, _)| *known == list) {
                    Some((_, target)) => *target,
                    None => {
                        let target = chain(asm, &list, profile.default, abi.wide());
                        chains.push((list, target));
                        target
                    }
                },
            };
            rules.push((nr, answer));
        }
    }
    rules.sort_unstable_by_key(|(nr, _)| *nr);
    let newest = |abi| calls.newest(abi).filter(|_| profile.stub);
    let background = match abis {
        [abi @ (Abi::X86 | Abi::Aarch64 | Abi::Arm)] => Background::plain(profile.default, newest(*abi)),
        _ => Background::x86_64(abis, profile.default, newest),
    };
    match background.overlay(&rules, Target::Return).as_slice() {
        [whole] => Ok(whole.answer),
        ranges => {
            search(asm, ranges);
            Ok(asm.load(bpf::NR))
        }
    }
}

/// A binary search; the first instruction of more than one range is the last one written.
fn search(asm: &mut Assembler, ranges: &[Range<Target>]) -> Target {
    match ranges {
        [] => Target::Return(BAD_ARCH),
        [one] => one.answer,
        // A hole of one number in a run: one test instead of two.
        [before, one, after] if before.answer == after.answer && one.start + 1 == after.start => {
            asm.branch(Jump::Eq, one.start, one.answer, before.answer)
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let start = high.first().map_or(0, |range| range.start);
            let high = search(asm, high);
            let low = search(asm, low);
            asm.branch(Jump::Ge, start, high, low)
        }
    }
}

/// The alternatives in their order; the default action if none holds.
fn chain(asm: &mut Assembler, list: &[Alternative], default: u32, wide: bool) -> Target {
    list.iter().rev().fold(Target::Return(default), |next, alternative| {
        let hit = Target::Return(alternative.action);
        alternative.compares.iter().rev().fold(hit, |hit, c| compare(asm, c, wide, hit, next))
    })
}

/// One comparison, high half first: the low one only matters where the high ones are equal.
fn compare(asm: &mut Assembler, c: &Compare, wide: bool, yes: Target, no: Target) -> Target {
    let (yes, no) = if c.negate { (no, yes) } else { (yes, no) };
    if yes == no {
        return yes;
    }
    let jump = match c.test {
        Test::Eq => Jump::Eq,
        Test::Gt => Jump::Gt,
        Test::Ge => Jump::Ge,
    };
    let low = half(asm, c, false, jump, yes, no);
    match c.test {
        _ if !wide => low,
        Test::Eq => half(asm, c, true, Jump::Eq, low, no),
        Test::Gt | Test::Ge => {
            let (_, value) = c.half(true);
            let equal = asm.branch(Jump::Eq, value, low, no);
            asm.branch(Jump::Gt, value, yes, equal);
            asm.load(bpf::argument(c.arg, true))
        }
    }
}

fn half(asm: &mut Assembler, c: &Compare, high: bool, jump: Jump, yes: Target, no: Target) -> Target {
    let (mask, value) = c.half(high);
    if mask == 0 {
        return yes;
    }
    asm.branch(jump, value, yes, no);
    if mask != u32::MAX {
        asm.and(mask);
    }
    asm.load(bpf::argument(c.arg, high))
}
