//! `docs/conformance.md`: what berth does with each field of the runtime specification and each command of runc, and
//! the tests that prove it. `make conformance` writes the page from `integration/conformance.txt`, and a test compares
//! the two.

use std::fmt::Write as _;

/// One row of the table.
struct Row {
    /// The field or the command.
    what: &'static str,
    /// What berth does with it.
    does: &'static str,
    /// The tests that prove it: `file::function`. The list is empty if there is nothing to prove.
    tests: Vec<&'static str>,
}

/// Returns the rows below their headings.
fn table() -> Vec<(&'static str, Vec<Row>)> {
    let mut table: Vec<(&str, Vec<Row>)> = vec![];
    let lines = include_str!("../conformance.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut fields = line.split('|').map(str::trim);
        let (what, does, tests) = (fields.next(), fields.next(), fields.next());
        match (what, does, table.last_mut()) {
            (Some(what), Some(does), Some((_, rows))) => {
                rows.push(Row { what, does, tests: tests.unwrap_or_default().split_whitespace().collect() });
            }
            (Some(heading), ..) => table.push((heading, vec![])),
            _ => {}
        }
    }
    table
}

/// Returns the text of the page.
pub fn page() -> String {
    let mut page = String::from(
        "# Conformance

One line for each field of the OCI runtime specification 1.3 and each command of runc: what berth does, and the tests
that prove it. `make conformance` writes this page from `integration/conformance.txt`; a test holds it to that table and
sees to it that each named test exists. Tests without a path are below `integration/tests`; they run with
`RUNTIME=runc`, too, and say where berth goes beyond it. How berth fares in the suites of others, and under docker,
podman and buildah, is in [suites.md](suites.md).
",
    );
    for (heading, rows) in table() {
        let _ = write!(page, "\n## {heading}\n\n| what | berth | proved by |\n|---|---|---|\n");
        for row in rows {
            let tests: Vec<_> = row.tests.iter().map(|test| format!("`{test}`")).collect();
            let _ = writeln!(page, "| {} | {} | {} |", row.what, row.does, tests.join(", "));
        }
    }
    page
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs, path::Path};

    /// The root of the workspace.
    pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    /// Returns whether `source` has a test of this name.
    pub(crate) fn has(source: &str, name: &str) -> bool {
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        let named = |line: &str| line.contains(&format!("fn {name}("));
        lines.iter().enumerate().filter(|(_, line)| named(line)).any(|(at, _)| {
            let mut above =
                lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
            above.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
        })
    }

    /// Returns the path of a file of tests. A name without a path is below `integration/tests`.
    pub(crate) fn path_of(file: &str) -> String {
        if file.contains('/') { file.to_owned() } else { format!("integration/tests/{file}.rs") }
    }

    #[test]
    fn every_test_named_in_the_table_exists() {
        let mut sources = BTreeMap::new();
        let mut missing = vec![];
        for row in table().iter().flat_map(|(_, rows)| rows) {
            for test in &row.tests {
                let Some((file, name)) = test.split_once("::") else {
                    missing.push(format!("{}: {test} names no file", row.what));
                    continue;
                };
                let path = path_of(file);
                let source = sources
                    .entry(path.clone())
                    .or_insert_with(|| fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default());
                if !has(source, name) {
                    missing.push(format!("{}: {test}", row.what));
                }
            }
            if row.tests.is_empty() && !row.does.contains("not ") {
                missing.push(format!("{}: no test, and not said to be missing", row.what));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }

    #[test]
    fn test_is_recognised_by_its_attribute() {
        let source = "fn one() {\n}\n#[test]\n/// Text.\nfn one() {\n}\nfn two() {\n}\n";
        for (name, is) in [("one", true), ("two", false), ("three", false), ("on", false)] {
            assert_eq!(has(source, name), is, "{name}");
        }
    }

    #[test]
    fn conformance_page_is_that_of_the_table() {
        let path = Path::new(ROOT).join("docs/conformance.md");
        if std::env::var("BERTH_CONFORMANCE").is_ok_and(|what| what == "write") {
            fs::write(&path, page()).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page(), "`make conformance` writes docs/conformance.md anew");
    }
}
