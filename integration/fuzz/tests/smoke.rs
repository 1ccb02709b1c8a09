//! A smoke of each fuzz target: the corpus that is kept, and seeded mutations of it. `BERTH_SMOKE=100` makes a hundred times as
//! many, which are others for each number.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test program")]

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use berth_fuzz::{
    Target,
    mutate::{Random, mutate},
    targets::ALL,
};

/// Mutations of each target, and of those whose oracle takes milliseconds.
const ROUNDS: [usize; 2] = [2000, 60];
const COSTLY: [&str; 4] = ["devices", "layers", "seccomp_profiles", "ttrpc_frames"];
/// Bytes of all corpora together at most.
const CORPUS: usize = 200_000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs one input, and keeps it with the words of a panic.
fn failure(target: &Target, input: &[u8]) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).err()?;
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Some(format!("{}: {}: {}", target.name, input.escape_ascii(), words.unwrap_or_default()))
}

/// The first failure of a target.
fn smoke(target: &Target) -> Option<String> {
    let inputs = corpus(target.name);
    if inputs.is_empty() {
        return Some(format!("{} has no corpus", target.name));
    }
    let times = std::env::var("BERTH_SMOKE").map_or(1, |times| times.parse().unwrap());
    let rounds = ROUNDS[usize::from(COSTLY.contains(&target.name))] * times;
    let mut random = Random(0x5eed_0000_0000_0000 + u64::try_from(times).unwrap());
    let mut mutations = (0..rounds).map(|_| {
        let mut bytes = inputs[random.below(inputs.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        mutate(&mut bytes, other, &mut random);
        bytes
    });
    inputs
        .iter()
        .find_map(|input| failure(target, input))
        .or_else(|| mutations.find_map(|input| failure(target, &input)))
}

#[test]
fn fuzz_targets_hold_on_their_corpus_and_on_mutations_of_it() {
    let failures: Vec<_> = ALL.iter().filter_map(smoke).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn each_fuzz_target_has_a_small_corpus_and_a_line_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: BTreeSet<_> = ALL.iter().map(|target| target.name.to_owned()).collect();
    let dirs: BTreeSet<_> = fs::read_dir(root.join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(dirs, names);
    let bytes: usize = names.iter().flat_map(|name| corpus(name)).map(|input| input.len()).sum();
    assert!(bytes <= CORPUS, "the corpora have {bytes} bytes, more than {CORPUS}");
    let page = fs::read_to_string(root.join("../../docs/security/fuzzing.md")).unwrap();
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "docs/security/fuzzing.md does not name {name}");
    }
}
