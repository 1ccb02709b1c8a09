//! Writes the program of a profile. It tests the ABI first, then the call number, then the arguments.

use oci_spec::runtime::LinuxSeccomp;

use super::{
    Filter,
    arch::Abi,
    bpf::{self, Assembler, Half, Jump, Target},
    profile::{self, Compare, Profile, Test},
    ranges::{BAD_ARCH, Background, Range},
    rules::{Alternative, Calls, Decision},
};
use crate::Result;

/// Compiles a profile for a machine with the ABI `native`.
pub fn compile(profile: &LinuxSeccomp, native: Abi) -> Result<Filter> {
    let profile = profile::check(profile, native)?;
    let calls = Calls::find(&profile);
    let mut asm = Assembler::default();
    // The assembler writes backwards, so the native ABI is written last and tested first.
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

/// ABIs that share an audit token.
struct AuditGroup {
    audit: u32,
    abis: Vec<Abi>,
}

fn groups(abis: &[Abi]) -> Vec<AuditGroup> {
    let mut groups: Vec<AuditGroup> = Vec::with_capacity(abis.len());
    for abi in abis {
        match groups.iter_mut().find(|group| group.audit == abi.audit()) {
            Some(group) => group.abis.push(*abi),
            None => groups.push(AuditGroup { audit: abi.audit(), abis: vec![*abi] }),
        }
    }
    groups
}

/// Writes the search over the call numbers of one audit token, and before it the argument tests of its calls.
fn body(asm: &mut Assembler, profile: &Profile, calls: &Calls, abis: &[Abi]) -> Result<Target> {
    let mut rules = Vec::new();
    for abi in abis {
        // Several calls often have equal argument tests, so each list is written once.
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

/// Writes a binary search over `ranges`. For more than one range, its first instruction is the last one written.
fn search(asm: &mut Assembler, ranges: &[Range<Target>]) -> Target {
    match ranges {
        [] => Target::Return(BAD_ARCH),
        [one] => one.answer,
        // A range of one number inside another: one test instead of two.
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

/// Writes the tests of the alternatives in their order. If none holds, the filter returns the default action.
fn chain(asm: &mut Assembler, list: &[Alternative], default: u32, wide: bool) -> Target {
    list.iter().rev().fold(Target::Return(default), |next, alternative| {
        let hit = Target::Return(alternative.action);
        alternative.compares.iter().rev().fold(hit, |hit, c| compare(asm, c, wide, hit, next))
    })
}

/// Writes one comparison, the high half first. The low half matters only if the high halves are equal.
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
    let low = half(asm, c, Half::Low, jump, yes, no);
    match c.test {
        _ if !wide => low,
        Test::Eq => half(asm, c, Half::High, Jump::Eq, low, no),
        Test::Gt | Test::Ge => {
            let (_, value) = c.half(Half::High);
            let equal = asm.branch(Jump::Eq, value, low, no);
            asm.branch(Jump::Gt, value, yes, equal);
            asm.load(bpf::argument(c.arg, Half::High))
        }
    }
}

fn half(asm: &mut Assembler, c: &Compare, which: Half, jump: Jump, yes: Target, no: Target) -> Target {
    let (mask, value) = c.half(which);
    if mask == 0 {
        return yes;
    }
    asm.branch(jump, value, yes, no);
    if mask != u32::MAX {
        asm.and(mask);
    }
    asm.load(bpf::argument(c.arg, which))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;

    fn filter(profile: Value, native: Abi) -> Filter {
        compile(&serde_json::from_value(profile).unwrap(), native).unwrap()
    }

    #[test]
    fn profile_without_rules_returns_its_default_action_for_listed_abis_only() {
        let filter =
            filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}), Abi::Aarch64);
        for nr in [0, 1, 500, i32::MAX, i32::MIN, -1] {
            assert_eq!(filter.verdict(0xc000_00b7, nr, [0; 6]), ALLOW);
            assert_eq!(filter.verdict(0x4000_0003, nr, [0; 6]), ALLOW);
            assert_eq!(filter.verdict(X86_64, nr, [0; 6]), BAD_ARCH);
        }
        assert!(filter.instructions().len() <= 6, "{filter:?}");
    }

    #[test]
    fn arm_machines_filter_arm_call_numbers() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"], "syscalls": [
            {"names": ["openat", "cacheflush"], "action": "SCMP_ACT_ALLOW"}]});
        let filter = filter(profile, Abi::Aarch64);
        assert_eq!(filter.verdict(0xc000_00b7, 56, [0; 6]), ALLOW);
        assert_eq!(filter.verdict(0xc000_00b7, 55, [0; 6]), 0x0005_0001);
        assert_eq!(filter.verdict(0xc000_00b7, 57, [0; 6]), 0x0005_0026);
        assert_eq!(filter.verdict(0x4000_0028, 322, [0; 6]), ALLOW);
        assert_eq!(filter.verdict(0x4000_0028, 0xf0002, [0; 6]), ALLOW);
        assert_eq!(filter.verdict(0x4000_0028, 57, [0; 6]), 0x0005_0001);
    }

    /// Since Linux 5.11 the kernel caches which calls are always allowed when it loads a filter. For all other calls
    /// the cost is the number of executed instructions.
    #[test]
    fn search_over_call_numbers_is_balanced() {
        let names: Vec<_> =
            ["read", "open", "stat", "poll", "mmap", "ioctl", "pipe", "dup", "getpid", "fork", "exit", "kill", "fcntl"]
                .into();
        let syscalls: Vec<_> = names.iter().map(|n| json!({"names": [n], "action": "SCMP_ACT_ALLOW"})).collect();
        let filter = filter(json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": syscalls}), Abi::X86_64);
        // 13 single numbers split the space into 14 ranges, and x32 adds two: at most log2(29) + 1 tests.
        let longest = (0..600).map(|nr| steps(&filter, nr)).max().unwrap();
        assert!(longest <= 4 + 6, "{longest}");
    }

    /// Returns the number of instructions that the filter executes for a call.
    fn steps(filter: &Filter, nr: u32) -> usize {
        let (mut pc, mut a, mut steps) = (0, 0, 0);
        loop {
            let i = filter.instructions()[pc];
            steps += 1;
            pc += 1;
            pc += match i.code {
                0x06 => return steps,
                0x20 => {
                    a = if i.k == bpf::NR { nr } else { X86_64 };
                    0
                }
                0x05 => usize::try_from(i.k).unwrap(),
                0x15 => usize::from(if a == i.k { i.jt } else { i.jf }),
                0x35 => usize::from(if a >= i.k { i.jt } else { i.jf }),
                code => panic!("{code:#x}"),
            };
        }
    }

    #[test]
    fn filter_longer_than_the_kernel_limit_is_refused() {
        let rule = |n: u64| {
            json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": n << 32, "op": "SCMP_CMP_EQ"}]})
        };
        let profile = |n| json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": (0..n).map(rule).collect::<Vec<_>>()});
        let long = filter(profile(1000), Abi::X86_64);
        assert!(long.instructions().len() > 4000 && bpf::is_valid(long.instructions()));
        assert_eq!(long.verdict(X86_64, 0, [999 << 32, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(long.verdict(X86_64, 0, [1000 << 32, 0, 0, 0, 0, 0]), 0x7ffc_0000);
        let e = compile(&serde_json::from_value(profile(1100)).unwrap(), Abi::X86_64).err().unwrap();
        assert!(e.to_string().starts_with("linux.seccomp: the filter needs 4"), "{e}");
        assert!(e.to_string().ends_with("instructions, the kernel takes 4096"), "{e}");
    }
}
