//! The judgement of an outcome: after a fault the runtime must fail with an error that names the operation, or make the
//! container of a run without the fault.

use crate::{
    comparison::{Seen, differences},
    runtime::Output,
};

/// The end of a run with a fault, if nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The runtime failed with an error.
    Refused,
    /// The runtime succeeded, and the container is that of a run without the fault.
    Same,
    /// As `Same`, and the runtime warned.
    Warned,
    /// The order came to a call that cannot fail so.
    Spared,
    /// The language's library ended the program: it has no memory for a thread's signal stack or for the heap.
    NoMemory,
    /// The process was killed, or held and killed, and nothing was left after `delete --force`.
    Cleared,
}

/// Texts of a program that did not expect the error: a panic, or the debug form of a value.
const UNEXPECTED: [&str; 13] = [
    "panicked",
    "RUST_BACKTRACE",
    "Os {",
    "Err(",
    "Some(",
    "None",
    "Custom {",
    "Error {",
    "Errno",
    "unwrap",
    "unreachable",
    "internal error",
    "berth-fault",
];

/// The last words of Rust's library, where it cannot go on without memory.
const NO_MEMORY: [&str; 3] = [
    "failed to allocate an alternative stack",
    "failed to set up alternative stack guard page",
    "memory allocation of ",
];

/// Returns whether the language's library ended the program for want of memory.
pub fn is_out_of_memory(text: &str) -> bool {
    NO_MEMORY.iter().any(|words| text.contains(words))
}

/// The texts of errors alone, which name no operation.
const BARE: [&str; 12] = [
    "operation not permitted",
    "input/output error",
    "no space left on device",
    "interrupted system call",
    "resource temporarily unavailable",
    "cannot allocate memory",
    "too many open files in system",
    "too many open files",
    "function not implemented",
    "connection timed out",
    "os error",
    "errno",
];

/// Returns whether the runtime has warned that it lost output of the process.
pub fn lost_output(text: &str) -> bool {
    text.contains("copy the std") && text.contains("of the process: ")
}

/// Returns what is wrong with the words of a failed or successful call, or `None`.
pub fn words(out: &Output) -> Option<String> {
    let text = out.stderr.trim();
    // The payload finds its output closed.
    if lost_output(text) {
        return None;
    }
    if let Some(word) = UNEXPECTED.iter().find(|word| text.contains(**word)) {
        return Some(format!("says {word:?}: {text}"));
    }
    // 255 is the status of `run` for a program that cannot be executed.
    if out.code >= 128 && out.code != 255 {
        return Some(format!("was ended by signal {}: {text}", out.code - 128));
    }
    if out.code == 0 {
        return None;
    }
    text.lines().last().map_or_else(|| Some(format!("failed with {} and said nothing", out.code)), unnamed)
}

/// Returns what is wrong with an error's text, or `None`.
pub fn unnamed(last: &str) -> Option<String> {
    let mut rest = last.to_lowercase();
    BARE.iter().for_each(|bare| rest = rest.replace(bare, ""));
    let named = rest.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2).count();
    if let Some(word) = UNEXPECTED.iter().find(|word| last.contains(**word)) {
        return Some(format!("says {word:?}: {last}"));
    }
    // Two words are enough if one of them is a path: `exec /probe`.
    let enough = if rest.contains(" /") { 2 } else { 3 };
    (named < enough).then(|| format!("does not say what failed: {last}"))
}

/// Returns the differences of a container from the one without the fault, in one text, or `None`. A process may have
/// fewer capabilities: as with runc, a kernel that refuses an ambient capability is no error.
pub fn weaker(seen: &Seen, clean: &Seen) -> Option<String> {
    let fewer = |key: &str, seen: &str, clean: &str| {
        let set = |text: &str| text.parse::<u64>().ok();
        key.contains("/caps/") && set(seen).zip(set(clean)).is_some_and(|(seen, clean)| seen & !clean == 0)
    };
    let lines = differences(seen, clean, fewer);
    (!lines.is_empty()).then(|| format!("is another container: {}", lines.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: i32, stderr: &str) -> Option<String> {
        words(&Output { words: String::new(), code, dumped: false, stdout: String::new(), stderr: stderr.into() })
    }

    #[test]
    fn control_words_without_a_subject_are_findings() {
        for bad in
            ["", "berth: Input/output error (os error 5)", "thread 'main' panicked at x.rs: y", "mount: Errno(5)"]
        {
            assert!(said(1, bad).is_some(), "{bad}");
        }
        assert!(said(134, "memory allocation failed").is_some());
        assert_eq!(said(1, "berth run: mount proc at /proc: input/output error"), None);
        assert_eq!(said(0, ""), None);
    }

    #[test]
    fn control_lost_restriction_is_a_difference() {
        let seen = |caps: &str| Seen::from([("init/caps/bounding".to_owned(), caps.to_owned())]);
        assert!(weaker(&seen("1"), &seen("0")).is_some_and(|text| text.contains("init/caps/bounding: 1 instead of 0")));
        assert_eq!(weaker(&seen("0"), &seen("0")), None);
        assert_eq!(weaker(&seen("1"), &seen("3")), None);
        assert!(weaker(&seen("2"), &seen("1")).is_some());
    }
}
