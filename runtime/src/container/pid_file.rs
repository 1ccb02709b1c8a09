//! The pid file that a caller asks for with `--pid-file`.

use std::path::Path;

use crate::{Context, Result, host::foreign_dir};

/// Writes a pid file atomically.
///
/// # Errors
/// As [`foreign_dir::write_beside_others`], with the path.
pub fn write(path: &Path, pid: i32) -> Result<()> {
    foreign_dir::write_beside_others(path, pid.to_string().as_bytes(), 0o644)
        .with_context(|| format!("write pid file {}", path.display()))
}
