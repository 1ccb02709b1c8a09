//! The standard output of the commands.

use std::io::{ErrorKind, Write};

use berth_runtime::{Context, Result};

/// Writes a help text to stdout, as far as possible.
pub fn print(text: &str) {
    let _ = write(text);
}

/// Writes the answer of a command to stdout. A closed pipe is not an error.
///
/// # Errors
/// As write(2): an answer on a full disk is none.
pub fn answer(text: &str) -> Result<()> {
    match write(text) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("write to stdout"),
        _ => Ok(()),
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
