//! libseccomp as the reference: passes it the profile as runc does, and adds runc's ENOSYS stub.

use std::{collections::HashMap, sync::LazyLock};

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext};
pub use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::profiles::TABLE;

pub const ARCHES: [(ScmpArch, u32); 5] = [
    (ScmpArch::X8664, 0xc000_003e),
    (ScmpArch::X86, 0x4000_0003),
    (ScmpArch::X32, 0xc000_003e),
    (ScmpArch::Aarch64, 0xc000_00b7),
    (ScmpArch::Arm, 0x4000_0028),
];
pub const X32_BIT: u32 = 0x4000_0000;

/// Returns libseccomp's number for a name. It is negative for calls that the ABI lacks or multiplexes.
pub fn number(name: &str, arch: ScmpArch) -> Option<i32> {
    ScmpSyscall::from_name_by_arch(name, arch).ok().map(ScmpSyscall::as_raw_syscall)
}

/// Returns the numbers of the calls that the profile names, on each architecture, and the numbers beside them.
pub fn edges(profile: &LinuxSeccomp) -> impl Iterator<Item = u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
    let numbers = names.flat_map(|name| ARCHES.iter().filter_map(|(arch, _)| table(name, *arch)));
    numbers.flat_map(|nr| [nr.wrapping_sub(1), nr, nr + 1])
}

/// Returns the number of berth's table for a name, with the x32 bit.
pub fn table(name: &str, arch: ScmpArch) -> Option<u32> {
    static PARSED: LazyLock<HashMap<&str, Vec<Option<u32>>>> = LazyLock::new(|| {
        let fields = |line: &'static str| line.split_once(' ').unwrap();
        let numbers = |list: &str| list.split(' ').map(|field| field.parse().ok()).collect();
        TABLE.lines().map(fields).map(|(name, list)| (name, numbers(list))).collect()
    });
    let column = ARCHES.iter().position(|(a, _)| *a == arch).unwrap();
    let nr = PARSED.get(name)?[column]?;
    Some(if arch == ScmpArch::X32 { nr | X32_BIT } else { nr })
}

/// Returns true if this libseccomp knows the call on all ABIs on which berth knows it.
pub fn known(name: &str) -> bool {
    ARCHES.iter().all(|(arch, _)| match (number(name, *arch), table(name, *arch)) {
        (None, _) => false,
        (Some(theirs), Some(ours)) => theirs.cast_unsigned() == ours || (-300..-100).contains(&theirs),
        (Some(theirs), None) => theirs < 0,
    })
}

pub fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchArm => ScmpArch::Arm,
        other => panic!("{other}"),
    }
}

pub fn arches(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut list = vec![ScmpArch::X8664];
    list.extend(profile.architectures().iter().flatten().map(|a| arch(*a)).filter(|a| *a != ScmpArch::X8664));
    list
}

pub fn action(action: Action, errno: Option<u32>) -> ScmpAction {
    let errno = errno.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(errno.try_into().unwrap()),
        Action::ScmpActTrace => ScmpAction::Trace(errno.try_into().unwrap()),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => panic!("not tested here"),
    }
}

pub fn compare(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (op, datum) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        Operator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
    };
    ScmpArgCompare::new(arg.index().try_into().unwrap(), op, datum)
}

/// Returns libseccomp's program for a profile, or the name of the call whose rule it refuses.
pub fn program(profile: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>, String> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut filter = ScmpFilterContext::new(default).unwrap();
    for arch in &arches(profile)[1..] {
        filter.add_arch(*arch).unwrap();
    }
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret());
        if action == default {
            continue;
        }
        let args: Vec<_> = entry.args().iter().flatten().map(compare).collect();
        let repeated = repeats(entry);
        for name in entry.names() {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            if repeated {
                for arg in &args {
                    filter.add_rule_conditional(action, call, &[*arg]).map_err(|e| format!("{name}: {e}"))?;
                }
            } else {
                filter.add_rule_conditional(action, call, &args).map_err(|e| format!("{name}: {e}"))?;
            }
        }
    }
    let file = rustix::fs::memfd_create("bpf", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    filter.export_bpf(&file).unwrap();
    let mut bytes = vec![0; 65536 * 8];
    let length = rustix::io::pread(&file, &mut bytes, 0).unwrap();
    Ok(bytes[..length]
        .chunks_exact(8)
        .map(|i| libc::sock_filter {
            code: u16::from_le_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_le_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect())
}

/// Returns true if an entry compares one argument more than once.
pub fn repeats(entry: &LinuxSyscall) -> bool {
    let indices: Vec<_> = entry.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    (0..6).any(|n| indices.iter().filter(|index| **index == n).count() > 1)
}

pub fn raw(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillThread => 0,
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(n) => 0x0005_0000 | n.cast_unsigned(),
        ScmpAction::Trace(n) => 0x7ff0_0000 | u32::from(n),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        other => panic!("{other:?}"),
    }
}

/// runc's ENOSYS stub: the highest call number that a rule names, for each ABI.
pub struct Stub {
    newest: Vec<(ScmpArch, u32)>,
}

impl Stub {
    pub fn new(profile: &LinuxSeccomp) -> Self {
        let permissive =
            matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
        let names = || profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
        let newest = arches(profile).into_iter().filter_map(|arch| {
            let newest = names().filter_map(|name| number(name, arch)).max().filter(|nr| *nr > 0)?;
            Some((arch, u32::try_from(newest).unwrap()))
        });
        Self { newest: if permissive { Vec::new() } else { newest.collect() } }
    }

    pub fn answers(&self, audit: u32, nr: u32) -> bool {
        self.newest.iter().any(|(arch, newest)| {
            let token = ARCHES.iter().find(|(a, _)| a == arch).unwrap().1;
            let mine = match arch {
                ScmpArch::X32 => nr & X32_BIT != 0,
                ScmpArch::X8664 => nr & X32_BIT == 0,
                _ => true,
            };
            token == audit && mine && nr > *newest
        })
    }
}
