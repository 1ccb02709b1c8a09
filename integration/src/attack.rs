//! Attacks with their control: an attack fails on the runtime, and succeeds on a berth without the defences that the test
//! names.

use crate::runtime::{Runtime, is_runc};
use berth_init::defence::Defence;

/// Makes an attack on the runtime of the tests, and on `berth-weak` without `defences`. The attack returns a line for
/// each thing that it got. If there are several defences, each of them must suffice alone.
#[track_caller]
pub fn held_by(name: &str, defences: &[Defence], attack: impl Fn(&Runtime) -> Vec<String>) {
    let got = attack(&Runtime::new(name));
    assert!(got.is_empty(), "{}", got.join("\n"));
    if !is_runc() {
        succeeds_without(name, defences, attack);
    }
}

/// Makes an attack on `berth-weak` alone. It must succeed without `defences`, and fail while one of several stands.
#[track_caller]
pub fn succeeds_without(name: &str, defences: &[Defence], attack: impl Fn(&Runtime) -> Vec<String>) {
    for kept in defences.iter().filter(|_| defences.len() > 1) {
        let others: Vec<_> = defences.iter().copied().filter(|defence| defence != kept).collect();
        let got = attack(&Runtime::weakened(name, &others));
        assert!(got.is_empty(), "with {kept:?} alone: {}", got.join("\n"));
    }
    let got = attack(&Runtime::weakened(name, defences));
    assert!(!got.is_empty(), "the control: the attack gets nothing without {defences:?}");
}
