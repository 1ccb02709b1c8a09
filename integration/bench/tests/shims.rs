//! The measures that need no containerd: every contestant gives a value for each, and nothing of it stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_bench::{Contestant, Measure, Results, direct, footprint, order::Order};
use berth_integration::runtime::is_runc;

/// Returns the extent of the measures (rounds, pods, execs). The environment may ask for more than the test needs.
fn extent() -> (u32, usize, usize) {
    let words = std::env::var("BERTH_BENCH").unwrap_or_else(|_| "1 1 101".into());
    let mut numbers = words.split(' ').map(|word| word.parse::<usize>().unwrap());
    let (rounds, pods, execs) = (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap());
    (u32::try_from(rounds).unwrap(), pods, execs)
}

fn show(results: &Results, contestants: &[Contestant]) {
    for measure in results.measures() {
        for who in contestants {
            let growth: Vec<_> = results.growth(measure, *who).map(|(at, s)| (at, s.median().unwrap())).collect();
            eprintln!("{} {}: {:?} {growth:?}", measure.id, who.name(), results.median(measure, *who));
        }
    }
}

const SHIMS: [Contestant; 3] = [Contestant::Berth, Contestant::Runc, Contestant::Null];

#[test]
fn every_shim_gives_a_value_for_every_measure() {
    if is_runc() {
        eprintln!("the measures have their own peers");
        return;
    }
    let mut results = Results::default();
    direct::measure(&SHIMS, extent().0, &mut Order::new(1), &mut results);
    show(&results, &SHIMS);
    let all: [Measure; 7] =
        [direct::LAUNCH, direct::RUN, direct::CREATE, direct::START, direct::WAIT, direct::DELETE, direct::EXEC];
    for (measure, who) in all.iter().flat_map(|measure| SHIMS.map(|who| (measure, who))) {
        assert!(results.median(measure, who).unwrap() > 0, "{} of {}", measure.id, who.name());
    }
    let sum = results.series(&direct::RUN, Contestant::Berth).unwrap().len();
    assert_eq!(sum, usize::try_from(extent().0).unwrap() * 3, "three of a batch of four count");
}

#[test]
fn every_shim_has_a_footprint_and_no_growth() {
    if is_runc() {
        return;
    }
    let mut results = Results::default();
    let (_, pods, execs) = extent();
    for line in footprint::measure(&SHIMS, pods, &mut results) {
        eprintln!("{line}");
    }
    footprint::measure_execs(&SHIMS, execs, &mut results);
    show(&results, &SHIMS);
    for who in SHIMS {
        let at = |measure: &Measure, at: usize| results.median_at(measure, who, at as u64).unwrap();
        assert!(at(&footprint::RSS, 1) >= at(&footprint::PSS, 1) && at(&footprint::PRIVATE_DIRTY, 1) > 0);
        assert!(at(&footprint::AFTER_EXECS, 100) > 0 && at(&footprint::AFTER_EXECS, execs) > 0);
    }
    assert_eq!(results.median_at(&footprint::THREADS, Contestant::Berth, 1), Some(1));
    assert!(results.median_at(&footprint::THREADS, Contestant::Runc, 1).unwrap() > 1, "a Go program has threads");
}
