//! The list of a pod's containers on the disk, for the action `delete` of the sandbox: their bundles lie elsewhere. Each
//! container has a symbolic link `containers/<id>` in the pod's bundle, whose target is its own bundle.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Result, state::check_id};

/// The directory in the pod's bundle.
const DIRECTORY: &str = "containers";

/// Adds a container.
///
/// # Errors
/// The link cannot be made.
pub fn add(pod: &Path, id: &str, bundle: &Path) -> Result<()> {
    check_id(id)?;
    let dir = pod.join(DIRECTORY);
    let made = match fs::create_dir(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => match std::os::unix::fs::symlink(bundle, dir.join(id)) {
            // The rest of an earlier container with this id.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(dir.join(id)).and_then(|()| std::os::unix::fs::symlink(bundle, dir.join(id)))
            }
            made => made,
        },
    };
    made.with_context(|| format!("list container {id} in {}", dir.display()))
}

/// Removes a container. It is no error if it is not listed.
///
/// # Errors
/// The link cannot be removed.
pub fn remove(pod: &Path, id: &str) -> Result<()> {
    check_id(id)?;
    match fs::remove_file(pod.join(DIRECTORY).join(id)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::from(e).context(format!("unlist container {id}"))),
        _ => Ok(()),
    }
}

/// The ids and bundles of all listed containers.
///
/// # Errors
/// The list cannot be read.
pub fn list(pod: &Path) -> Result<Vec<(String, PathBuf)>> {
    let dir = pod.join(DIRECTORY);
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {}", dir.display()))?,
    };
    let mut members = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if check_id(&id).is_ok()
            && let Ok(bundle) = fs::read_link(entry.path())
        {
            members.push((id, bundle));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn listed_containers_are_found_with_their_bundles() {
        let pod = Scratch::new();
        assert!(list(pod.path()).unwrap().is_empty());
        add(pod.path(), "a", Path::new("/old")).unwrap();
        add(pod.path(), "a", Path::new("/bundles/a")).unwrap();
        add(pod.path(), "b", Path::new("/bundles/b")).unwrap();
        remove(pod.path(), "b").unwrap();
        remove(pod.path(), "b").unwrap();
        assert_eq!(list(pod.path()).unwrap(), [("a".to_owned(), PathBuf::from("/bundles/a"))]);
        assert!(add(pod.path(), "../x", Path::new("/")).is_err() && remove(pod.path(), "..").is_err());
    }
}
