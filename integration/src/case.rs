//! [`Case`]: one container, described by the difference of its bundle from the default and by the probe's report.
//!
//! A test is a table of cases. A struct literal adds one.

use crate::{bundle::Bundle, runtime::Runtime};
use serde_json::Value;

/// One row of a table.
pub struct Case {
    /// The name of the case in a failure message.
    pub name: &'static str,
    /// Changes the default bundle, whose process is `/probe report`.
    pub set: fn(Bundle) -> Bundle,
    /// JSON pointers into the report with the JSON that must be there. `absent` means that there must be no value.
    pub sees: &'static [(&'static str, &'static str)],
}

/// One row about bad input: the runtime must refuse it with words that name the fault.
pub struct Refusal {
    /// The name of the case in a failure message.
    pub name: &'static str,
    /// Changes the default bundle, whose process is `/probe report`.
    pub set: fn(Bundle) -> Bundle,
    /// The words that standard error must have, in any case of letters.
    pub says: &'static [&'static str],
}

/// Runs every case with `run` and reports all failures together. Each case must leave nothing behind.
#[track_caller]
pub fn all(test: &str, cases: &[Case]) {
    let runtime = Runtime::new(test);
    let failed: Vec<String> = cases.iter().flat_map(|case| one(&runtime, case)).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Runs every case with `run`. The runtime must refuse each one (exit status 1, or 255 if the container's own process
/// failed to start), print its words, and leave nothing behind.
#[track_caller]
pub fn refused(test: &str, cases: &[Refusal]) {
    let runtime = Runtime::new(test);
    let mut failed = vec![];
    for case in cases {
        let out = runtime.run("c1", &(case.set)(Bundle::probe(&["report"])));
        if !matches!(out.code, 1 | 255) || !out.stdout.is_empty() {
            failed.push(format!("{}: exit status {}, said {} {}", case.name, out.code, brief(&out.stdout), out.stderr));
        }
        let text = out.stderr.to_lowercase();
        let missing = case.says.iter().filter(|word| !text.contains(&word.to_lowercase()));
        failed.extend(missing.map(|word| format!("{}: no {word:?} in {}", case.name, out.stderr)));
        failed.extend(runtime.residue().iter().map(|r| format!("{}: left behind {r}", case.name)));
    }
    assert!(failed.is_empty(), "{} faults in {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Returns whether the tests run on runc, and then prints that `what` is skipped, with the reason.
pub fn skipped_on_runc(what: &str, reason: &str) -> bool {
    if crate::runtime::is_runc() {
        eprintln!("{what}: skipped on runc: {reason}");
    }
    crate::runtime::is_runc()
}

/// Returns the differences of a report from the expectations, one line each.
pub fn differences(report: &Value, sees: &[(&str, &str)]) -> Vec<String> {
    let wrong = |(pointer, expected): &(&str, &str)| {
        let actual = report.pointer(pointer);
        let fits = match (*expected, actual) {
            ("absent", None) => true,
            (text, Some(value)) => {
                let expected: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{pointer}: {text}: {e}"));
                *value == expected
            }
            _ => false,
        };
        let actual = actual.map_or_else(|| "absent".to_owned(), Value::to_string);
        (!fits).then(|| format!("{pointer} is {actual}, not {expected}"))
    };
    sees.iter().filter_map(wrong).collect()
}

fn one(runtime: &Runtime, case: &Case) -> Vec<String> {
    let out = runtime.run("c1", &(case.set)(Bundle::probe(&["report"])));
    let mut wrong = if out.code == 0 {
        differences(&out.json(), case.sees)
    } else {
        vec![format!("exit status {}: {}", out.code, out.stderr)]
    };
    wrong.extend(runtime.residue().iter().map(|r| format!("left behind {r}")));
    wrong.iter().map(|w| format!("{}: {w}", case.name)).collect()
}

fn brief(text: &str) -> String {
    text.chars().take(200).collect()
}
