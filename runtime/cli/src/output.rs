//! The standard output of the commands.

use std::io::Write;

/// Writes `text` to stdout. A closed pipe is not an error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
