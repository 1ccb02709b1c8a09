//! Compares the compiled program with an evaluator that follows the meaning of the rules directly, for every access of every
//! device that a set of rules can tell apart.

use super::*;
use crate::cgroup::{
    devices::rules::{default_device_rules, rules, tests::rule},
    fields::tests::resources,
};

/// A request: type (1 block, 2 char), access bits, major, minor.
type Request = (u32, u8, u32, u32);

/// The answer of the v1 kernel to a request under these rules, computed in the obvious way; None for refused rules.
fn naive(rules: &[Rule], (node, asked, major, minor): Request) -> Option<bool> {
    let wider = |w: &DeviceSet, than: &DeviceSet| {
        let covers = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
        w != than && w.node == than.node && covers(w.major, than.major) && covers(w.minor, than.minor)
    };
    let (mut default, mut exceptions): (bool, Vec<(DeviceSet, u8)>) = (false, Vec::new());
    for rule in rules {
        match rule {
            Rule::All { allow } => (default, exceptions) = (*allow, Vec::new()),
            Rule::Some { allow, which, access } if *allow != default => {
                match exceptions.iter_mut().find(|(w, _)| w == which) {
                    Some((_, had)) => *had |= access.bits(),
                    None => exceptions.push((*which, access.bits())),
                }
            }
            Rule::Some { which, access, .. } => {
                if exceptions.iter().any(|(w, had)| wider(w, which) && had & access.bits() != 0) {
                    return None;
                }
                if let Some((_, had)) = exceptions.iter_mut().find(|(w, _)| w == which) {
                    *had &= !access.bits();
                }
            }
        }
    }
    let about = |w: &DeviceSet| {
        let same = match w.node {
            Node::Block => node == 1,
            Node::Char => node == 2,
        };
        same && w.major.is_none_or(|m| m == major) && w.minor.is_none_or(|m| m == minor)
    };
    let mut about_it = exceptions.iter().filter(|(w, _)| about(w)).map(|(_, access)| *access);
    Some(if default {
        about_it.all(|denied| asked & denied == 0)
    } else {
        about_it.any(|allowed| asked & !allowed == 0)
    })
}

/// An eBPF machine with the instructions that the compiler uses; any other one is a failure.
fn run(program: &[Insn], (node, access, major, minor): Request) -> bool {
    let request = [u32::from(access) << 16 | node, major, minor];
    let mut regs: [Option<u32>; 11] = [None; 11];
    regs[1] = Some(0xdead);
    let mut at = 0;
    loop {
        let Insn { code, regs: r, off, imm } = program[at];
        let (dst, src) = (usize::from(r & 15), usize::from(r >> 4));
        at += 1;
        let value = |regs: &[Option<u32>; 11], n: usize| regs[n].expect("uninitialised register");
        let imm = imm.cast_unsigned();
        let jump = |taken: bool| if taken { usize::try_from(off).expect("forward") } else { 0 };
        match code {
            LOAD_WORD => {
                assert_eq!(src, 1, "only the context is memory");
                regs[dst] = Some(request[usize::try_from(off).unwrap() / 4]);
            }
            MOV_IMM => regs[dst] = Some(imm),
            MOV_REG => regs[dst] = Some(value(&regs, src)),
            AND_IMM => regs[dst] = Some(value(&regs, dst) & imm),
            SHIFT_RIGHT => regs[dst] = Some(value(&regs, dst) >> imm),
            JUMP_NE => at += jump(value(&regs, dst) != imm),
            JUMP_SET => at += jump(value(&regs, dst) & imm != 0),
            EXIT => return value(&regs, 0) == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Every request that the kernel makes and `rules` can tell apart: with each number that they name, another one, and the
/// largest.
fn requests(rules: &[Rule]) -> Vec<Request> {
    let mut numbers = vec![0, 77, u32::MAX];
    for rule in rules {
        if let Rule::Some { which, .. } = rule {
            numbers.extend(which.major);
            numbers.extend(which.minor);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut all = Vec::new();
    for node in [1, 2] {
        for access in [1, 2, 4, 6] {
            for major in &numbers {
                all.extend(numbers.iter().map(|minor| (node, access, *major, *minor)));
            }
        }
    }
    all
}

fn verdict(rules: &[Rule], request: Request) -> bool {
    compile(rules).unwrap().is_none_or(|program| run(&program, request))
}

/// Compares the program with the evaluator; returns whether the rules are accepted.
fn agree(rules: &[Rule]) -> bool {
    let program = compile(rules).ok();
    for request in requests(rules) {
        let is = program.as_ref().map(|program| program.as_ref().is_none_or(|p| run(p, request)));
        assert_eq!(is, naive(rules, request), "{request:?} of {rules:?}");
    }
    program.is_some()
}

fn parsed(text: &[&str]) -> Vec<Rule> {
    text.iter().map(|t| rule(t)).collect()
}

#[test]
fn program_decides_like_the_v1_kernel() {
    let rows: &[&[&str]] = &[
        &[],
        &["deny a"],
        &["allow a"],
        &["allow a", "deny b 8:* w"],
        &["allow a", "deny c 1:11 rwm", "allow c *:* m"],
        &["allow a", "deny c 1:11 rwm", "allow c 1:11 m"],
        &["deny a", "allow c *:* m", "allow c 1:3 rw", "deny c 1:3 w"],
        &["allow c 1:* r", "allow c 1:3 w", "allow c *:3 rm"],
        &["allow c 1:3 rw", "allow c 1:3 rw", "deny c 1:3 rw", "allow c 1:3 m"],
        &["allow b 4294967295:4294967295 r", "allow c 2147483648:0 w"],
        &["allow c 1:3 rwm", "deny a", "allow c 1:5 r"],
        &["deny b 8:0 r", "allow a", "deny c 5:* rw", "deny c 5:5 m"],
    ];
    for row in rows {
        assert!(agree(&parsed(row)), "{row:?} is refused");
    }
    let refused: &[&[&str]] = &[
        &["allow a", "deny b 8:* w", "allow b 8:1 w"],
        &["deny a", "allow c *:* m", "allow c 1:3 rwm", "deny c 1:3 m"],
        &["allow c 1:* r", "allow c 1:3 w", "deny c *:* r", "deny c 1:3 r"],
    ];
    for row in refused {
        assert!(!agree(&parsed(row)), "{row:?} is accepted");
    }
}

#[test]
fn accesses_requested_together_need_a_single_rule() {
    let rules = parsed(&["allow c 1:* r", "allow c 1:3 w", "allow c 1:5 rw"]);
    let asked = |access, minor| verdict(&rules, (2, access, 1, minor));
    assert!(asked(2, 3) && asked(4, 3) && !asked(6, 3) && asked(6, 5) && !asked(1, 5));
}

#[test]
fn program_and_evaluator_agree_on_random_rules() {
    // A small generator with a fixed seed: the same rules on every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut taken = 0;
    for _ in 0..800 {
        let rules: Vec<Rule> = (0..next(9))
            .map(|_| {
                let allow = next(2) == 0;
                if next(12) == 0 {
                    return Rule::All { allow };
                }
                let mut number = || [None, Some(1), Some(3), Some(8)][next(4)];
                let (major, minor) = (number(), number());
                let node = if next(2) == 0 { Node::Block } else { Node::Char };
                let access = ["r", "w", "m", "rw", "rm", "wm", "rwm"][next(7)];
                Rule::Some { allow, which: DeviceSet { node, major, minor }, access: Access::parse(access).unwrap() }
            })
            .collect();
        taken += u32::from(agree(&rules));
    }
    assert!(taken > 200, "{taken} of 800 are accepted");
}

#[test]
fn request_without_an_access_is_allowed_if_any_access_is() {
    let rules = parsed(&["allow c 1:3 r", "deny c 1:5 w"]);
    assert!(verdict(&rules, (2, 0, 1, 3)));
    assert!(!verdict(&rules, (2, 0, 1, 5)));
    assert!(!verdict(&rules, (1, 0, 1, 3)));
}

#[test]
fn default_rules_allow_pts_and_null_and_deny_disks() {
    let rules = rules(&resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#)).unwrap();
    assert!(agree(&rules));
    let rows = [
        ((2, 6, 1, 3), true, "rw null"),
        ((2, 6, 136, 9), true, "rw pts"),
        ((1, 1, 8, 0), true, "mknod of a disk"),
        ((1, 2, 8, 0), false, "read of a disk"),
        ((2, 2, 1, 1), false, "read of mem"),
        ((2, 6, 5, 1), false, "console"),
    ];
    for (request, allowed, what) in rows {
        assert_eq!(verdict(&rules, request), allowed, "{what}");
    }
}

#[test]
fn privileged_container_needs_no_program() {
    assert!(compile(&rules(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap()).unwrap().is_none());
    assert_eq!(default_device_rules().len(), 11);
}

#[test]
fn overridden_rules_add_no_instructions() {
    let size = |rules: &[&str]| compile(&parsed(rules)).unwrap().unwrap().len();
    let once = size(&["allow c 1:3 rwm"]);
    assert_eq!(size(&["deny a", "deny c 1:5 r", "allow c 1:3 r", "allow c 1:3 rwm"]), once);
    assert_eq!(size(&["allow c 7:7 r", "deny a", "allow c 1:3 rwm", "deny b *:4 m"]), once);
}

#[test]
fn more_rules_than_a_jump_spans_are_refused() {
    let many = |n: u32| -> Vec<Rule> { (0..n).map(|m| rule(&format!("allow c 9:{m} r"))).collect() };
    assert!(compile(&many(5000)).is_ok());
    assert_eq!(compile(&many(8000)).unwrap_err().kind(), crate::Kind::Unsupported);
}
