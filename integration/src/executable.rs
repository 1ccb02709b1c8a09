//! Programs that tests put in place.
//!
//! They are written by a process of their own. A file that this process writes may be inherited, still open, by a child
//! that another test's thread is just making; until that child executes its program nobody can execute the file
//! (execve(2), ETXTBSY).

use std::path::Path;
use std::process::Command;

use crate::command;
use crate::wait::LONG;

/// Copies the program at `from` to `to`, executable for everybody.
pub fn copy(from: &Path, to: &Path) {
    command::run(Command::new("install").args(["-m", "0755"]).arg(from).arg(to), LONG).ok();
}

/// Writes `content`, a script with its first line, to `to` with this mode.
pub fn write(to: &Path, content: &str, mode: u32) {
    let mode = format!("{mode:04o}");
    command::feed(Command::new("install").args(["-m", &mode, "/dev/stdin"]).arg(to), content.as_bytes(), LONG).ok();
}
