//! [`Output`]: the result of a call of a runtime.

use serde_json::Value;

/// The result of a call: the exit status as a shell has it (128 + signal), and both streams.
#[derive(Debug)]
pub struct Output {
    /// The arguments after the global options.
    pub words: String,
    /// The exit status, or 128 plus the number of a signal.
    pub code: i32,
    /// The kernel has written a core dump of the runtime.
    pub dumped: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the call succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Fails the test unless the call failed with this exit status and standard error has all of these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }

    /// Returns the last line of standard output that is a JSON object, such as the probe's report.
    #[track_caller]
    pub fn json(&self) -> Value {
        let object = |l: &str| serde_json::from_str::<Value>(l.trim()).ok().filter(Value::is_object);
        let found = self.stdout.lines().rev().find_map(object).or_else(|| object(&self.stdout));
        found.unwrap_or_else(|| panic!("no JSON in {self:#?}"))
    }
}
