//! The targets of berth's cost, as ratios within one run, and whether berth meets them.

use super::{
    Measure, Results, cli, density, footprint, growth,
    sample::Contestant::{Bare, Berth, Crun, Null, Runc},
    seccomp,
    table::aligned,
    through_containerd as containerd,
};

/// A target and its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The measure and its reference.
    pub what: String,
    /// The measured figure, in the unit of the limit, if it was measured.
    pub found: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// The name of the unit.
    pub unit: &'static str,
}

impl Judged {
    /// Returns whether the target is met, or `None` if it was not measured.
    pub fn met(&self) -> Option<bool> {
        self.found.map(|found| found <= self.limit)
    }
}

/// The use of the otherwise idle machine (in thousandths of a CPU) up to which its own clock is precise enough for an
/// operation.
pub const QUIET: u64 = 100;

/// Judges all targets.
pub fn judge(results: &Results) -> Vec<Judged> {
    let m = |measure: &Measure, who| results.median(measure, who);
    let mut all = Vec::new();
    let mut ratio = |what: &str, value: Option<u64>, of: Option<u64>, limit: f64| {
        let found = value.zip(of).map(|(value, of)| quotient(value, of));
        all.push(Judged { what: what.into(), found, limit, unit: "×" });
    };
    let sum = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
    let above = |measure: &Measure, who| Some(m(measure, who)?.saturating_sub(m(measure, Null)?));
    for (what, measure, bare, own, machine) in [
        ("create+start+wait+delete", &containerd::RUN, &cli::RUN, &containerd::RUN_CPU, &containerd::RUN_CPU_MACHINE),
        ("exec", &containerd::EXEC, &cli::EXEC, &containerd::EXEC_CPU, &containerd::EXEC_CPU_MACHINE),
    ] {
        let floor = sum(m(measure, Null), m(bare, Bare));
        ratio(&format!("{what} through containerd ÷ (null + bare)"), m(measure, Berth), floor, 1.3);
        ratio(&format!("{what} through containerd ÷ Go shim + runc"), m(measure, Berth), m(measure, Runc), 0.2);
        ratio(&format!("CPU per {what} above null ÷ runc's, by cgroup"), above(own, Berth), above(own, Runc), 0.125);
        let what = format!("CPU per {what} above null ÷ runc's, machine-wide");
        let quiet = |who| above(machine, who).filter(|_| results.neighbours.is_some_and(|busy| busy <= QUIET));
        ratio(&what, quiet(Berth), quiet(Runc), 0.125);
    }
    ratio("CLI run ÷ bare", m(&cli::RUN, Berth), m(&cli::RUN, Bare), 1.5);
    ratio("CLI run ÷ crun", m(&cli::RUN, Berth), m(&cli::RUN, Crun), 1.0 / 3.0);
    ratio("CLI run ÷ runc", m(&cli::RUN, Berth), m(&cli::RUN, Runc), 0.125);
    let at = |measure: &Measure, at| results.median_at(measure, Berth, at);
    for (what, measure) in [("create", &growth::CREATE_PODS), ("exec", &growth::EXEC_PODS)] {
        ratio(&format!("{what} with 500 pods on the node ÷ with 1"), at(measure, 500), at(measure, 1), 1.2);
    }
    for (what, one, spread) in [
        ("64 containers", &density::CONTAINERS_ONE, &density::CONTAINERS_SPREAD),
        ("64 concurrent execs", &density::EXECS_ONE, &density::EXECS_SPREAD),
    ] {
        ratio(&format!("{what} in one pod ÷ the same spread over pods"), m(one, Berth), m(spread, Berth), 1.2);
    }
    let last = |measure: &Measure| results.growth(measure, Berth).last().and_then(|(_, series)| series.median());
    let first = |measure: &Measure| results.growth(measure, Berth).next().and_then(|(_, series)| series.median());
    for (what, measure) in [("private dirty memory", &footprint::AFTER_EXECS), ("PSS", &footprint::PSS_AFTER_EXECS)] {
        ratio(&format!("{what} after 10,000 execs ÷ after 100"), last(measure), first(measure), 1.05);
    }
    let mut amount = |what: &str, value: Option<u64>, one: u64, limit: f64, unit| {
        all.push(Judged { what: what.into(), found: value.map(|value| quotient(value, one)), limit, unit });
    };
    amount("private dirty memory per idle shim", at(&footprint::PRIVATE_DIRTY, 1), 1024, 250.0, "kB");
    amount("PSS per shim at 20 pods", at(&footprint::PSS, 20), 1024, 400.0, "kB");
    amount("threads per idle shim", at(&footprint::THREADS, 1), 1, 1.0, "");
    amount("default seccomp profile, cold", m(&seccomp::COLD, Berth), 1_000_000, 0.3, "ms");
    all
}

/// Formats the targets as a Markdown table.
pub fn table(judged: &[Judged]) -> String {
    let mut rows = vec![["target", "measured", "at most", ""].map(String::from).to_vec()];
    for one in judged {
        let figure = |value: f64| format!("{value:.3} {}", one.unit).trim_end().to_owned();
        let verdict = match one.met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        rows.push(vec![one.what.clone(), one.found.map_or("–".into(), figure), figure(one.limit), verdict.into()]);
    }
    aligned(&rows)
}

#[allow(clippy::cast_precision_loss, reason = "53 bits are exact for 104 days in nanoseconds")]
fn quotient(value: u64, of: u64) -> f64 {
    value as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(results: &Results, what: &str) -> Judged {
        judge(results).into_iter().find(|one| one.what == what).unwrap_or_else(|| panic!("no target {what}"))
    }

    #[test]
    fn unmeasured_target_is_neither_met_nor_missed() {
        let judged = judge(&Results::default());
        assert!(judged.iter().all(|one| one.met().is_none()));
        assert!(table(&judged).contains("not measured"));
    }

    #[test]
    fn floor_is_the_null_shim_plus_the_bare_calls() {
        let mut results = Results::default();
        results.add(&containerd::RUN, Berth, 130);
        results.add(&containerd::RUN, Null, 80);
        results.add(&cli::RUN, Bare, 20);
        let one = found(&results, "create+start+wait+delete through containerd ÷ (null + bare)");
        assert_eq!((one.found, one.met()), (Some(1.3), Some(true)));
        results.add(&containerd::RUN, Runc, 640);
        let one = found(&results, "create+start+wait+delete through containerd ÷ Go shim + runc");
        assert_eq!(one.met(), Some(false));
    }

    #[test]
    fn busy_machine_leaves_machine_wide_targets_unjudged() {
        let mut results = Results::default();
        for (who, cpu) in [(Berth, 30), (Runc, 100), (Null, 20)] {
            results.add(&containerd::RUN_CPU_MACHINE, who, cpu);
        }
        let what = "CPU per create+start+wait+delete above null ÷ runc's, machine-wide";
        assert_eq!(found(&results, what).met(), None);
        results.neighbours = Some(QUIET);
        assert_eq!(found(&results, what).met(), Some(true));
        results.neighbours = Some(QUIET + 1);
        assert_eq!(found(&results, what).met(), None);
    }

    #[test]
    fn cpu_time_counts_above_that_of_null() {
        let mut results = Results::default();
        for (who, cpu) in [(Berth, 30), (Runc, 100), (Null, 20)] {
            results.add(&containerd::EXEC_CPU, who, cpu);
        }
        assert_eq!(found(&results, "CPU per exec above null ÷ runc's, by cgroup").found, Some(0.125));
    }
}
