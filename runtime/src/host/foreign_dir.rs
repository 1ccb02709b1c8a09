//! Files in directories that may be somebody else's: one that is written whole or not at all, and one that is appended to.
//!
//! Whoever may write to such a directory can have a link wait under any name that he can guess, for a file that only the
//! caller may write to. So a new file has a name that nobody can guess and is never one that was there, and a link is
//! followed only if root or the caller made it.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};

use crate::host::caller;

/// The kernel follows as many links for a path (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// What the owner of a file shows as in a user namespace that does not map him (user_namespaces(7)).
const OVERFLOW: u32 = 65534;

/// Writes a file beside its place and renames it there; one that is there is replaced, and if it is a link, the link is.
///
/// # Errors
/// As open(2), write(2) and rename(2); nothing is left then.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let beside = path.with_file_name(beside(name));
    // O_EXCL follows no link (open(2)).
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside); // the error to report is the first
    }
    written
}

/// A hidden name that cannot be guessed: the state of every hasher begins with bytes of the kernel's.
fn beside(name: &std::ffi::OsStr) -> std::ffi::OsString {
    let unguessed = RandomState::new().build_hasher().finish();
    let mut beside = std::ffi::OsString::from(format!(".{unguessed:016x}."));
    // A name has 255 bytes at most.
    beside.push(std::ffi::OsStr::from_bytes(name.as_bytes().get(..200).unwrap_or(name.as_bytes())));
    beside
}

/// Opens a file to be appended to, and makes it where there is none.
///
/// # Errors
/// As open(2); `ELOOP` for a link that neither root nor the caller has made.
pub fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let (mut dir, mut path): (Option<OwnedFd>, PathBuf) = (None, path.to_owned());
    for _ in 0..=MAX_LINKS {
        let at = dir.as_ref().map_or(CWD, AsFd::as_fd);
        match rustix::fs::openat(at, &path, flags | OFlags::NOFOLLOW, mode) {
            Err(Errno::LOOP) => {}
            opened => return Ok(opened?.into()),
        }
        let link = rustix::fs::openat(at, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&link)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || !is_trusted(stat.st_uid) {
            break;
        }
        if is_proc(&link)? {
            // It leads to a file that is open, whatever its text says, and nobody makes links there.
            return Ok(rustix::fs::openat(at, &path, flags, mode)?.into());
        }
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = rustix::fs::openat(at, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        path = PathBuf::from(std::ffi::OsStr::from_bytes(target.as_bytes()));
        dir = Some(parent);
    }
    Err(Errno::LOOP.into())
}

/// Links of this owner are followed: root's, the caller's own, and in a user namespace those of the host's root, which
/// cannot be told from others there.
fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == caller::uid() || owner == OVERFLOW && caller::in_user_namespace()
}

fn is_proc(link: &OwnedFd) -> io::Result<bool> {
    /// `PROC_SUPER_MAGIC` of statfs(2).
    const PROC: i128 = 0x9fa0;
    Ok(i128::from(rustix::fs::fstatfs(link)?.f_type) == PROC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("berth-foreign-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_link_in_its_place_not_followed() {
        let dir = scratch("whole");
        let (path, victim) = (dir.join("pid"), dir.join("victim"));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &path).unwrap();
        for text in ["1", "22"] {
            write_whole(&path, text.as_bytes(), 0o600).unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((fs::read_to_string(&victim).unwrap().as_str(), names(&dir)), ("untouched", 2));
        // A name of full length has room for nothing beside it but a shorter one.
        write_whole(&dir.join("n".repeat(255)), b"x", 0o600).unwrap();
        assert_eq!(names(&dir), 3);
        fs::create_dir_all(dir.join("dir/full")).unwrap();
        assert!(
            write_whole(&dir.join("dir"), b"x", 0o600).is_err() && write_whole(Path::new("/"), b"x", 0o600).is_err()
        );
        assert_eq!(names(&dir), 4, "nothing is left of one that failed");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn no_two_names_beside_a_file_are_the_same() {
        let name = || beside("pid".as_ref()).into_string().unwrap();
        let (one, other) = (name(), name());
        assert!(one != other && one.starts_with('.') && one.ends_with(".pid") && one.len() == 21, "{one} {other}");
    }

    #[test]
    fn a_log_is_appended_to_behind_links_of_ones_own_alone() {
        let dir = scratch("append");
        let path = dir.join("log");
        symlink("one/more", dir.join("link")).unwrap();
        fs::create_dir(dir.join("one")).unwrap();
        symlink(&path, dir.join("one/more")).unwrap();
        for place in ["log", "link", "one/more"] {
            append(&dir.join(place)).unwrap().write_all(b"x").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "xxx");
        let (mut reader, writer) = io::pipe().unwrap();
        let standard = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)));
        append(&standard).unwrap().write_all(b"y").unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "y");
        symlink("round", dir.join("round")).unwrap();
        assert_eq!(append(&dir.join("round")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        if caller::uid() == 0 {
            std::os::unix::fs::lchown(dir.join("link"), Some(4711), None).unwrap();
            assert_eq!(append(&dir.join("link")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
            assert_eq!(fs::read_to_string(&path).unwrap(), "xxx");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
