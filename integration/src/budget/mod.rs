//! The budget of operations: counts of system calls, clones, execs, threads and pages, and sizes of programs, none of which
//! depends on the speed of the machine. `integration/budget.toml` holds the committed numbers; the test compares its measurements with
//! them.
//!
//! The counts depend on the number of cgroup hierarchies, so the file has a section for each layout.

pub mod trace;

use crate::cgroup;
use std::{collections::BTreeMap, fmt::Write};

/// A budget or a measurement: a number with its unit for each operation and line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines(BTreeMap<(String, String), Amount>);

/// A number with its unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// The number.
    pub number: u64,
    /// The unit: `calls`, `kB`, …
    pub unit: String,
}

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The lines that grew, or that have no budget.
    pub over: Vec<String>,
    /// The lines that are so far below their budget that it could be lowered.
    pub under: Vec<String>,
}

const STACKS: &str = "the stack of a thread that has ended is used again, if it has ended in time";

/// How far a line may exceed its budget without counting as growth, and why.
const SLACK: [(&str, u64, &str); 10] = [
    ("brk", 4, "where the heap's edges fall, and whether the shim gave them back since"),
    ("all calls", 14, "those of the lines that it sums up, which do not all come together"),
    ("mmap", 3, STACKS),
    ("mprotect", 3, STACKS),
    ("munmap", 3, STACKS),
    ("ppoll", 1, "the ends of two children wake their parent once or twice"),
    ("read", 8, "the mount table and the list of cgroups are read to their ends, and both are the machine's"),
    ("private dirty memory", 24, "six pages: where the heap's edges fall"),
    ("page faults", 12, "where the heap's edges fall, and what the kernel maps around a fault"),
    ("size of the program", 64, "what another compiler and a fix may add"),
];

impl Lines {
    /// Adds a line.
    pub fn put(&mut self, operation: &str, line: &str, number: u64, unit: &str) {
        let amount = Amount { number, unit: unit.to_owned() };
        self.0.insert((operation.to_owned(), line.to_owned()), amount);
    }

    /// Adds the sum of an operation's calls as a line of its own.
    pub fn with_sum(mut self, operation: &str) -> Self {
        let calls = self.0.iter().filter(|((of, _), amount)| of == operation && amount.unit == "calls");
        let sum = calls.map(|(_, amount)| amount.number).sum();
        self.put(operation, "all calls", sum, "calls");
        self
    }

    /// Adds the lines of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps the smaller number of each line and drops lines that only one of the two has: the difference depends on
    /// timing.
    pub fn least(self, other: &Self) -> Self {
        let both = self.0.into_iter().filter_map(|(key, amount)| {
            let number = amount.number.min(other.0.get(&key)?.number);
            Some((key, Amount { number, ..amount }))
        });
        Self(both.collect())
    }

    /// Compares measured lines with this budget. A budgeted line that was not measured counts as zero.
    pub fn judge(&self, seen: &Self) -> Verdict {
        let mut verdict = Verdict::default();
        for (key, amount) in &seen.0 {
            let (operation, line) = key;
            let Amount { number, unit } = amount;
            match self.0.get(key) {
                None if *number > slack(line) => {
                    verdict.over.push(format!("{operation}: {line}: no budget, seen {number} {unit}"));
                }
                Some(budget) if *number > budget.number + slack(line) => {
                    verdict.over.push(format!("{operation}: {line}: budget {} {unit}, seen {number}", budget.number));
                }
                _ => {}
            }
        }
        for ((operation, line), budget) in &self.0 {
            let number = seen.0.get(&(operation.clone(), line.clone())).map_or(0, |amount| amount.number);
            if number + slack(line) < budget.number && number * 10 < budget.number * 9 {
                let Amount { number: old, unit } = budget;
                verdict.under.push(format!("{operation}: {line}: budget {old} {unit}, seen {number}"));
            }
        }
        verdict
    }

    /// Reads the budget of a layout. Returns `None` if the file has none for it.
    ///
    /// # Errors
    /// The text is not a budget.
    pub fn of_layout(text: &str, layout: &str) -> Result<Option<Self>, String> {
        let table: toml::Table = text.parse().map_err(|e| format!("{e}"))?;
        let Some(section) = table.get(layout) else { return Ok(None) };
        let mut lines = Self::default();
        for (operation, fields) in section.as_table().ok_or("a layout is no table")? {
            for (line, value) in fields.as_table().ok_or("an operation is no table")? {
                let bad = || format!("{layout}: {operation}: {line}: not a number and a unit");
                let (number, unit) = value.as_str().and_then(|text| text.split_once(' ')).ok_or_else(bad)?;
                lines.put(operation, line, number.parse().map_err(|_| bad())?, unit);
            }
        }
        Ok(Some(lines))
    }

    /// Returns the file's text with the section of `layout` replaced by these lines. The other sections stay.
    ///
    /// # Errors
    /// The text is not a budget.
    pub fn rewrite(&self, text: &str, layout: &str) -> Result<String, String> {
        let table: toml::Table = text.parse().map_err(|e| format!("{e}"))?;
        let mut sections = BTreeMap::new();
        for name in table.keys() {
            sections.insert(name.clone(), Self::of_layout(text, name)?.unwrap_or_default());
        }
        sections.insert(layout.to_owned(), self.clone());
        let mut out = HEADER.to_owned();
        for (layout, lines) in sections {
            let mut last = "";
            for ((operation, line), Amount { number, unit }) in &lines.0 {
                if operation != last {
                    writeln!(out, "\n[{}.{}]", quoted(&layout), quoted(operation)).map_err(|e| e.to_string())?;
                    last = operation;
                }
                writeln!(out, "{} = \"{number} {unit}\"", quoted(line)).map_err(|e| e.to_string())?;
            }
        }
        Ok(out)
    }
}

/// The comment at the top of the file.
const HEADER: &str = "\
# The budget of operations for each cgroup layout. `make budget` writes it from its measurements.
# integration/tests/budget.rs compares its measurements with it and fails if a line grew.
#
# Calls are those of the runtime and of the container's process up to its execve, on the second run and later, the
# least of several runs. Calls whose number depends on timing are left out: calls that fail with EAGAIN or look for a
# child that has not exited, calls that wait or wake (futex, epoll, eventfd), and calls that threads make when they begin
# and end (mmap, rseq, …).
";

fn slack(line: &str) -> u64 {
    SLACK.iter().find(|(name, ..)| *name == line).map_or(0, |(_, slack, _)| *slack)
}

fn quoted(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { format!("\"{name}\"") }
}

/// Returns the cgroup layout of this machine: `v2`, or the number of v1 hierarchies and whether v2 is mounted beside
/// them.
pub fn layout() -> String {
    if cgroup::is_v2() {
        return "v2".into();
    }
    let hierarchies = cgroup::hierarchies();
    let v2 = hierarchies.iter().filter(|root| root.join("cgroup.controllers").exists()).count();
    format!("v1x{}{}", hierarchies.len() - v2, if v2 > 0 { "+v2" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(all: &[(&str, u64)]) -> Lines {
        let mut lines = Lines::default();
        all.iter().for_each(|(line, number)| lines.put("exec", line, *number, "calls"));
        lines
    }

    #[test]
    fn growth_is_reported_with_budget_and_measured_number() {
        let verdict = lines(&[("openat", 10), ("mkdir", 2)]).judge(&lines(&[("openat", 11), ("mkdir", 2)]));
        assert_eq!(verdict.over, ["exec: openat: budget 10 calls, seen 11"]);
        assert!(verdict.under.is_empty());
    }

    #[test]
    fn unbudgeted_call_is_growth() {
        let verdict = lines(&[]).judge(&lines(&[("mount", 1)]));
        assert_eq!(verdict.over, ["exec: mount: no budget, seen 1 calls"]);
    }

    #[test]
    fn number_far_below_budget_is_reported_and_passes() {
        let verdict =
            lines(&[("openat", 100), ("mkdir", 20), ("close", 5)]).judge(&lines(&[("openat", 91), ("mkdir", 17)]));
        assert!(verdict.over.is_empty());
        assert_eq!(verdict.under, ["exec: close: budget 5 calls, seen 0", "exec: mkdir: budget 20 calls, seen 17"]);
    }

    #[test]
    fn varying_calls_have_a_tolerance() {
        assert!(lines(&[("read", 10)]).judge(&lines(&[("read", 18)])).over.is_empty());
        assert_eq!(lines(&[("read", 10)]).judge(&lines(&[("read", 19)])).over.len(), 1);
    }

    #[test]
    fn sum_of_an_operation_counts_calls_only() {
        let mut all = lines(&[("openat", 3), ("mkdir", 2)]);
        all.put("exec", "threads made", 7, "clones");
        all.put("run", "openat", 9, "calls");
        let sum = ("exec".to_owned(), "all calls".to_owned());
        assert_eq!(all.with_sum("exec").0[&sum].number, 5);
    }

    #[test]
    fn least_of_two_runs_is_taken_per_call() {
        let least =
            lines(&[("openat", 5), ("clone3", 2), ("munmap", 1)]).least(&lines(&[("openat", 6), ("clone3", 1)]));
        assert_eq!(least, lines(&[("openat", 5), ("clone3", 1)]));
    }

    #[test]
    fn budget_file_keeps_other_layouts_and_reads_back() {
        let first = lines(&[("openat", 5), ("private dirty memory", 7)]).rewrite("", "v2").unwrap();
        let both = lines(&[("mkdir", 1)]).rewrite(&first, "v1x9+v2").unwrap();
        assert!(both.contains("\n[\"v1x9+v2\".exec]\nmkdir = \"1 calls\"\n"), "{both}");
        assert!(both.contains("\n[v2.exec]\nopenat = \"5 calls\"\n"), "{both}");
        assert_eq!(Lines::of_layout(&both, "v2").unwrap(), Some(lines(&[("openat", 5), ("private dirty memory", 7)])));
        assert_eq!(Lines::of_layout(&both, "other").unwrap(), None);
        Lines::of_layout("[v2.exec]\nopenat = 5\n", "v2").unwrap_err();
    }
}
