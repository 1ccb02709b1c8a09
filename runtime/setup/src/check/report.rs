//! The answer of `berth check`, for a reader and for a program.

use std::fmt::Write as _;

use serde_json::json;

use super::{Finding, Status, status};

/// The lines, grouped. No colours: the words say the verdict.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut area = "";
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            let _ = writeln!(text, "{area}");
        }
        let word = match finding.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Missing => "missing",
            Status::Absent => "-",
        };
        let _ = writeln!(text, "  {word:<8} {:<width$}  {}", finding.name, finding.found);
        for (label, line) in [("why", &finding.why), ("do", &finding.todo)] {
            if !line.is_empty() {
                let _ = writeln!(text, "           {label}: {line}");
            }
        }
    }
    let count = |wanted| findings.iter().filter(|finding| finding.status == wanted).count();
    let (missing, warnings) = (count(Status::Missing), count(Status::Warning));
    let verdict = if missing == 0 { "berth works here" } else { "berth does not work here" };
    let _ = writeln!(text, "{verdict}: {missing} missing, {warnings} warnings");
    text
}

/// The same as JSON.
pub fn json(findings: &[Finding]) -> String {
    let answer = json!({
        "version": berth_version::VERSION,
        "commit": berth_version::COMMIT,
        "ok": status(findings) == 0,
        "findings": findings,
    });
    format!("{answer:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 2] {
        let missing = Finding::new("kernel", "openat2", Status::Missing, "Linux 5.4");
        [
            Finding::new("kernel", "release", Status::Ok, "6.1"),
            missing.because("each path is resolved by it", "update the kernel"),
        ]
    }

    #[test]
    fn report_says_why_and_what_to_do() {
        let want = "kernel\n  ok       release  6.1\n  missing  openat2  Linux 5.4\n           why: each path is resolved by it\n           \
                    do: update the kernel\nberth does not work here: 1 missing, 0 warnings\n";
        assert_eq!(text(&findings()), want);
    }

    #[test]
    fn report_for_programs_has_the_same_facts() {
        let answer: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!((&answer["ok"], &answer["findings"][1]["status"]), (&json!(false), &json!("missing")));
        assert_eq!(answer["findings"][1]["todo"], "update the kernel");
    }
}
