//! Writes files in directories that other users may write to: one is replaced atomically, another one is appended to.
//!
//! Another user could create a symbolic link under a predictable name, and so direct the caller to a file that only the
//! caller may write. So a new file has an unpredictable name and must not exist before. A link is followed only if root
//! or the caller created it, also on the way to the file.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat},
    io::Errno,
};

use crate::host::caller;

/// Most links that the kernel follows for one path (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The uid that the kernel shows for an owner without a mapping in the user namespace (user_namespaces(7)).
const OVERFLOW: u32 = 65534;
/// The flags for a directory on the way.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Writes a temporary file in the same directory and renames it to `path`. Replaces an existing file or symbolic link.
/// No other user may write to the directories of the path.
///
/// # Errors
/// As open(2), write(2) and rename(2). The temporary file is then removed.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_at(CWD, path, bytes, mode)
}

/// As [`write_whole`], where other users may write to the directories of the path.
///
/// # Errors
/// As [`write_whole`]. `ELOOP` if a symbolic link on the way belongs neither to root nor to the caller.
pub fn write_beside_others(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = open(parent, DIRECTORY, Mode::empty())?;
    // The temporary file and its final name are in the same directory, whatever the path leads to by now.
    write_at(parent.as_fd(), Path::new(file_name(path)?), bytes, mode)
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

fn write_at(dir: BorrowedFd<'_>, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_file_name(temporary_name(file_name(path)?));
    // O_CREAT with O_EXCL follows no symbolic link (open(2)).
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, &temporary, flags, Mode::from_raw_mode(mode))?);
    let written = file.write_all(bytes).and_then(|()| Ok(renameat(dir, &temporary, dir, path)?));
    if written.is_err() {
        let _ = unlinkat(dir, &temporary, AtFlags::empty()); // the first error is reported
    }
    written
}

/// Returns a hidden name that other users cannot predict: a hasher's state starts with random bytes of the kernel.
fn temporary_name(name: &OsStr) -> OsString {
    let random = RandomState::new().build_hasher().finish();
    let mut temporary = OsString::from(format!(".{random:016x}."));
    // A file name has at most 255 bytes.
    temporary.push(OsStr::from_bytes(name.as_bytes().get(..200).unwrap_or(name.as_bytes())));
    temporary
}

/// Opens a file for appending, and creates it if it does not exist.
///
/// # Errors
/// As open(2). `ELOOP` for a symbolic link, at the path or on the way, that neither root nor the caller created.
pub fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o666)).map(File::from)
}

/// Opens a file. Most paths have no link, which one call shows; else each link is checked before it is followed.
fn open(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    match openat2(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::LOOP) => open_through_links(path, flags, mode),
        opened => Ok(opened?),
    }
}

/// Walks the path one component at a time. A link is replaced by its target, whose components are walked like the rest.
fn open_through_links(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let start = |path: &Path| {
        let at = if path.is_absolute() { c"/" } else { c"." };
        openat(CWD, at, DIRECTORY, Mode::empty())
    };
    let mut dir = start(path)?;
    let mut rest = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        let last = rest.is_empty();
        let (flags, mode) = if last { (flags, mode) } else { (DIRECTORY, Mode::empty()) };
        match openat(&dir, &name, flags | OFlags::NOFOLLOW, mode) {
            // With O_DIRECTORY, a link is no directory.
            Err(Errno::LOOP | Errno::NOTDIR) => {}
            opened if last => return Ok(opened?),
            opened => {
                dir = opened?;
                continue;
            }
        }
        let link = openat(&dir, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&link)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(Errno::NOTDIR.into());
        }
        links += 1;
        if links > MAX_LINKS || !is_trusted(stat.st_uid) {
            return Err(Errno::LOOP.into());
        }
        if is_proc(&link)? {
            // A link in procfs leads to an open file, whatever its text says, and no user can create links there.
            let opened = openat(&dir, &name, flags, mode)?;
            if last {
                return Ok(opened);
            }
            dir = opened;
            continue;
        }
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            dir = start(&target)?;
        }
        let mut names = names(&target);
        names.append(&mut rest);
        rest = names;
    }
    // The path leads to the root.
    Ok(openat(&dir, c".", flags, mode)?)
}

/// Returns the components of a path but for the root.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter(|part| !matches!(part, std::path::Component::RootDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
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
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("berth-foreign-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn entries(dir: &Path) -> usize {
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
        assert_eq!((fs::read_to_string(&victim).unwrap().as_str(), entries(&dir)), ("untouched", 2));
        // The temporary name of a long name is shortened to fit.
        write_whole(&dir.join("n".repeat(255)), b"x", 0o600).unwrap();
        assert_eq!(entries(&dir), 3);
        fs::create_dir_all(dir.join("dir/full")).unwrap();
        assert!(
            write_whole(&dir.join("dir"), b"x", 0o600).is_err() && write_whole(Path::new("/"), b"x", 0o600).is_err()
        );
        assert_eq!(entries(&dir), 4, "nothing is left of one that failed");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn temporary_names_beside_a_file_differ() {
        let name = || temporary_name("pid".as_ref()).into_string().unwrap();
        let (one, other) = (name(), name());
        assert!(one != other && one.starts_with('.') && one.ends_with(".pid") && one.len() == 21, "{one} {other}");
    }

    #[test]
    fn directory_behind_a_link_of_another_user_is_not_written_to() {
        let dir = scratch("way");
        fs::create_dir_all(dir.join("real/deep")).unwrap();
        symlink("real", dir.join("link")).unwrap();
        symlink(dir.join("link/deep/.."), dir.join("round")).unwrap();
        let write = |path: &str| {
            let path = dir.join(path);
            append(&path).and_then(|_| write_beside_others(&path, b"x", 0o600)).map_err(|e| e.raw_os_error())
        };
        for path in ["link/one", "round/two", "link/../real/deep/three", "real/deep/../four"] {
            assert_eq!(write(path), Ok(()), "{path}");
        }
        assert_eq!((entries(&dir.join("real")), entries(&dir.join("real/deep"))), (4, 1));
        assert_eq!(write("real/one/more"), Err(Some(libc::ENOTDIR)));
        if caller::uid() == 0 {
            std::os::unix::fs::lchown(dir.join("link"), Some(4711), None).unwrap();
            for path in ["link/five", "round/five", "link/deep/five"] {
                assert_eq!(write(path), Err(Some(libc::ELOOP)), "{path}");
            }
            assert_eq!((entries(&dir.join("real")), entries(&dir.join("real/deep"))), (4, 1));
        }
        fs::remove_dir_all(&dir).unwrap();
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
