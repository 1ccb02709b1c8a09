//! Device rules for v2: compiled into an eBPF program that the kernel asks at each open and mknod of a device node.
//!
//! Pure; loading it is left to [`super::program`]. What it decides: every access that is asked for must be allowed, and
//! of several rules about a device the last one that names the access counts. Where no rule does, the last `a` rule
//! holds, and without one all is denied. So `rw` is denied where only `w` is. A question about no access at all (a path
//! lookup) is answered with yes where any access is allowed.
//!
//! The rules are worked out beforehand for every device that they can tell apart, and the program is the tree of these:
//! type, then major, then minor, an answer at each end. So it looks at few rules, and the verifier at each one once.
//!
//! The kernel's question (`struct bpf_cgroup_dev_ctx`, linux/bpf.h) is three numbers: access << 16 | type, major, minor.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::{Access, Node, Rule, Which};
use crate::error::{Error, Result};

/// One instruction, laid out as `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub code: u8,
    /// Destination and source, four bits each.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

// linux/bpf_common.h and linux/bpf.h: class | operation | source. The 32-bit jumps came with 5.1.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOV_IMM: u8 = 0xb4;
pub(super) const MOV_REG: u8 = 0xbc;
pub(super) const AND_IMM: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x74;
pub(super) const JUMP_NE: u8 = 0x56;
pub(super) const JUMP_SET: u8 = 0x46;
pub(super) const EXIT: u8 = 0x95;

/// The answer, and what the kernel gives: a pointer to its question.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
/// The question taken apart.
const TYPE: u8 = 2;
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// BPF_DEVCG_DEV_CHAR; the only other one is BPF_DEVCG_DEV_BLOCK.
const CHAR: i32 = 2;

/// The program for `rules`; None when they allow everything, for which no program is needed.
pub(super) fn compile(rules: &[Rule]) -> Result<Option<Vec<Insn>>> {
    let (char, block) = (Tree::new(rules, Node::Char), Tree::new(rules, Node::Block));
    if char.allows_all() && block.allows_all() {
        return Ok(None);
    }
    let mut out = vec![
        insn(LOAD_WORD, ASKED, QUESTION, 0, 0),
        insn(MOV_REG, TYPE, ASKED, 0, 0),
        insn(AND_IMM, TYPE, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, ASKED, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, QUESTION, 4, 0),
        insn(LOAD_WORD, MINOR, QUESTION, 8, 0),
    ];
    out.extend(unless(TYPE, CHAR, char.code()?)?);
    out.extend(block.code()?);
    Ok(Some(out))
}

/// What is allowed for the devices of one type.
struct Tree {
    majors: BTreeMap<u32, Minors>,
    /// For a major that no rule names.
    other: Minors,
}

/// What is allowed for the devices of one major, or of all majors that have none of their own.
#[derive(PartialEq, Eq)]
struct Minors {
    minors: BTreeMap<u32, Access>,
    /// For a minor that no rule names.
    other: Access,
}

impl Tree {
    fn new(rules: &[Rule], node: Node) -> Self {
        // The minors that are named for every major, and those of each named one.
        let mut everywhere = BTreeSet::new();
        let mut named: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for rule in rules {
            let Rule::Some { which, .. } = rule else { continue };
            let minors = match which.major {
                _ if which.node != node => continue,
                Some(major) => named.entry(major).or_default(),
                None => &mut everywhere,
            };
            minors.extend(which.minor);
        }
        let minors = |major: Option<u32>, named: &BTreeSet<u32>| {
            let other = allowed(rules, Which { node, major, minor: None });
            let each = named.iter().map(|m| (*m, allowed(rules, Which { node, major, minor: Some(*m) })));
            Minors { minors: each.filter(|(_, access)| *access != other).collect(), other }
        };
        let other = minors(None, &everywhere);
        let each = named.iter().map(|(major, own)| (*major, minors(Some(*major), &(own | &everywhere))));
        // One that makes no difference is left out, most of all those that an `a` rule overrides.
        let majors = each.filter(|(_, m)| *m != other).collect();
        Self { majors, other }
    }

    fn allows_all(&self) -> bool {
        self.majors.is_empty() && self.other.minors.is_empty() && self.other.other == Access::ALL
    }

    fn code(&self) -> Result<Vec<Insn>> {
        let mut out = Vec::new();
        for (major, minors) in &self.majors {
            out.extend(unless(MAJOR, number(*major), minors.code()?)?);
        }
        out.extend(self.other.code()?);
        Ok(out)
    }
}

impl Minors {
    fn code(&self) -> Result<Vec<Insn>> {
        let mut out = Vec::new();
        for (minor, access) in &self.minors {
            out.extend(unless(MINOR, number(*minor), answer(*access))?);
        }
        out.extend(answer(self.other));
        Ok(out)
    }
}

/// What `rules` allow for a device. A number that is None here stands for all that no rule names, so only wildcards
/// are about it.
fn allowed(rules: &[Rule], device: Which) -> Access {
    let about = |w: &Which| {
        w.node == device.node
            && (w.major.is_none() || w.major == device.major)
            && (w.minor.is_none() || w.minor == device.minor)
    };
    rules.iter().fold(Access::default(), |before, rule| match rule {
        Rule::All { allow: true } => Access::ALL,
        Rule::All { allow: false } => Access::default(),
        Rule::Some { allow: true, which, access } if about(which) => before | *access,
        Rule::Some { allow: false, which, access } if about(which) => before.without(*access),
        Rule::Some { .. } => before,
    })
}

/// `then`, which ends in an answer, behind a test that jumps over it.
fn unless(reg: u8, value: i32, then: Vec<Insn>) -> Result<Vec<Insn>> {
    let over =
        i16::try_from(then.len()).map_err(|_| Error::unsupported("more device rules than a device program holds"))?;
    let mut out = vec![insn(JUMP_NE, reg, 0, over, value)];
    out.extend(then);
    Ok(out)
}

/// Yes when all that is asked is in `access`.
fn answer(access: Access) -> Vec<Insn> {
    let (yes, no, exit) = (insn(MOV_IMM, ANSWER, 0, 0, 1), insn(MOV_IMM, ANSWER, 0, 0, 0), insn(EXIT, 0, 0, 0, 0));
    let denied = Access::ALL.without(access);
    if access.is_empty() {
        vec![no, exit]
    } else if denied.is_empty() {
        vec![yes, exit]
    } else {
        vec![no, insn(JUMP_SET, ASKED, 0, 1, i32::from(denied.bits())), yes, exit]
    }
}

fn number(n: u32) -> i32 {
    n.cast_signed()
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    // The two halves of the byte are a C bit field, which turns with the machine's byte order.
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    Insn { code, regs, off, imm }
}

#[cfg(test)]
mod tests;
