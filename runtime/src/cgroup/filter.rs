//! Device rules for v2: compiled into an eBPF program that the kernel asks at each open and mknod of a device node.
//!
//! Pure; loading it is left to [`super::program`]. What it decides: every access that is asked for needs a rule that
//! allows it, and of several rules about a device the last one that names the access counts. Where no rule does, the
//! default of the last `a` rule holds, and without one all is denied. So `rw` is denied where only `w` is.
//!
//! The kernel's question (`struct bpf_cgroup_dev_ctx`, linux/bpf.h) is three numbers: access << 16 | type, major, minor.

use super::devices::{Access, Node, Rule, Which};

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

/// The verdict, and what the kernel gives: a pointer to its question.
const VERDICT: u8 = 0;
const QUESTION: u8 = 1;
/// The question taken apart. `ASKED` holds the accesses not decided yet.
const TYPE: u8 = 2;
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const ALL_ACCESS: u8 = 7;

/// The program for `rules`, the last of which count most; None when they allow everything, for which no program is
/// needed.
pub(super) fn compile(rules: &[Rule]) -> Option<Vec<Insn>> {
    let (default, rules) = reduce(rules);
    if default && rules.is_empty() {
        return None;
    }
    let mut out = vec![
        insn(LOAD_WORD, ASKED, QUESTION, 0, 0),
        insn(MOV_REG, TYPE, ASKED, 0, 0),
        insn(AND_IMM, TYPE, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, ASKED, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, QUESTION, 4, 0),
        insn(LOAD_WORD, MINOR, QUESTION, 8, 0),
    ];
    for rule in &rules {
        block(*rule, &mut out);
    }
    out.extend([insn(MOV_IMM, VERDICT, 0, 0, i32::from(default)), insn(EXIT, 0, 0, 0, 0)]);
    Some(out)
}

/// A rule about some devices.
#[derive(Clone, Copy)]
struct About {
    allow: bool,
    which: Which,
    access: Access,
}

/// The default and the rules that can still matter, the last first.
fn reduce(rules: &[Rule]) -> (bool, Vec<About>) {
    let mut default = false;
    let mut kept: Vec<About> = Vec::new();
    for rule in rules {
        match *rule {
            Rule::All { allow } => {
                default = allow;
                kept.clear();
            }
            // With nothing before it to override, a rule that repeats the default says nothing.
            Rule::Some { allow, .. } if kept.is_empty() && allow == default => {}
            Rule::Some { allow, which, access } => {
                // An older rule about the same devices and no other access is never reached.
                kept.retain(|k| k.which != which || !k.access.without(access).is_empty());
                kept.push(About { allow, which, access });
            }
        }
    }
    kept.reverse();
    (default, kept)
}

/// One rule: skip it when it is about other devices; else decide the accesses it names, and answer when that answers
/// the question. A question about no access at all (a path lookup) is answered by the first rule that is about it.
fn block(rule: About, out: &mut Vec<Insn>) {
    let mut tests = vec![(
        TYPE,
        match rule.which.node {
            // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
            Node::Block => 1,
            Node::Char => 2,
        },
    )];
    let number = |n: u32| i32::from_ne_bytes(n.to_ne_bytes());
    tests.extend(rule.which.major.map(|n| (MAJOR, number(n))));
    tests.extend(rule.which.minor.map(|n| (MINOR, number(n))));
    let bits = rule.access.bits();
    let mut body = Vec::new();
    if rule.allow {
        body.push(insn(AND_IMM, ASKED, 0, 0, i32::from(ALL_ACCESS & !bits)));
        // Something is left to ask: over the answer, to the next rule.
        body.push(insn(JUMP_NE, ASKED, 0, 2, 0));
    } else {
        body.push(insn(JUMP_SET, ASKED, 0, 1, i32::from(bits)));
        body.push(insn(JUMP_NE, ASKED, 0, 2, 0));
    }
    body.extend([insn(MOV_IMM, VERDICT, 0, 0, i32::from(rule.allow)), insn(EXIT, 0, 0, 0, 0)]);
    let mut skip = i16::try_from(tests.len() + body.len()).unwrap_or(i16::MAX);
    for (reg, value) in tests {
        skip -= 1;
        out.push(insn(JUMP_NE, reg, 0, skip, value));
    }
    out.extend(body);
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    // The two halves of the byte are a C bit field, which turns with the machine's byte order.
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    Insn { code, regs, off, imm }
}

#[cfg(test)]
mod tests;
