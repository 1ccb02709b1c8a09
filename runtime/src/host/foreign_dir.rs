//! Writes files in directories that other users may write to: one is replaced atomically, another one is appended to.
//!
//! Another user could create a symbolic link under a predictable name, and so direct the caller to a file that only the
//! caller may write. So a new file has an unpredictable name and must not exist before. A link is followed only if root
//! or the caller created it.

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

/// Most links that the kernel follows for one path (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The uid that the kernel shows for an owner without a mapping in the user namespace (user_namespaces(7)).
const OVERFLOW: u32 = 65534;

/// Writes a temporary file in the same directory and renames it to `path`. Replaces an existing file or symbolic link.
///
/// # Errors
/// As open(2), write(2) and rename(2). The temporary file is then removed.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let temporary = path.with_file_name(temporary_name(name));
    // O_CREAT with O_EXCL follows no symbolic link (open(2)).
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the first error is reported
    }
    written
}

/// Returns a hidden name that other users cannot predict: a hasher's state starts with random bytes of the kernel.
fn temporary_name(name: &std::ffi::OsStr) -> std::ffi::OsString {
    let random = RandomState::new().build_hasher().finish();
    let mut temporary = std::ffi::OsString::from(format!(".{random:016x}."));
    // A file name has at most 255 bytes.
    temporary.push(std::ffi::OsStr::from_bytes(name.as_bytes().get(..200).unwrap_or(name.as_bytes())));
    temporary
}

/// Opens a file for appending, and creates it if it does not exist.
///
/// # Errors
/// As open(2). `ELOOP` for a symbolic link that neither root nor the caller created.
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
            // A link in procfs leads to an open file, whatever its text says, and no user can create links there.
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

/// Returns true if links of this owner are followed: root's and the caller's own. In a user namespace root of the host
/// shows as the overflow uid, like all other unmapped users.
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
    fn write_whole_replaces_a_link_instead_of_following_it() {
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
        // The temporary name of a long name is shortened to fit.
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
    fn temporary_names_beside_a_file_differ() {
        let name = || temporary_name("pid".as_ref()).into_string().unwrap();
        let (one, other) = (name(), name());
        assert!(one != other && one.starts_with('.') && one.ends_with(".pid") && one.len() == 21, "{one} {other}");
    }

    #[test]
    fn append_follows_only_links_of_root_or_the_caller() {
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
