//! A direct reading of the profile as a reference, and an interpreter that is independent of both compilers.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall};

use crate::reference::{ARCHES, ScmpArch, X32_BIT, action, arches, number, raw, repeats, table};

/// Interprets classic BPF as seccomp uses it (Documentation/networking/filter.rst). Written for this test only.
pub fn interpret(program: &[libc::sock_filter], audit: u32, nr: u32, args: &[u64; 6]) -> u32 {
    let mut data = [0u32; 16];
    (data[0], data[1]) = (nr, audit);
    for (n, arg) in args.iter().enumerate() {
        data[4 + 2 * n] = u32::try_from(arg & 0xffff_ffff).unwrap();
        data[5 + 2 * n] = u32::try_from(arg >> 32).unwrap();
    }
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let i = program[pc];
        pc += 1;
        let hit = match i.code {
            0x06 => return i.k,
            0x20 => {
                a = data[usize::try_from(i.k).unwrap() / 4];
                continue;
            }
            0x54 => {
                a &= i.k;
                continue;
            }
            0x05 => {
                pc += usize::try_from(i.k).unwrap();
                continue;
            }
            0x15 => a == i.k,
            0x25 => a > i.k,
            0x35 => a >= i.k,
            code => panic!("{code:#x}"),
        };
        pc += usize::from(if hit { i.jt } else { i.jf });
    }
}

/// ABI, call number, i386's selector if the number is a multiplexer, and the entry of the profile.
type Rule<'a> = (ScmpArch, u32, Option<u32>, &'a LinuxSyscall);

/// The rules of a profile, evaluated one by one.
pub struct Model<'a> {
    profile: &'a LinuxSeccomp,
    arches: Vec<ScmpArch>,
    rules: Vec<Rule<'a>>,
}

impl<'a> Model<'a> {
    pub fn new(profile: &'a LinuxSeccomp) -> Self {
        let arches = arches(profile);
        let mut rules = Vec::new();
        for entry in profile.syscalls().iter().flatten() {
            for (name, arch) in entry.names().iter().flat_map(|name| arches.iter().map(move |arch| (name, *arch))) {
                rules.extend(table(name, arch).map(|nr| (arch, nr, None, entry)));
                rules.extend(match number(name, arch) {
                    Some(n @ -199..=-101) if arch == ScmpArch::X86 => {
                        Some((arch, 102, Some((-n % 100).cast_unsigned()), entry))
                    }
                    Some(n @ -299..=-201) if arch == ScmpArch::X86 => {
                        Some((arch, 117, Some((-n % 200).cast_unsigned()), entry))
                    }
                    _ => None,
                });
            }
        }
        Self { profile, arches, rules }
    }

    /// Returns true if the answer for a number depends on arguments.
    pub fn compares(&self, audit: u32, nr: u32) -> bool {
        let compares = |entry: &LinuxSyscall| entry.args().iter().flatten().count() > 0;
        self.of(audit, nr).any(|(_, _, selector, entry)| selector.is_some() || compares(entry))
    }

    /// Returns the actions of all rules that match a call, in the profile's order, or the default action if none does.
    /// Rules with the default action do not count, because runc leaves them out.
    pub fn answers(&self, audit: u32, nr: u32, args: &[u64; 6]) -> Vec<u32> {
        if !self.arches.iter().any(|arch| token(*arch) == audit) {
            return vec![0];
        }
        let x32 = self.arches.contains(&ScmpArch::X32);
        if audit == token(ScmpArch::X32) && !x32 && nr >= X32_BIT && nr != u32::MAX {
            return vec![0];
        }
        let default = raw(action(self.profile.default_action(), self.profile.default_errno_ret()));
        let hits: Vec<_> = self
            .of(audit, nr)
            .filter(|rule| matches(rule, args))
            .map(|(.., entry)| raw(action(entry.action(), entry.errno_ret())))
            .filter(|raw| *raw != default)
            .collect();
        if hits.is_empty() { vec![default] } else { hits }
    }

    fn of(&self, audit: u32, nr: u32) -> impl Iterator<Item = &Rule<'a>> {
        self.rules.iter().filter(move |(arch, n, ..)| *n == nr && token(*arch) == audit)
    }
}

fn matches((arch, _, selector, entry): &Rule, args: &[u64; 6]) -> bool {
    let bits = match arch {
        ScmpArch::X8664 | ScmpArch::Aarch64 => u64::MAX,
        _ => u64::from(u32::MAX),
    };
    let holds = |arg: &LinuxSeccompArg| {
        let (a, v) = (args[arg.index()] & bits, arg.value() & bits);
        match arg.op() {
            // The first argument of a multiplexer is the selector, not an argument of the call.
            _ if selector.is_some() && arg.index() == 0 => true,
            Operator::ScmpCmpNe => a != v,
            Operator::ScmpCmpLt => a < v,
            Operator::ScmpCmpLe => a <= v,
            Operator::ScmpCmpEq => a == v,
            Operator::ScmpCmpGe => a >= v,
            Operator::ScmpCmpGt => a > v,
            Operator::ScmpCmpMaskedEq => a & v == arg.value_two().unwrap_or(0) & v,
        }
    };
    let list = entry.args().as_deref().unwrap_or_default();
    let compared = if repeats(entry) { list.iter().any(holds) } else { list.iter().all(holds) };
    compared && selector.is_none_or(|call| args[0] & bits == u64::from(call))
}

fn token(arch: ScmpArch) -> u32 {
    ARCHES.iter().find(|(a, _)| *a == arch).unwrap().1
}
