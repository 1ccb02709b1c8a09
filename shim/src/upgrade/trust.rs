//! Which programs a server executes in its own place: files of root, on a path that root alone can change. The path is
//! walked by descriptors, and the descriptor at its end is the program from then on.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path},
};

use berth_runtime::{Context, Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// Opens a program.
///
/// # Errors
/// The path is relative or does not exist; or it names no regular file that can be executed. Or another user than root
/// owns the file or a directory above it, or others may write to it: the message names it.
pub fn open(path: &Path) -> Result<File> {
    if !path.is_absolute() {
        return Err(Error::invalid("the path is not absolute"));
    }
    // Links are resolved first. The walk follows none, so a link that is made meanwhile fails it.
    let path = path.canonicalize().context("resolve the path")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(CWD, "/", flags, Mode::empty()).context("open /")?;
    check(&directory, Path::new("/"))?;
    let mut walked = std::path::PathBuf::from("/");
    let mut names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut name = names.next().ok_or_else(|| Error::invalid("/ is a directory"))?;
    for next in names {
        walked.push(name);
        directory =
            openat(&directory, name, flags, Mode::empty()).with_context(|| format!("open {}", walked.display()))?;
        check(&directory, &walked)?;
        name = next;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd =
        openat(&directory, name, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))?;
    let mode = check(&file, &path)?;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("{} is no regular file", path.display())));
    }
    if mode & 0o111 == 0 {
        return Err(Error::invalid(format!("{} is not executable", path.display())));
    }
    Ok(file.into())
}

/// Reports whether this process runs from the file.
pub fn is_own(file: &File) -> bool {
    let (Ok(file), Ok(own)) = (fstat(file), rustix::fs::stat("/proc/self/exe")) else { return false };
    (file.st_dev, file.st_ino) == (own.st_dev, own.st_ino)
}

/// Returns the mode.
fn check(file: impl AsFd, path: &Path) -> Result<u32> {
    let stat = fstat(file).with_context(|| format!("stat {}", path.display()))?;
    if stat.st_uid != 0 {
        return Err(Error::invalid(format!("{} is not owned by root, but by uid {}", path.display(), stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(Error::invalid(format!("{} is writable by others than root (mode {mode:o})", path.display())));
    }
    Ok(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_others_may_replace_is_not_trusted() {
        let says = |path: &Path, word: &str| {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(word), "{}: {error}", path.display());
        };
        open(Path::new("/bin/sh")).unwrap();
        says(Path::new("bin/sh"), "not absolute");
        says(Path::new("/"), "directory");
        says(Path::new("/usr"), "no regular file");
        says(Path::new("/etc/passwd"), "not executable");
        says(Path::new("/bin/no-such-program"), "resolve the path");
        // The directory of temporary files is everyone's.
        let scratch = crate::testing::Scratch::new();
        let program = scratch.path().join("program");
        std::fs::write(&program, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        says(&program, "writable by others than root");
    }
}
