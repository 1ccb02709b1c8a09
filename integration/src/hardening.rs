//! `docs/security/hardening.md`: each measure is done and tested, or refused with a reason.

#[cfg(test)]
mod tests {
    use crate::conformance::tests::{ROOT, has, path_of};
    use std::{fs, path::Path};

    const PAGE: &str = include_str!("../../docs/security/hardening.md");

    /// Returns whether the test `file::function` exists.
    fn exists(test: &str) -> bool {
        let Some((file, name)) = test.split_once("::") else { return false };
        has(&fs::read_to_string(Path::new(ROOT).join(path_of(file))).unwrap_or_default(), name)
    }

    /// The cells of the tables' rows.
    fn rows() -> impl Iterator<Item = Vec<&'static str>> {
        let rows = PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
        rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
    }

    #[test]
    fn each_hardening_measure_has_a_test_or_a_reason() {
        let mut wrong = vec![];
        for row in rows().filter(|row| !matches!(row.first(), Some(&"measure" | &"wait"))) {
            let [what, answer, how, tests] = row.as_slice() else {
                wrong.push(format!("{row:?}: not four cells"));
                continue;
            };
            let named: Vec<_> =
                tests.split(", ").map(|test| test.trim_matches('`')).filter(|t| !t.is_empty()).collect();
            let unknown = named.iter().filter(|test| !exists(test));
            wrong.extend(unknown.map(|test| format!("{what}: {test} does not exist")));
            if *answer == "done" && named.is_empty() {
                wrong.push(format!("{what}: done, and no test"));
            }
            if *answer == "refused" && how.is_empty() {
                wrong.push(format!("{what}: refused without a reason"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(rows().count() > 50, "the tables are read");
    }
}
