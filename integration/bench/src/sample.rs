//! [`Results`]: every measured value, by measure, contestant and, for growth, the size.
//!
//! Values are integers in the unit of their source: nanoseconds, bytes, or counts.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A measured program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contestant {
    /// berth: the shim, or the program `berth` on the command line.
    Berth,
    /// runc. Through containerd it runs under containerd's Go shim.
    Runc,
    /// crun. Through containerd it runs under containerd's Go shim.
    Crun,
    /// The null shim, which answers the protocol and starts nothing: the floor of operations through containerd.
    Null,
    /// The bare system calls in one process, without JSON and RPC: the floor of the core.
    Bare,
}

impl Contestant {
    /// All contestants, in the order of the table's columns.
    pub const ALL: [Self; 5] = [Self::Berth, Self::Runc, Self::Crun, Self::Null, Self::Bare];

    /// Returns the name in tables, in the results and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Null => "null",
            Self::Bare => "bare",
        }
    }

    /// Returns the contestant of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds of wall time or CPU time, as the measure's title says.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// A count.
    Count,
}

impl Unit {
    /// Returns the name of the unit in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Bytes => "B",
            Self::Count => "1",
        }
    }
}

/// A measure, the same for all contestants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// The name in the results, words separated by dots: `containerd.run`, `memory.private_dirty`.
    pub id: &'static str,
    /// The title in the table.
    pub title: &'static str,
    /// The unit of the values.
    pub unit: Unit,
}

impl Measure {
    /// Makes a measure of time, in nanoseconds.
    pub const fn time(id: &'static str, title: &'static str) -> Self {
        Self { id, title, unit: Unit::Nanoseconds }
    }

    /// Makes a measure of memory or file sizes, in bytes.
    pub const fn bytes(id: &'static str, title: &'static str) -> Self {
        Self { id, title, unit: Unit::Bytes }
    }

    /// Makes a measure of counts.
    pub const fn count(id: &'static str, title: &'static str) -> Self {
        Self { id, title, unit: Unit::Count }
    }
}

/// The values of one measure of one contestant, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series(Vec<u64>);

impl Series {
    /// Adds a value.
    pub fn push(&mut self, value: u64) {
        self.0.push(value);
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the values in the order in which they were taken.
    pub fn values(&self) -> &[u64] {
        &self.0
    }

    /// Returns the median, which is the lower middle value of an even number. Returns `None` without values.
    pub fn median(&self) -> Option<u64> {
        self.quantile(1, 2)
    }

    /// Returns the first and the third quartile.
    pub fn quartiles(&self) -> Option<(u64, u64)> {
        Some((self.quantile(1, 4)?, self.quantile(3, 4)?))
    }

    /// Returns the least value that is not below `part` of `whole` of all values (nearest rank).
    pub fn quantile(&self, part: usize, whole: usize) -> Option<u64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * part).div_ceil(whole);
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

/// The key of a series: measure, contestant, and the size (pods, mounts, …) if there is one.
type Key = (&'static str, Contestant, Option<u64>);

/// All values of one run.
#[derive(Debug, Default)]
pub struct Results {
    /// The use of the machine while the benchmark was idle, in thousandths of one CPU, which bounds the precision of
    /// machine-wide figures. It is `None` if no measure observed it.
    pub neighbours: Option<u64>,
    measures: Vec<Measure>,
    series: BTreeMap<Key, Series>,
}

impl Results {
    /// Adds one value.
    pub fn add(&mut self, measure: &Measure, contestant: Contestant, value: u64) {
        self.put(measure, contestant, None, value);
    }

    /// Adds one value that was taken at the size `at`: pods on the node, mounts on the host, …
    pub fn add_at(&mut self, measure: &Measure, contestant: Contestant, at: u64, value: u64) {
        self.put(measure, contestant, Some(at), value);
    }

    /// Returns the series of a measure without sizes.
    pub fn series(&self, measure: &Measure, contestant: Contestant) -> Option<&Series> {
        self.series.get(&(measure.id, contestant, None))
    }

    /// Returns the median of [`Results::series`].
    pub fn median(&self, measure: &Measure, contestant: Contestant) -> Option<u64> {
        self.series(measure, contestant)?.median()
    }

    /// Returns the series at one size, or the one without a size.
    pub fn series_at(&self, measure: &Measure, contestant: Contestant, at: Option<u64>) -> Option<&Series> {
        self.series.get(&(measure.id, contestant, at))
    }

    /// Returns the sizes for which a measure has values, the smallest first. `None` means no size.
    pub fn sizes(&self, measure: &Measure) -> BTreeSet<Option<u64>> {
        self.series.keys().filter(|(id, ..)| *id == measure.id).map(|(_, _, at)| *at).collect()
    }

    /// Returns the median at one size.
    pub fn median_at(&self, measure: &Measure, contestant: Contestant, at: u64) -> Option<u64> {
        self.series.get(&(measure.id, contestant, Some(at)))?.median()
    }

    /// Returns the series of a measure by size, the smallest first.
    pub fn growth(&self, measure: &Measure, contestant: Contestant) -> impl Iterator<Item = (u64, &Series)> {
        let range = (measure.id, contestant, Some(0))..=(measure.id, contestant, Some(u64::MAX));
        self.series.range(range).filter_map(|((_, _, at), series)| Some(((*at)?, series)))
    }

    /// Returns the measures that have values, in the order of their first value.
    pub fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// Returns everything as JSON: title and unit per measure, and median, quartiles and values per contestant.
    pub fn to_json(&self) -> Value {
        let measures = self.measures.iter().map(|measure| {
            let of_measure = self.series.iter().filter(|((id, ..), _)| *id == measure.id);
            let series: Vec<Value> =
                of_measure.map(|((_, contestant, at), series)| one(*contestant, *at, series)).collect();
            json!({"id": measure.id, "title": measure.title, "unit": measure.unit.name(), "series": series})
        });
        measures.collect()
    }

    fn put(&mut self, measure: &Measure, contestant: Contestant, at: Option<u64>, value: u64) {
        if !self.measures.iter().any(|known| known.id == measure.id) {
            self.measures.push(*measure);
        }
        self.series.entry((measure.id, contestant, at)).or_default().push(value);
    }
}

fn one(contestant: Contestant, at: Option<u64>, series: &Series) -> Value {
    let mut value = json!({
        "contestant": contestant.name(), "median": series.median(), "quartiles": series.quartiles(), "values": series.values(),
    });
    if let (Some(at), Some(map)) = (at, value.as_object_mut()) {
        map.insert("at".into(), at.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Measure = Measure::time("a", "a time");
    const B: Measure = Measure::bytes("b", "a size");

    fn series(values: &[u64]) -> Series {
        Series(values.to_vec())
    }

    #[test]
    fn medians_and_quartiles_are_measured_values() {
        assert_eq!(series(&[]).median(), None);
        assert_eq!(series(&[5]).median(), Some(5));
        assert_eq!(series(&[9, 1]).median(), Some(1));
        assert_eq!(series(&[9, 1, 4]).median(), Some(4));
        assert_eq!(series(&[8, 7, 6, 5, 4, 3, 2, 1]).quartiles(), Some((2, 6)));
        assert_eq!(series(&[3, 2, 1]).quantile(95, 100), Some(3));
        assert_eq!(series(&[3, 2, 1]).quantile(0, 1), Some(1));
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert_eq!(series(&[10, 11, 12, 13, 1_000_000]).median(), Some(12));
    }

    #[test]
    fn values_are_kept_apart_by_measure_contestant_and_size() {
        let mut results = Results::default();
        results.add(&A, Contestant::Berth, 1);
        results.add(&A, Contestant::Runc, 2);
        results.add_at(&A, Contestant::Berth, 200, 4);
        results.add_at(&A, Contestant::Berth, 1, 3);
        results.add(&B, Contestant::Berth, 5);
        assert_eq!(results.median(&A, Contestant::Berth), Some(1));
        assert_eq!(results.median(&A, Contestant::Runc), Some(2));
        assert_eq!(results.median_at(&A, Contestant::Berth, 200), Some(4));
        assert_eq!(results.median(&A, Contestant::Null), None);
        let growth: Vec<_> = results.growth(&A, Contestant::Berth).map(|(at, s)| (at, s.median())).collect();
        assert_eq!(growth, [(1, Some(3)), (200, Some(4))]);
        assert_eq!(results.measures(), [A, B]);
    }

    #[test]
    fn json_has_every_value() {
        let mut results = Results::default();
        [3, 1, 2].into_iter().for_each(|value| results.add(&A, Contestant::Crun, value));
        results.add_at(&A, Contestant::Crun, 20, 7);
        let json = results.to_json();
        assert_eq!(json[0]["unit"], "ns");
        assert_eq!(json[0]["series"][0]["values"], json!([3, 1, 2]));
        assert_eq!((&json[0]["series"][0]["median"], &json[0]["series"][1]["at"]), (&json!(2), &json!(20)));
    }

    #[test]
    fn contestant_names_are_read_back() {
        for contestant in Contestant::ALL {
            assert_eq!(Contestant::of_name(contestant.name()), Some(contestant));
        }
    }
}
