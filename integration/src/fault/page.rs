//! `docs/security/matrices.md`: the figures of the matrices, each row of which a run of `make faults` or `make kills` writes.

use super::{Class, judge::Outcome, matrix::Table, scenes};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// The two tables of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Calls that fail.
    Faults,
    /// Processes that are killed or stopped at a call.
    Kills,
}

impl Part {
    const ALL: [Self; 2] = [Self::Faults, Self::Kills];

    fn heading(self) -> &'static str {
        match self {
            Self::Faults => "## Every call fails (`make faults`)",
            Self::Kills => "## Every call is the last (`make kills`)",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Faults => {
                "Each call of the runtime and of what it clones is answered once with each of EPERM, EIO, ENOSPC, EINTR, EAGAIN,
ENOMEM, EMFILE, ENFILE, ENOSYS and ETIMEDOUT, without being made. *Refused*: an error names what failed, and nothing is
left. *Same*: the operation succeeds, and the process of the container and the host see the same container as without the
fault. *Warned*: as *same*, with a warning. *Spared*: the call cannot fail so (the tables are in
`integration/src/fault/mod.rs`). *No memory*: Rust's library ended the program, because mmap(2) or mprotect(2) gave it no
signal stack for a thread; `delete --force` leaves nothing. *Findings*: all other outcomes."
            }
            Self::Kills => {
                "The runtime, or what it clones, is killed before each call, or what it clones is stopped there. Then
`delete --force` runs. *Cleared*: nothing is left, and the next container has the same id. *Findings*: all other outcomes."
            }
        }
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Faults => {
                "| operation | calls: runtime | child | tried | refused | same | warned | spared | no memory | findings |"
            }
            Self::Kills => "| operation | calls: runtime | child | tried | cleared | findings |",
        }
    }

    /// Returns the cells of a row after its name.
    fn row(self, table: &Table) -> String {
        let sum = |outcome| Class::ALL.into_iter().map(|class| table.count(class, outcome)).sum::<usize>();
        let calls = Class::ALL.map(|class| table.calls.get(&class).copied().unwrap_or_default());
        let outcomes: &[Outcome] = match self {
            Self::Faults => &[Outcome::Refused, Outcome::Same, Outcome::Warned, Outcome::Spared, Outcome::NoMemory],
            Self::Kills => &[Outcome::Cleared],
        };
        let mut row = format!("{} | {} | {}", calls[0], calls[1], table.tried());
        outcomes.iter().for_each(|outcome| write!(row, " | {}", sum(Some(*outcome))).unwrap());
        write!(row, " | {}", sum(None)).unwrap();
        row
    }
}

const TITLE: &str = "# Fault and kill matrices

`berth-fault` follows the runtime and its children with ptrace(2) and counts their system calls. The tests
`integration/tests/runtime_faults.rs` carry out a part of both matrices in each run of `make test`.
";

/// Writes the rows of `tables` into the page, and keeps its other rows.
pub fn write(path: &Path, part: Part, tables: &BTreeMap<String, Table>) {
    let names: Vec<&str> = scenes::ALL.iter().chain(scenes::HELD).map(|(name, _)| *name).collect();
    let old = fs::read_to_string(path).unwrap_or_default();
    let rows: BTreeMap<&str, String> = tables.iter().map(|(name, table)| (name.as_str(), part.row(table))).collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, page(&old, part, &names, &rows)).unwrap();
}

fn page(old: &str, part: Part, names: &[&str], rows: &BTreeMap<&str, String>) -> String {
    let mut text = TITLE.to_owned();
    for each in Part::ALL {
        let kept = |name: &str| {
            let section = old.split(each.heading()).nth(1)?.split("\n## ").next()?;
            section
                .lines()
                .find_map(|line| line.strip_prefix(&format!("| {name} | "))?.strip_suffix(" |").map(str::to_owned))
        };
        let columns = each.columns();
        let rule = "|---".repeat(columns.matches('|').count() - 1);
        write!(text, "\n{}\n\n{}\n\n{columns}\n{rule}|\n", each.heading(), each.text()).unwrap();
        for name in names {
            let row = rows.get(name).filter(|_| each == part).cloned().or_else(|| kept(name));
            row.iter().for_each(|row| writeln!(text, "| {name} | {row} |").unwrap());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_operations_and_of_the_other_matrix_are_kept() {
        let names = ["run", "exec"];
        let first = page("", Part::Faults, &names, &BTreeMap::from([("run", "1 | 2".to_owned())]));
        let second = page(&first, Part::Kills, &names, &BTreeMap::from([("run", "3 | 4".to_owned())]));
        let third = page(&second, Part::Faults, &names, &BTreeMap::from([("exec", "5 | 6".to_owned())]));
        for row in ["| run | 1 | 2 |", "| run | 3 | 4 |", "| exec | 5 | 6 |"] {
            assert_eq!(third.matches(row).count(), 1, "{row} in {third}");
        }
    }
}
