//! Finds CRIU, and files that command it.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{Context, Error, Kind, Result};

/// The variable that names CRIU's program.
pub const VARIABLE: &str = "BERTH_CRIU";

/// The directories of the system's programs. The caller's PATH does not count, because CRIU runs with all rights.
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Returns the path of CRIU: the one that `$BERTH_CRIU` names, or the first in the directories of the system.
///
/// # Errors
/// [`Kind::NotFound`] if there is none. [`Kind::InvalidArgument`] if another user than root could have written it.
pub fn criu() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return trusted(&path).with_context(|| format!("${VARIABLE}: {}", path.display()));
    }
    let mut places = DIRECTORIES.iter().map(|dir| Path::new(dir).join("criu"));
    match places.find(|path| path.is_file()) {
        Some(path) => trusted(&path).with_context(|| path.display().to_string()),
        None => {
            let text = format!("criu is not installed: it is not in {} (or set {VARIABLE})", DIRECTORIES.join(", "));
            Err(Error::new(Kind::NotFound, text))
        }
    }
}

/// Returns the path of a file without symbolic links, if only root can have written the file and its path.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the directory or file that another user could change.
pub fn trusted(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize()?;
    for part in path.ancestors() {
        let meta = part.metadata()?;
        let mode = meta.mode();
        // Only root can remove a file of root from a directory with the sticky bit.
        let sticky = meta.is_dir() && mode & libc::S_ISVTX != 0;
        if meta.uid() != 0 || (mode & 0o022 != 0 && !sticky) {
            return Err(Error::invalid(format!("another user than root can write to {}", part.display())));
        }
    }
    if !path.is_file() {
        return Err(Error::invalid("not a regular file"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_another_user_can_write_is_not_trusted() {
        assert_eq!(trusted(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh").canonicalize().unwrap());
        assert_eq!(trusted(Path::new("/no/such")).unwrap_err().errno(), Some(libc::ENOENT));
        assert!(trusted(Path::new("/etc")).unwrap_err().to_string().contains("not a regular file"));
        let path = std::env::temp_dir().join(format!("berth-criu-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = trusted(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("can write to"), "{error}");
    }
}
