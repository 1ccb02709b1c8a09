//! Compares berth's seccomp filters with three references: libseccomp, a direct reading of the profile, and the kernel.
//!
//! For the same profile all references must give the same answer for every call number and many arguments. libseccomp
//! is called as runc calls it, and the test adds runc's ENOSYS stub by itself. An interpreter of the test runs the
//! programs; berth's programs also run in `Filter::verdict`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![allow(missing_docs, reason = "a test")]
#![cfg(target_arch = "x86_64")]

mod kernel;
mod model;
mod profiles;
mod reference;

use berth_runtime::seccomp;
use model::{Model, interpret};
use oci_spec::runtime::LinuxSeccomp;
use profiles::{Random, Shape, TABLE, VALUES, names, parse};
use reference::{ARCHES, Stub, X32_BIT, known, number, table};
use serde_json::Value;

/// Returns the call numbers at all edges of the profile, and with `dense` all small ones.
fn numbers(profile: &LinuxSeccomp, dense: bool) -> Vec<u32> {
    let mut list = vec![0, 1, 102, 117, 999, 1000, 1024, 4096, 983_040, 983_041, 983_045, 983_047];
    list.extend([0, 1, 511, 512, 547, 1000].map(|n| X32_BIT + n));
    list.extend([X32_BIT, 2 * X32_BIT, 3 * X32_BIT, 0].iter().flat_map(|n| [n.wrapping_sub(1), *n, n + 1]));
    list.push(u32::MAX - 1);
    if dense {
        list.extend((0..=600).flat_map(|n| [n, X32_BIT + n]));
    }
    list.extend(reference::edges(profile));
    list.sort_unstable();
    list.dedup();
    list
}

/// Returns arguments around all values that the profile compares with.
fn arguments(profile: &LinuxSeccomp, random: &mut Random, count: usize) -> Vec<[u64; 6]> {
    let mut values = VALUES.to_vec();
    for arg in profile.syscalls().iter().flatten().flat_map(|entry| entry.args().iter().flatten()) {
        for v in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([v, v.wrapping_sub(1), v.wrapping_add(1), v ^ (1 << 32), v ^ (1 << 63), !v, v << 32]);
        }
    }
    // The selectors of socketcall and ipc.
    values.extend(0..=25);
    values.sort_unstable();
    values.dedup();
    let mut list: Vec<_> = values.iter().map(|v| [*v; 6]).collect();
    list.extend((0..count).map(|_| std::array::from_fn(|_| random.of(&values))));
    list
}

/// The reference for a comparison.
#[derive(Clone, Copy)]
enum Reference {
    Libseccomp,
    /// The direct reading of the profile. If rules contradict each other, it permits several answers.
    Model,
}

/// Compares berth's filter with a reference. Returns the number of compared calls, or describes the first difference.
fn difference(profile: &LinuxSeccomp, reference: Reference, random: &mut Random, dense: bool) -> Result<usize, String> {
    let ours = seccomp::compile(profile).map_err(|e| format!("ours: {e}"))?;
    let stub = Stub::new(profile);
    let model = Model::new(profile);
    let theirs = match reference {
        Reference::Libseccomp => reference::program(profile)?,
        Reference::Model => Vec::new(),
    };
    let many = arguments(profile, random, if dense { 300 } else { 60 });
    let few = [[0; 6], [1; 6], [u64::MAX; 6]];
    let numbers = numbers(profile, dense);
    let mut tried = 0;
    for audit in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0, 0x8000_0016] {
        for &nr in &numbers {
            let list = if model.compares(audit, nr) { &many[..] } else { &few[..] };
            for args in list {
                let got = ours.verdict(audit, nr.cast_signed(), *args);
                let want = match reference {
                    _ if stub.answers(audit, nr) => vec![0x0005_0026],
                    Reference::Libseccomp => vec![interpret(&theirs, audit, nr, args)],
                    Reference::Model => model.answers(audit, nr, args),
                };
                assert_eq!(got, interpret(ours.instructions(), audit, nr, args));
                if !want.contains(&got) {
                    return Err(format!("arch {audit:#x} nr {nr:#x} args {args:x?}: ours {got:#x}, want {want:x?}"));
                }
                tried += 1;
            }
        }
    }
    Ok(tried)
}

/// Removes names that this libseccomp is too old for, and returns their number.
fn trim(profile: &mut Value) -> usize {
    let mut gone = 0;
    for entry in profile["syscalls"].as_array_mut().unwrap() {
        entry["names"].as_array_mut().unwrap().retain(|name| {
            let name = name.as_str().unwrap();
            // A name that neither libseccomp nor berth knows stays: both must skip it.
            let keep = known(name) || !names().any(|ours| ours == name);
            gone += usize::from(!keep);
            keep
        });
    }
    gone
}

fn random_profiles(shape: Shape, mixed: bool, reference: Reference, count: usize) -> usize {
    let mut random = Random(0x5eed);
    let pool: Vec<_> = names().filter(|name| known(name)).collect();
    assert!(pool.len() > 430, "{}", pool.len());
    let mut tried = 0;
    for n in 0..count {
        let value = profiles::random(&mut random, &pool, shape, mixed);
        tried += match difference(&parse(&value), reference, &mut random, false) {
            Ok(tried) => tried,
            // berth refuses contradicting rules. The unit tests cover that.
            Err(e) if mixed && e.contains("an earlier rule has another action") => 0,
            Err(e) => panic!("{n}: {e}\n{value}"),
        };
    }
    tried
}

#[test]
fn syscall_numbers_agree_with_libseccomp() {
    let (mut same, mut theirs_lack) = (0, Vec::new());
    for name in names() {
        for (arch, _) in ARCHES {
            match (table(name, arch), number(name, arch).and_then(|nr| u32::try_from(nr).ok())) {
                (a, b) if a == b => same += 1,
                // libseccomp is older, or i386 multiplexes the call.
                (Some(_), None) => theirs_lack.push((name, arch)),
                (a, b) => panic!("{name} {arch:?}: {a:?} {b:?}"),
            }
        }
    }
    assert_eq!(TABLE.lines().count() * ARCHES.len(), same + theirs_lack.len());
    assert!(theirs_lack.len() < 200, "{} {theirs_lack:?}", theirs_lack.len());
}

#[test]
fn filters_of_profiles_in_use_agree_with_libseccomp() {
    let mut random = Random(1);
    for (name, mut profile) in profiles::in_use() {
        let gone = trim(&mut profile);
        assert!(gone <= 40, "{name}: libseccomp lacks {gone} names");
        let mut try_all = |profile: &Value, reference| {
            let tried = difference(&parse(profile), reference, &mut random, true);
            let tried = tried.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(tried > 20_000, "{name}: {tried}");
        };
        try_all(&profile, Reference::Libseccomp);
        try_all(&profile, Reference::Model);
    }
}

#[test]
fn filters_of_random_profiles_agree_with_libseccomp() {
    assert!(random_profiles(Shape::Apart, false, Reference::Libseccomp, 40) > 100_000);
    assert!(random_profiles(Shape::Apart, true, Reference::Libseccomp, 40) > 100_000);
    assert!(random_profiles(Shape::Equalities, false, Reference::Libseccomp, 40) > 100_000);
}

/// If several rules of a call compare an argument by another operator than EQ, libseccomp 2.5.4 drops some of them, or
/// allows calls that no rule matches. So here only the direct reading of the profile is a valid reference.
#[test]
fn filters_of_random_profiles_agree_with_the_profile() {
    assert!(random_profiles(Shape::Any, false, Reference::Model, 60) > 100_000);
    assert!(random_profiles(Shape::Any, true, Reference::Model, 60) > 100_000);
}
