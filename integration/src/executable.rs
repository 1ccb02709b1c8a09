//! Programs that tests put in place.
//!
//! A process of its own writes them. If this process wrote the file, a child that another thread forks at that moment
//! could inherit it open for writing, and the kernel refuses to execute such a file (execve(2), ETXTBSY).

use crate::{command, wait::LONG};
use std::{path::Path, process::Command};

/// Copies the program at `from` to `to`, with mode 0755.
pub fn copy(from: &Path, to: &Path) {
    command::run(Command::new("install").args(["-m", "0755"]).arg(from).arg(to), LONG).ok();
}

/// Writes the script `content`, which begins with its `#!` line, to `to` with this mode.
pub fn write(to: &Path, content: &str, mode: u32) {
    let mode = format!("{mode:04o}");
    command::feed(Command::new("install").args(["-m", &mode, "/dev/stdin"]).arg(to), content.as_bytes(), LONG).ok();
}
