//! Device rules for v2, compiled into an eBPF program that the kernel runs at each open and mknod of a device node.
//!
//! Pure; [`super::program`] loads it. The program decides like the v1 kernel, so that a container is confined equally on
//! both versions: the rules become [a default and exceptions](super::allowlist), in their order, and a rule that removes a
//! part of a wildcard is refused. If the default is to deny, a single exception must allow all requested accesses. If the
//! default is to allow, no exception may deny one of them. The kernel requests mknod alone, and read and write alone or
//! together (linux/device_cgroup.h). A request without an access (a path lookup) is allowed if any access is.
//!
//! The compiler computes the answer for every device that the rules can tell apart. The program is a tree: type, then major,
//! then minor, with an answer at each leaf. So a request passes few comparisons, and the verifier sees each only once.
//!
//! The request (`struct bpf_cgroup_dev_ctx`, linux/bpf.h) has three numbers: access << 16 | type, major, minor.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    allowlist::Allowlist,
    rules::{Access, DeviceSet, Node, Rule},
};
use crate::error::{Error, Result};

/// One instruction, with the layout of `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Insn {
    pub code: u8,
    /// Destination and source, four bits each.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

// linux/bpf_common.h and linux/bpf.h: class | operation | source. The 32-bit jumps exist since Linux 5.1.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOV_IMM: u8 = 0xb4;
pub(super) const MOV_REG: u8 = 0xbc;
pub(super) const AND_IMM: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x74;
pub(super) const JUMP_NE: u8 = 0x56;
pub(super) const JUMP_SET: u8 = 0x46;
pub(super) const EXIT: u8 = 0x95;

// Registers. The kernel reads the answer from register 0 and passes a pointer to the request in register 1.
const ANSWER: u8 = 0;
const REQUEST: u8 = 1;
// The fields of the request.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// BPF_DEVCG_DEV_CHAR; the only other one is BPF_DEVCG_DEV_BLOCK.
const CHAR: i32 = 2;

/// Compiles `rules`. Returns None if they allow everything, which needs no program.
///
/// # Errors
/// A rule that removes a part of a wildcard; more rules than a jump can span.
pub(in crate::cgroup) fn compile(rules: &[Rule]) -> Result<Option<Vec<Insn>>> {
    let list = Allowlist::new(rules)?;
    let (char, block) = (Tree::new(&list, Node::Char), Tree::new(&list, Node::Block));
    if char.allows_all() && block.allows_all() {
        return Ok(None);
    }
    let mut out = vec![
        insn(LOAD_WORD, ACCESS, REQUEST, 0, 0),
        insn(MOV_REG, TYPE, ACCESS, 0, 0),
        insn(AND_IMM, TYPE, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, REQUEST, 4, 0),
        insn(LOAD_WORD, MINOR, REQUEST, 8, 0),
    ];
    out.extend(when(TYPE, CHAR, char.code()?)?);
    out.extend(block.code()?);
    Ok(Some(out))
}

/// The allowed accesses for the devices of one type.
struct Tree {
    majors: BTreeMap<u32, Minors>,
    /// For a major that no rule names.
    other: Minors,
}

/// The allowed accesses for the devices of one major, or of all majors that no rule names.
#[derive(PartialEq, Eq)]
struct Minors {
    minors: BTreeMap<u32, Allowed>,
    /// For a minor that no rule names.
    other: Allowed,
}

/// A request is allowed if one of these sets contains all its accesses. No set contains another.
#[derive(PartialEq, Eq)]
struct Allowed(Vec<Access>);

impl Tree {
    fn new(list: &Allowlist, node: Node) -> Self {
        // The minors that rules name for all majors, and for each major.
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
            let other = Allowed::by(list, DeviceSet { node, major, minor: None });
            let each = named.iter().map(|m| (*m, Allowed::by(list, DeviceSet { node, major, minor: Some(*m) })));
            Minors { minors: each.filter(|(_, access)| *access != other).collect(), other }
        };
        let other = minors(None, &everywhere);
        let each = named.iter().map(|(major, own)| (*major, minors(Some(*major), &(own | &everywhere))));
        // A major with the same answers as the rest is left out; mostly rules that an `a` rule overrides.
        let majors = each.filter(|(_, m)| *m != other).collect();
        Self { majors, other }
    }

    fn allows_all(&self) -> bool {
        self.majors.is_empty() && self.other.minors.is_empty() && self.other.other.0 == [Access::ALL]
    }

    fn code(&self) -> Result<Vec<Insn>> {
        let mut out = Vec::new();
        for (major, minors) in &self.majors {
            out.extend(when(MAJOR, number(*major), minors.code()?)?);
        }
        out.extend(self.other.code()?);
        Ok(out)
    }
}

impl Minors {
    fn code(&self) -> Result<Vec<Insn>> {
        let mut out = Vec::new();
        for (minor, access) in &self.minors {
            out.extend(when(MINOR, number(*minor), access.code())?);
        }
        out.extend(self.other.code());
        Ok(out)
    }
}

impl Allowed {
    /// The sets for `device`. A number that is None stands for all numbers that no rule names, so only wildcards match it.
    fn by(list: &Allowlist, device: DeviceSet) -> Self {
        let about = |w: &DeviceSet| {
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
        // The kernel requests mknod alone, so it can be added to every set.
        let mknod = exceptions().fold(Access::default(), |all, access| all | access.shared(Access::MKNOD));
        let mut all: Vec<Access> = exceptions().map(|access| access | mknod).collect();
        all.sort_unstable();
        all.dedup();
        let whole = all.clone();
        all.retain(|a| !whole.iter().any(|other| other != a && a.without(*other).is_empty()));
        Self(all)
    }

    /// Code that answers yes if one of the sets contains all requested accesses.
    fn code(&self) -> Vec<Insn> {
        let (yes, no, exit) = (insn(MOV_IMM, ANSWER, 0, 0, 1), insn(MOV_IMM, ANSWER, 0, 0, 0), insn(EXIT, 0, 0, 0, 0));
        if self.0 == [Access::ALL] {
            return vec![yes, exit];
        }
        let mut out = vec![no];
        for (n, access) in self.0.iter().enumerate() {
            // Jumps over the yes, and over its exit as well unless that is the last instruction.
            let over = if n + 1 == self.0.len() { 1 } else { 2 };
            let denied = Access::ALL.without(*access);
            out.extend([insn(JUMP_SET, ACCESS, 0, over, i32::from(denied.bits())), yes, exit]);
        }
        if self.0.is_empty() {
            out.push(exit);
        }
        out
    }
}

/// Code that runs `then`, which ends with an answer, if register `reg` is `value`, and jumps over it otherwise.
fn when(reg: u8, value: i32, then: Vec<Insn>) -> Result<Vec<Insn>> {
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
    // The two halves of the byte are a C bit field: their order follows the byte order of the machine.
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    Insn { code, regs, off, imm }
}

#[cfg(test)]
mod tests;
