//! Device rules for v2: compiled into an eBPF program that the kernel asks at each open and mknod of a device node.
//!
//! Pure; loading it is left to [`super::program`]. What it decides is what v1's kernel would, so that a container is as
//! confined here as there: the rules become [a default and exceptions](super::allowlist), in their order, and a rule that
//! would take a part of a wildcard away is refused. Where the default is no, one exception must allow all that is asked at
//! once; where it is yes, none may forbid any of it. The kernel asks for mknod alone, and for read and write alone or
//! together (linux/device_cgroup.h). A question about no access at all (a path lookup) is answered with yes
//! where any access is allowed.
//!
//! The rules are worked out beforehand for every device that they can tell apart, and the program is the tree of these:
//! type, then major, then minor, an answer at each end. So it looks at few rules, and the verifier at each one once.
//!
//! The kernel's question (`struct bpf_cgroup_dev_ctx`, linux/bpf.h) is three numbers: access << 16 | type, major, minor.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    allowlist::Allowlist,
    devices::{Access, Node, Rule, Which},
};
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
    let list = Allowlist::new(rules)?;
    let (char, block) = (Tree::new(&list, Node::Char), Tree::new(&list, Node::Block));
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
    minors: BTreeMap<u32, Allowed>,
    /// For a minor that no rule names.
    other: Allowed,
}

/// What may be asked for at once: all of one of these, or less. None holds another.
#[derive(PartialEq, Eq)]
struct Allowed(Vec<Access>);

impl Tree {
    fn new(list: &Allowlist, node: Node) -> Self {
        // The minors that are named for every major, and those of each named one.
        let mut everywhere = BTreeSet::new();
        let mut named: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (which, _) in list.exceptions() {
            let minors = match which.major {
                _ if which.node != node => continue,
                Some(major) => named.entry(major).or_default(),
                None => &mut everywhere,
            };
            minors.extend(which.minor);
        }
        let minors = |major: Option<u32>, named: &BTreeSet<u32>| {
            let other = Allowed::by(list, Which { node, major, minor: None });
            let each = named.iter().map(|m| (*m, Allowed::by(list, Which { node, major, minor: Some(*m) })));
            Minors { minors: each.filter(|(_, access)| *access != other).collect(), other }
        };
        let other = minors(None, &everywhere);
        let each = named.iter().map(|(major, own)| (*major, minors(Some(*major), &(own | &everywhere))));
        // One that makes no difference is left out, most of all those that an `a` rule overrides.
        let majors = each.filter(|(_, m)| *m != other).collect();
        Self { majors, other }
    }

    fn allows_all(&self) -> bool {
        self.majors.is_empty() && self.other.minors.is_empty() && self.other.other.0 == [Access::ALL]
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
            out.extend(unless(MINOR, number(*minor), access.code())?);
        }
        out.extend(self.other.code());
        Ok(out)
    }
}

impl Allowed {
    /// For a device. A number that is None here stands for all that no rule names, so only wildcards are about it.
    fn by(list: &Allowlist, device: Which) -> Self {
        let about = |w: &Which| {
            w.node == device.node
                && (w.major.is_none() || w.major == device.major)
                && (w.minor.is_none() || w.minor == device.minor)
        };
        let exceptions =
            || list.exceptions().filter(|(which, a)| about(which) && !a.is_empty()).map(|(_, access)| *access);
        if list.allows_by_default() {
            let left = exceptions().fold(Access::ALL, Access::without);
            return Self(Some(left).filter(|access| !access.is_empty()).into_iter().collect());
        }
        // Mknod is asked for alone, so it goes with whatever else there is.
        let mknod = exceptions().fold(Access::default(), |all, access| all | access.shared(Access::MKNOD));
        let mut all: Vec<Access> = exceptions().map(|access| access | mknod).collect();
        all.sort_unstable();
        all.dedup();
        let whole = all.clone();
        all.retain(|a| !whole.iter().any(|other| other != a && a.without(*other).is_empty()));
        Self(all)
    }

    /// Yes when all that is asked is in one of them.
    fn code(&self) -> Vec<Insn> {
        let (yes, no, exit) = (insn(MOV_IMM, ANSWER, 0, 0, 1), insn(MOV_IMM, ANSWER, 0, 0, 0), insn(EXIT, 0, 0, 0, 0));
        if self.0 == [Access::ALL] {
            return vec![yes, exit];
        }
        let mut out = vec![no];
        for (n, access) in self.0.iter().enumerate() {
            // Past the yes, and past its end unless that is the end of all.
            let over = if n + 1 == self.0.len() { 1 } else { 2 };
            let denied = Access::ALL.without(*access);
            out.extend([insn(JUMP_SET, ASKED, 0, over, i32::from(denied.bits())), yes, exit]);
        }
        if self.0.is_empty() {
            out.push(exit);
        }
        out
    }
}

/// `then`, which ends in an answer, behind a test that jumps over it.
fn unless(reg: u8, value: i32, then: Vec<Insn>) -> Result<Vec<Insn>> {
    let over =
        i16::try_from(then.len()).map_err(|_| Error::unsupported("more device rules than a device program holds"))?;
    let mut out = vec![insn(JUMP_NE, reg, 0, over, value)];
    out.extend(then);
    Ok(out)
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
