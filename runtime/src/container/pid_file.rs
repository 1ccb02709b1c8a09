//! The file in which a caller finds the pid of what he asked for (`--pid-file`).

use std::path::Path;

use crate::{Context, Result, host::foreign_dir};

/// Writes a pid file, whole or not at all.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, pid: i32) -> Result<()> {
    foreign_dir::write_whole(path, pid.to_string().as_bytes(), 0o644)
        .with_context(|| format!("write pid file {}", path.display()))
}
