//! `docs/security/ledger.md`: the published faults of container runtimes, shims and extractors, the defences of berth, and
//! the tests with their controls. `make conformance` writes the page from `integration/ledger.txt`, and tests hold it to
//! the tree.

use std::fmt::Write as _;

/// One row of the ledger.
struct Row {
    number: &'static str,
    /// The published ids.
    ids: &'static str,
    /// The fault, in a sentence.
    fault: &'static str,
    /// The defence of berth, in a sentence.
    defence: &'static str,
    /// The code of the defence: `path::function`.
    places: Vec<&'static str>,
    /// The tests: `file::function`.
    tests: Vec<&'static str>,
    control: Control,
}

/// The control of a row.
struct Control {
    /// The kind and its argument, such as `weak InRoot`.
    kind: &'static str,
    /// The tests that have the control.
    tests: Vec<&'static str>,
}

/// The fields of a row.
const FIELDS: usize = 7;

/// Reads one line; `None` if it has another number of fields.
fn row(line: &'static str) -> Option<Row> {
    let fields: Vec<_> = line.split('|').map(str::trim).collect();
    let &[number, ids, fault, defence, places, tests, control] = fields.as_slice() else { return None };
    let words = |text: &'static str| text.split_whitespace().collect();
    let (kind, by) = control.split_once(':').unwrap_or((control, ""));
    let control = Control { kind, tests: words(by) };
    Some(Row { number, ids, fault, defence, places: words(places), tests: words(tests), control })
}

/// Returns the rows below their headings. A line without `|` is a heading.
fn table(text: &'static str) -> Vec<(&'static str, Vec<Row>)> {
    let mut table: Vec<(&str, Vec<Row>)> = vec![];
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (row(line), table.last_mut()) {
            (Some(row), Some((_, rows))) => rows.push(row),
            (None, _) if !line.contains('|') => table.push((line, vec![])),
            _ => panic!("integration/ledger.txt: not a heading, and not {FIELDS} fields: {line}"),
        }
    }
    table
}

fn text() -> &'static str {
    include_str!("../ledger.txt")
}

/// Returns code marks around each word.
fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the text of the page.
pub fn page() -> String {
    let mut page = String::from(
        "# The ledger of published faults

Each published fault of the field that a runtime, a shim or an extractor of images can have, with the defence of berth,
the test, and the control of the test. `make conformance` writes this page from `integration/ledger.txt`. Unit tests see
to it that each row has a test and a control, and that the tests and the code that it names are in the tree. Tests
without a path are below `integration/tests`. [threat-model.md](threat-model.md) says who is trusted with what.

A control shows that the test can fail. There are four kinds:

- **weak**: `berth-weak`, a berth of the tests that is built with the feature `weak`, leaves out the named defences of
  `runtime/init/src/defence.rs`, and the attack succeeds on it. Where one test leaves out several, it shows as well that
  each of them suffices alone. No installed program has the feature; a test looks for it in their files.
- **runc 1.1.5**, **runc 1.5.1**: that runc has the fault or one of its class, and the test finds it there. A missing runc
  is a failure.
- **inner**: the test makes the same observation where the fault is on purpose: with an ordinary file, a careless
  program, a request that asks for it.
- **exact**: the fault cannot occur in berth, for the reason that the row gives, and the test holds that reason. Its
  control shows that the check of the reason finds the opposite.
",
    );
    for (heading, rows) in table(text()) {
        let _ = write!(page, "\n## {heading}\n\n| # | fault | defence | tests | control |\n|---|---|---|---|---|\n");
        for row in rows {
            let Row { number, ids, fault, defence, places, tests, control } = row;
            let (places, tests, by) = (quoted(&places), quoted(&tests), quoted(&control.tests));
            let _ = writeln!(
                page,
                "| {number} | {ids}: {fault} | {defence} {places} | {tests} | **{}**: {by} |",
                control.kind
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::tests::{ROOT, has, path_of};
    use std::{collections::BTreeSet, fs, path::Path, process::Command};

    /// The rows of runtimes and shims. A fault that comes back (CVE-2020-14298) is found only while its row is here.
    const ROWS: usize = 38;
    const KINDS: [&str; 5] = ["weak", "runc 1.1.5", "runc 1.5.1", "inner", "exact"];

    fn source(path: &str) -> String {
        fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default()
    }

    /// The defences that a control of the kind `weak` takes out.
    fn taken_out(kind: &str) -> Vec<&str> {
        let names = kind.strip_prefix("weak ").unwrap_or_default();
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }

    /// The words that the source of a control must have.
    fn needed(kind: &str) -> Vec<String> {
        match kind {
            "runc 1.1.5" => vec!["Runtime::faulty(".into()],
            "runc 1.5.1" => vec!["Runtime::peer(".into()],
            _ => taken_out(kind).into_iter().map(|name| format!("Defence::{name}")).collect(),
        }
    }

    /// The faults of a row: a test, a control or a place of the defence that is not there.
    fn faults(row: &Row) -> Vec<String> {
        let mut faults = vec![];
        let mut missing = |what: String| faults.push(format!("{} {}: {what}", row.number, row.ids));
        if row.ids.is_empty() || row.fault.is_empty() || row.defence.is_empty() || row.places.is_empty() {
            missing("an empty field".into());
        }
        if row.tests.is_empty() || row.control.tests.is_empty() {
            missing("no test or no control".into());
        }
        let kind = row.control.kind;
        let known = KINDS.iter().any(|known| kind == *known || *known == "weak" && !taken_out(kind).is_empty());
        if !known || kind == "weak" {
            missing(format!("no such kind of control: {kind}"));
        }
        for test in row.tests.iter().chain(&row.control.tests) {
            let (file, name) = test.split_once("::").unwrap_or((test, ""));
            if !has(&source(&path_of(file)), name) {
                missing(format!("no test {test}"));
            }
        }
        for need in needed(kind) {
            let files = row.control.tests.iter().filter_map(|test| test.split_once("::"));
            if !files.map(|(file, _)| source(&path_of(file))).any(|source| source.contains(&need)) {
                missing(format!("no control has {need}"));
            }
        }
        for place in &row.places {
            let (file, name) = place.split_once("::").unwrap_or((place, ""));
            if !source(file).contains(&format!("fn {name}")) {
                missing(format!("no code {place}"));
            }
        }
        faults
    }

    fn rows() -> Vec<Row> {
        table(text()).into_iter().flat_map(|(_, rows)| rows).collect()
    }

    #[test]
    fn every_row_has_a_test_and_a_control() {
        let faults: Vec<_> = rows().iter().flat_map(faults).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        let (heading, first) = table(text()).into_iter().next().unwrap();
        let numbers: Vec<_> = first.iter().map(|row| row.number.to_owned()).collect();
        assert_eq!(numbers, (1..=ROWS).map(|n| n.to_string()).collect::<Vec<_>>(), "{heading}");
    }

    #[test]
    fn control_a_row_without_test_control_or_code_is_found() {
        let good = "1 | CVE-1 | Fault. | Defence. | integration/src/ledger.rs::page | \
                    integration/src/ledger.rs::every_row_has_a_test_and_a_control | \
                    inner: integration/src/ledger.rs::control_a_row_without_test_control_or_code_is_found";
        assert_eq!(faults(&row(good).unwrap()), Vec::<String>::new());
        let changes = [
            ("::page", "::no_page"),
            ("::every_row_has", "::no_row_has"),
            ("::control_a_row", "::no_control_a_row"),
            ("inner: ", "inner: none::"),
            ("inner:", "hope:"),
            ("inner:", "weak:"),
            ("inner:", "weak NoDefence:"),
            ("inner:", "runc 1.5.1:"),
        ];
        for (from, to) in changes {
            let bad: &'static str = good.replacen(from, to, 1).leak();
            // The needle of a kind is in this file.
            let found = faults(&row(bad).unwrap());
            assert!(!found.is_empty() || to.starts_with("runc"), "{bad}");
        }
        assert!(row("1 | CVE-1 | Fault.").is_none());
    }

    #[test]
    fn each_defence_of_the_tests_is_in_the_ledger() {
        let code = source("runtime/init/src/defence.rs");
        let body = code.split("pub enum Defence {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let names = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        let defined: BTreeSet<_> = names.map(|line| line.trim_end_matches(',').to_owned()).collect();
        let used: BTreeSet<_> = rows().iter().flat_map(|row| taken_out(row.control.kind)).map(str::to_owned).collect();
        assert_eq!(used, defined);
    }

    #[test]
    fn ledger_page_is_that_of_the_table() {
        let path = Path::new(ROOT).join("docs/security/ledger.md");
        if std::env::var("BERTH_CONFORMANCE").is_ok_and(|what| what == "write") {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, page()).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page(), "`make conformance` writes docs/security/ledger.md anew");
    }

    /// Every test that the other pages name in code marks, as `file::function`.
    #[test]
    fn tests_named_in_the_threat_model_exist() {
        let page = source("docs/security/threat-model.md");
        let named: Vec<_> = page.split('`').filter_map(|word| word.split_once("::")).collect();
        let missing: Vec<_> = named.iter().filter(|(file, name)| !has(&source(&path_of(file)), name)).collect();
        assert!(named.len() > 30 && missing.is_empty(), "{missing:?}");
    }

    /// The crates in the tree of a package that read archives.
    fn archive_crates(package: &str) -> Vec<String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let words = ["tree", "--offline", "--locked", "-p", package, "-e", "normal", "--prefix", "none"];
        let out = Command::new(cargo).args(words).current_dir(ROOT).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let archive = |name: &&str| ["tar", "zip", "flate2", "zstd", "zlib"].iter().any(|part| name.contains(part));
        text.lines().filter_map(|line| line.split(' ').next()).filter(archive).map(str::to_owned).collect()
    }

    /// CVE-2025-47290: a program that unpacks nothing cannot unpack to another place.
    #[test]
    fn runtime_and_shim_have_no_code_of_archives() {
        for package in ["containerd-shim-berth-v2", "berth-cli"] {
            assert_eq!(archive_crates(package), Vec::<String>::new(), "{package}");
        }
        assert!(!archive_crates("berth-image").is_empty(), "the control");
    }

    /// The lines of code in a folder that copy files or set extended attributes, by file.
    fn copies(folder: &str) -> BTreeSet<String> {
        let mut todo = vec![Path::new(ROOT).join(folder)];
        let mut found = BTreeSet::new();
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
                continue;
            }
            let code = fs::read_to_string(&path).unwrap_or_default();
            let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let calls = ["fs::copy(", "io::copy(", "setxattr(", "copy_file_range("];
            if lines.any(|line| calls.iter().any(|call| line.contains(call))) {
                found.insert(path.strip_prefix(Path::new(ROOT)).unwrap().display().to_string());
            }
        }
        found
    }

    /// CVE-2021-43816, CVE-2022-23648: berth relabels a detached mount of its own, copies the tmpfs of `tmpcopyup` inside
    /// the root, and copies its own program.
    #[test]
    fn runtime_and_shim_copy_and_relabel_no_file_of_the_host() {
        let folders = ["runtime/init/src", "runtime/src", "runtime/cli/src", "shim/src"];
        let all: BTreeSet<_> = folders.into_iter().flat_map(copies).collect();
        let known = ["runtime/init/src/mount.rs", "runtime/src/leaves/mount/copyup.rs", "runtime/src/spawn/sealed.rs"];
        assert_eq!(all, known.map(str::to_owned).into());
    }
}
