//! Seccomp. Profiles: the filter answers as a direct reading of the profile does, and as libseccomp does where libseccomp is
//! right. Programs: one that is taken from a file or an annotation is valid by a check that follows all of its paths.

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_runtime::seccomp::{self, Filter};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use serde_json::{Value, json};

use crate::{
    input::Input,
    model::{Model, interpret},
    profiles::{ACTIONS, VALUES, names},
    reference::{self, Stub, known, repeats, table},
};

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];
const ABIS: [&str; 5] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// The calls that this libseccomp knows as berth does.
fn pool() -> &'static [&'static str] {
    static POOL: std::sync::OnceLock<Vec<&str>> = std::sync::OnceLock::new();
    POOL.get_or_init(|| names().filter(|name| known(name)).collect())
}

fn value(input: &mut Input) -> u64 {
    if input.flag() { input.of(&VALUES) } else { input.u64() }
}

fn rule(input: &mut Input, action: &str) -> Value {
    let names: Vec<_> = (0..=input.below(3)).map(|_| pool()[usize::from(input.u16()) % pool().len()]).collect();
    let args: Vec<_> = (0..input.of(&[0, 0, 1, 1, 2, 3]))
        .map(|_| {
            json!({"index": input.below(6), "op": input.of(&OPERATORS), "value": value(input), "valueTwo": value(input)})
        })
        .collect();
    json!({"names": names, "action": action, "errnoRet": input.byte(), "args": args})
}

pub fn profile(data: &[u8]) {
    let mut input = Input::new(data);
    let (default, action, mixed) = (input.of(&ACTIONS), input.of(&ACTIONS), input.flag());
    let architectures: Vec<_> = ABIS.iter().filter(|_| input.flag()).collect();
    let errno = input.byte();
    let syscalls: Vec<_> = (0..input.below(8))
        .map(|_| {
            let action = if mixed { input.of(&ACTIONS) } else { action };
            rule(&mut input, action)
        })
        .collect();
    let value = json!({"defaultAction": default, "defaultErrnoRet": errno, "architectures": architectures,
        "syscalls": syscalls});
    let profile: LinuxSeccomp = serde_json::from_value(value.clone()).unwrap();
    let filter = match seccomp::compile(&profile) {
        Ok(filter) => filter,
        Err(e) if mixed && e.to_string().contains("an earlier rule has another action") => return,
        Err(e) => panic!("{e}: {value}"),
    };
    compare(&profile, &filter, &value);
    let again = Filter::from_bytes(&filter.to_bytes()).unwrap();
    assert_eq!(again.to_bytes(), filter.to_bytes());
}

/// libseccomp 2.5.4 drops comparisons, or allows too much, where rules of one call overlap by other operators than EQ, where one
/// rule has several comparisons by order, where a value has more bits than an ABI of the profile, and where an ABI of the profile
/// lacks a call.
fn libseccomp_is_right(profile: &LinuxSeccomp) -> bool {
    let entries = || profile.syscalls().iter().flatten();
    let mut names: Vec<_> = entries().flat_map(|entry| entry.names()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    let order = |entry: &LinuxSyscall| {
        let by_order = |arg: &&LinuxSeccompArg| {
            !matches!(arg.op(), LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq)
        };
        let count = entry.args().iter().flatten().count();
        count > 1 && entry.args().iter().flatten().filter(by_order).count() > 0
    };
    let values = entries().flat_map(|entry| entry.args().iter().flatten());
    let wide = values.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]).any(|value| value > u32::MAX.into());
    let narrow = profile
        .architectures()
        .iter()
        .flatten()
        .any(|arch| matches!(arch, Arch::ScmpArchX86 | Arch::ScmpArchX32 | Arch::ScmpArchArm));
    let lacks = |name: &&String| reference::arches(profile).iter().any(|arch| table(name, *arch).is_none());
    let wrong = names.iter().any(lacks)
        || names.len() < all
        || wide && narrow
        || entries().any(repeats)
        || entries().any(order);
    !wrong
}

fn compare(profile: &LinuxSeccomp, filter: &Filter, value: &Value) {
    let (model, stub) = (Model::new(profile), Stub::new(profile));
    let theirs = libseccomp_is_right(profile).then(|| reference::program(profile).unwrap());
    let numbers = numbers(profile);
    let arguments = arguments(profile);
    for audit in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x8000_0016] {
        for &nr in &numbers {
            let list = if model.compares(audit, nr) { &arguments[..] } else { &arguments[..1] };
            for args in list {
                let got = filter.verdict(audit, nr.cast_signed(), *args);
                assert_eq!(got, interpret(filter.instructions(), audit, nr, args));
                let wanted = if stub.answers(audit, nr) { vec![0x0005_0026] } else { model.answers(audit, nr, args) };
                let words = || format!("arch {audit:#x} nr {nr:#x} args {args:x?}: {value}");
                assert!(wanted.contains(&got), "{got:#x}, not {wanted:x?}: {}", words());
                if let Some(theirs) = theirs.as_ref().filter(|_| !stub.answers(audit, nr)) {
                    assert_eq!(got, interpret(theirs, audit, nr, args), "libseccomp: {}", words());
                }
            }
        }
    }
}

fn numbers(profile: &LinuxSeccomp) -> Vec<u32> {
    let x32 = reference::X32_BIT;
    let mut list =
        vec![0, 1, 102, 117, 1000, 4096, x32, x32 + 1, x32 - 1, 2 * x32, 3 * x32 - 1, u32::MAX, u32::MAX - 1];
    list.extend(reference::edges(profile));
    list.sort_unstable();
    list.dedup();
    list
}

fn arguments(profile: &LinuxSeccomp) -> Vec<[u64; 6]> {
    let mut list = vec![[0; 6], [1; 6], [u64::MAX; 6]];
    for entry in profile.syscalls().iter().flatten() {
        // All comparisons of an entry at once, and each missed alone.
        let mut all = [0; 6];
        for arg in entry.args().iter().flatten() {
            all[arg.index()] = arg.value();
        }
        list.push(all);
        for arg in entry.args().iter().flatten() {
            let (v, two) = (arg.value(), arg.value_two().unwrap_or(0));
            for other in [v.wrapping_sub(1), v.wrapping_add(1), v ^ (1 << 32), !v, v << 32, two, two & v] {
                let mut args = all;
                args[arg.index()] = other;
                list.push(args);
            }
        }
    }
    for selector in 1..=20 {
        list.push([selector, 0, 0, 0, 0, 0]);
    }
    list.sort_unstable();
    list.dedup();
    list.truncate(120);
    list
}

/// Returns true if the kernel and berth's interpreter can run a program: known instructions, aligned loads, jumps inside, an end on
/// each path.
fn is_valid(program: &[[u8; 8]]) -> bool {
    let mut reached = vec![false; program.len() + 1];
    let mut valid = (1..=4096).contains(&program.len());
    reached[0] = true;
    for (at, bytes) in program.iter().enumerate() {
        let [c0, c1, yes, no, k0, k1, k2, k3] = *bytes;
        let k = u32::from_le_bytes([k0, k1, k2, k3]);
        let mut go = |skip: u32| match usize::try_from(skip).ok().and_then(|skip| reached.get_mut(at + 1 + skip)) {
            Some(seen) if at + 1 + usize::try_from(skip).unwrap() < program.len() => *seen = true,
            _ => valid = false,
        };
        match u16::from_le_bytes([c0, c1]) {
            0x06 => {}
            0x20 if k < 64 && k % 4 == 0 => go(0),
            0x54 => go(0),
            0x05 => go(k),
            0x15 | 0x25 | 0x35 => {
                go(yes.into());
                go(no.into());
            }
            _ => return false,
        }
    }
    valid
}

pub fn program(data: &[u8]) {
    let (body, _) = data.as_chunks::<8>();
    let mut program = body.to_vec();
    for instruction in &mut program {
        // Codes near the known ones, so that whole programs get through.
        let code: u16 = match instruction[0] >> 5 {
            0 => 0x06,
            1 => 0x20,
            2 => 0x54,
            3 => 0x05,
            4 => 0x15,
            5 => 0x25,
            6 => 0x35,
            _ => instruction[0].into(),
        };
        let small = instruction[1] & 1 == 0;
        instruction[..2].copy_from_slice(&code.to_le_bytes());
        if small && matches!(code, 0x20 | 0x05) {
            instruction[5..8].fill(0);
            instruction[4] &= 63;
        }
    }
    let valid = is_valid(&program);
    let decoded = seccomp::bpf_annotation::decode(&STANDARD.encode(program.concat()));
    assert_eq!(decoded.is_ok(), valid, "{decoded:?}");
    let stored = Filter::from_bytes(&stored(&program, 4));
    assert_eq!(stored.is_ok(), valid, "{stored:?}");
    let raw = Filter::from_bytes(data);
    assert!(raw.is_err() || raw.is_ok_and(|filter| filter.to_bytes() == data));
    let Ok(filter) = stored else { return };
    for (audit, nr, args) in [(0xc000_003e, 0, [0; 6]), (0x4000_0003, 77, [u64::MAX; 6]), (0, -1, [1 << 32; 6])] {
        let answer = filter.verdict(audit, nr, args);
        assert_eq!(answer, interpret(filter.instructions(), audit, nr.cast_unsigned(), &args));
    }
}

/// The file of a filter: magic, FNV-1a of the rest, version, length, flags, instructions.
fn stored(program: &[[u8; 8]], flags: u32) -> Vec<u8> {
    let count = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let mut body = [1u16.to_le_bytes(), count.to_le_bytes()].concat();
    body.extend(flags.to_le_bytes());
    body.extend(program.concat());
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for byte in &body {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    [b"berthbpf".to_vec(), sum.to_le_bytes().to_vec(), body].concat()
}
