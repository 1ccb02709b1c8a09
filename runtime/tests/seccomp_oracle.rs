//! Our seccomp filters against libseccomp's: the same profile, the same answer for every number and many arguments.
//!
//! The profile goes to libseccomp the way runc hands it over; what runc adds, the ENOSYS stub, is stated here in its
//! own words (`stub`). libseccomp's program is run by the interpreter below, ours by that one and by `verdict`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![allow(missing_docs, reason = "a test")]
#![cfg(target_arch = "x86_64")]

mod seccomp_profiles;

use berth_runtime::seccomp;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};
use seccomp_profiles::{Random, Shape, TABLE, VALUES, names, parse};
use serde_json::Value;

const ARCHES: [(ScmpArch, u32); 5] = [
    (ScmpArch::X8664, 0xc000_003e),
    (ScmpArch::X86, 0x4000_0003),
    (ScmpArch::X32, 0xc000_003e),
    (ScmpArch::Aarch64, 0xc000_00b7),
    (ScmpArch::Arm, 0x4000_0028),
];
const X32_BIT: u32 = 0x4000_0000;

/// A name's number as libseccomp gives it to runc; negative for calls that the convention lacks or multiplexes.
fn number(name: &str, arch: ScmpArch) -> Option<i32> {
    ScmpSyscall::from_name_by_arch(name, arch).ok().map(ScmpSyscall::as_raw_syscall)
}

/// A name's number in our table, with x32's bit.
fn table(name: &str, arch: ScmpArch) -> Option<u32> {
    let column = 1 + ARCHES.iter().position(|(a, _)| *a == arch).unwrap();
    let line = TABLE.lines().find(|line| line.split(' ').next() == Some(name))?;
    let nr = line.split(' ').nth(column).unwrap().parse::<u32>().ok()?;
    Some(if arch == ScmpArch::X32 { nr | X32_BIT } else { nr })
}

/// Whether this libseccomp is new enough to know the call wherever we know it.
fn known(name: &str) -> bool {
    ARCHES.iter().all(|(arch, _)| match (number(name, *arch), table(name, *arch)) {
        (None, _) => false,
        (Some(theirs), Some(ours)) => theirs.cast_unsigned() == ours || (-300..-100).contains(&theirs),
        (Some(theirs), None) => theirs < 0,
    })
}

fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchArm => ScmpArch::Arm,
        other => panic!("{other}"),
    }
}

fn arches(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut list = vec![ScmpArch::X8664];
    list.extend(profile.architectures().iter().flatten().map(|a| arch(*a)).filter(|a| *a != ScmpArch::X8664));
    list
}

fn action(action: Action, errno: Option<u32>) -> ScmpAction {
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

fn compare(arg: &LinuxSeccompArg) -> ScmpArgCompare {
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

/// libseccomp's program for a profile, or the name of the call whose rule it refuses.
fn reference(profile: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>, String> {
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

/// Whether runc's stub answers: the highest number that a rule of the profile names, for each convention.
struct Stub {
    newest: Vec<(ScmpArch, u32)>,
}

impl Stub {
    fn new(profile: &LinuxSeccomp) -> Self {
        let permissive =
            matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
        let names = || profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
        let newest = arches(profile).into_iter().filter_map(|arch| {
            let newest = names().filter_map(|name| number(name, arch)).max().filter(|nr| *nr > 0)?;
            Some((arch, u32::try_from(newest).unwrap()))
        });
        Self { newest: if permissive { Vec::new() } else { newest.collect() } }
    }

    fn answers(&self, audit: u32, nr: u32) -> bool {
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

/// Classic BPF as seccomp uses it (kernel, Documentation/networking/filter.rst), written for this test only.
fn interpret(program: &[libc::sock_filter], audit: u32, nr: u32, args: &[u64; 6]) -> u32 {
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

/// What a profile whose rules all have one action means, read off it rule by rule.
struct Model<'a> {
    profile: &'a LinuxSeccomp,
    arches: Vec<ScmpArch>,
    /// Convention, number, i386's selector if the number multiplexes, the entry.
    rules: Vec<(ScmpArch, u32, Option<u32>, &'a LinuxSyscall)>,
}

impl<'a> Model<'a> {
    fn new(profile: &'a LinuxSeccomp) -> Self {
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

    fn answer(&self, audit: u32, nr: u32, args: &[u64; 6]) -> u32 {
        let token = |arch: ScmpArch| ARCHES.iter().find(|(a, _)| *a == arch).unwrap().1;
        if !self.arches.iter().any(|arch| token(*arch) == audit) {
            return 0;
        }
        let x32 = self.arches.contains(&ScmpArch::X32);
        if audit == 0xc000_003e && !x32 && nr >= X32_BIT && nr != u32::MAX {
            return 0;
        }
        let hit = self.rules.iter().filter(|(arch, n, ..)| *n == nr && token(*arch) == audit).find(
            |(arch, _, selector, entry)| {
                let bits = match arch {
                    ScmpArch::X8664 | ScmpArch::Aarch64 => u64::MAX,
                    _ => u64::from(u32::MAX),
                };
                let holds = |arg: &LinuxSeccompArg| {
                    let (a, v) = (args[arg.index()] & bits, arg.value() & bits);
                    match arg.op() {
                        // A multiplexer's first argument is the selector, not the call's.
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
            },
        );
        raw(match hit {
            Some((.., entry)) => action(entry.action(), entry.errno_ret()),
            None => action(self.profile.default_action(), self.profile.default_errno_ret()),
        })
    }
}

/// Whether an entry compares one argument more than once.
fn repeats(entry: &LinuxSyscall) -> bool {
    let indices: Vec<_> = entry.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    (0..6).any(|n| indices.iter().filter(|index| **index == n).count() > 1)
}

fn raw(action: ScmpAction) -> u32 {
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

/// Numbers at every edge, and all small ones if `dense`.
fn numbers(profile: &LinuxSeccomp, dense: bool) -> Vec<u32> {
    let mut list = vec![
        0,
        1,
        999,
        1000,
        1024,
        4096,
        983_040,
        983_041,
        983_045,
        983_047,
        X32_BIT - 1,
        X32_BIT,
        X32_BIT + 1,
        X32_BIT + 511,
        X32_BIT + 512,
        X32_BIT + 547,
        X32_BIT + 1000,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0001,
        0xbfff_ffff,
        0xc000_0000,
        0xffff_fffe,
        u32::MAX,
        102,
        117,
    ];
    if dense {
        list.extend((0..=600).flat_map(|n| [n, X32_BIT + n]));
    }
    for name in profile.syscalls().iter().flatten().flat_map(|entry| entry.names()) {
        for (arch, _) in ARCHES {
            if let Some(nr) = number(name, arch).and_then(|nr| u32::try_from(nr).ok()) {
                list.extend([nr.wrapping_sub(1), nr, nr + 1]);
            }
        }
    }
    list.sort_unstable();
    list.dedup();
    list
}

/// Arguments at the edges of everything the profile compares with.
fn arguments(profile: &LinuxSeccomp, random: &mut Random, count: usize) -> Vec<[u64; 6]> {
    let mut values = VALUES.to_vec();
    for arg in profile.syscalls().iter().flatten().flat_map(|entry| entry.args().iter().flatten()) {
        for v in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([v, v.wrapping_sub(1), v.wrapping_add(1), v ^ (1 << 32), v ^ (1 << 63), !v, v << 32]);
        }
    }
    // What socketcall and ipc select by.
    values.extend(0..=25);
    let mut list: Vec<_> = values.iter().map(|v| [*v; 6]).collect();
    list.extend((0..count).map(|_| std::array::from_fn(|_| random.of(&values))));
    list
}

/// What a filter is held against.
#[derive(Clone, Copy)]
enum Witness {
    Libseccomp,
    Model,
}

/// The first call that our filter answers differently than the witness, or how many calls were tried.
fn difference(profile: &LinuxSeccomp, witness: Witness, random: &mut Random, dense: bool) -> Result<usize, String> {
    let ours = seccomp::compile(profile).map_err(|e| format!("ours: {e}"))?;
    let stub = Stub::new(profile);
    let (theirs, model) = (reference(profile), Model::new(profile));
    let many = arguments(profile, random, if dense { 300 } else { 60 });
    let few = [[0; 6], [1; 6], [u64::MAX; 6]];
    let mut tried = 0;
    for audit in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0, 0x8000_0016] {
        for nr in numbers(profile, dense) {
            let compared =
                |rule: &(_, u32, _, &LinuxSyscall)| rule.1 == nr && rule.3.args().iter().flatten().count() > 0;
            let list = if matches!(nr, 102 | 117) || model.rules.iter().any(compared) { &many[..] } else { &few[..] };
            for args in list {
                let want = match witness {
                    _ if stub.answers(audit, nr) => 0x0005_0026,
                    Witness::Libseccomp => interpret(theirs.as_ref()?, audit, nr, args),
                    Witness::Model => model.answer(audit, nr, args),
                };
                let got = ours.verdict(audit, nr.cast_signed(), *args);
                assert_eq!(got, interpret(ours.instructions(), audit, nr, args));
                if got != want {
                    return Err(format!("arch {audit:#x} nr {nr:#x} args {args:x?}: ours {got:#x}, want {want:#x}"));
                }
                tried += 1;
            }
        }
    }
    Ok(tried)
}

/// Leaves out names that libseccomp is too old for, and says how many.
fn trim(profile: &mut Value) -> usize {
    let mut gone = 0;
    for entry in profile["syscalls"].as_array_mut().unwrap() {
        entry["names"].as_array_mut().unwrap().retain(|name| {
            let name = name.as_str().unwrap();
            // A name that neither knows stays: skipping it is what is tested.
            let keep = known(name) || !names().any(|ours| ours == name);
            gone += usize::from(!keep);
            keep
        });
    }
    gone
}

#[test]
fn numbers_are_libseccomps() {
    let (mut same, mut theirs_lack) = (0, Vec::new());
    for line in TABLE.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        for (arch, _) in ARCHES {
            let ours = table(fields[0], arch);
            let theirs = number(fields[0], arch);
            match (ours, theirs.and_then(|nr| u32::try_from(nr).ok())) {
                (a, b) if a == b => same += 1,
                // An older libseccomp, or one that i386 multiplexes.
                (Some(_), None) => theirs_lack.push((fields[0], arch)),
                (a, b) => panic!("{} {arch:?}: {a:?} {b:?}", fields[0]),
            }
        }
    }
    assert!(same > 2200, "{same}");
    assert!(theirs_lack.len() < 200, "{} {theirs_lack:?}", theirs_lack.len());
}

#[test]
fn profiles_in_use_answer_alike() {
    let mut random = Random(1);
    for (name, mut profile) in [
        ("containerd", seccomp_profiles::containerd()),
        ("docker", seccomp_profiles::docker()),
        ("denylist", seccomp_profiles::denylist()),
        ("arm", seccomp_profiles::arm()),
    ] {
        let gone = trim(&mut profile);
        assert!(gone <= 40, "{name}: libseccomp lacks {gone} names");
        let profile = parse(&profile);
        let mut tried = 0;
        for witness in [Witness::Libseccomp, Witness::Model] {
            // Only the first has rules of more than one action for the model to choose between.
            if matches!(witness, Witness::Libseccomp) || name != "denylist" {
                tried += difference(&profile, witness, &mut random, true).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
        assert!(tried > 20_000, "{name}: {tried}");
    }
}

fn random_profiles(shape: Shape, witness: Witness, count: usize) -> usize {
    let mut random = Random(0x5eed);
    let pool: Vec<_> = names().filter(|name| known(name)).collect();
    assert!(pool.len() > 440, "{}", pool.len());
    let mut tried = 0;
    for n in 0..count {
        let profile = seccomp_profiles::random(&mut random, &pool, shape);
        tried +=
            difference(&parse(&profile), witness, &mut random, false).unwrap_or_else(|e| panic!("{n}: {e}\n{profile}"));
    }
    tried
}

#[test]
fn random_profiles_answer_alike() {
    assert!(random_profiles(Shape::Apart, Witness::Libseccomp, 40) > 100_000);
    assert!(random_profiles(Shape::Equalities, Witness::Libseccomp, 40) > 100_000);
}

/// Rules of one call that meet in anything but EQ: libseccomp 2.5.4 drops some of them or lets calls through that none
/// of them matches, so that only the profile's own words can be the witness.
#[test]
fn random_profiles_mean_what_they_say() {
    assert!(random_profiles(Shape::Any, Witness::Model, 60) > 100_000);
}
