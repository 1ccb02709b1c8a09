//! The version of berth's programs, and the commit that they are built from.
//!
//! The build script finds the commit: in the environment (`BERTH_COMMIT`, for packagers), in the file `commit`, which
//! `git archive` fills in (gitattributes(5), `export-subst`), or in the clone. It reads git's files itself: git refuses a
//! clone of another user, and need not be installed.

#[cfg(test)]
mod find;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit; `None` for a copy of the sources that carries none.
pub const COMMIT: Option<&str> = option_env!("BERTH_BUILD_COMMIT");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_in_a_clone_knows_its_commit() {
        let clone = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.git")).exists();
        assert!(COMMIT.is_some() || !clone);
    }
}
