//! The directories of a checkpoint. Everything in them may come from a stranger.
//!
//! A directory is opened once and passed on as a descriptor. CRIU follows symbolic links when it opens a file in it, to
//! read as well as to write, so a directory with any link is refused, but for the link `parent` of its own.

use std::{
    fs::{DirBuilder, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};

use crate::{Context, Error, Result, host::mountinfo};

/// The file with the standard streams of a dumped process; the name is runc's.
const DESCRIPTORS: &str = "descriptors.json";
/// Most bytes of that file.
const MAX_DESCRIPTORS: u64 = 4096;
/// The files that CRIU writes to its own directory.
const WRITTEN: [&str; 4] = ["dump.log", "restore.log", "stats-dump", "stats-restore"];
/// The link to the images of an earlier dump.
const PARENT: &str = "parent";
/// The longest chain of dumps.
const MAX_PARENTS: usize = 64;

/// An opened directory of images or of CRIU's own files.
#[derive(Debug)]
pub struct Images {
    path: PathBuf,
    fd: OwnedFd,
}

impl Images {
    /// Makes the directory with mode 0700 if it is missing, and opens it.
    ///
    /// # Errors
    /// As mkdir(2); as [`Images::open`].
    pub fn make(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("mkdir {}", path.display()))?;
        Self::open(path)
    }

    /// Opens the directory. The last part of the path must not be a symbolic link.
    ///
    /// # Errors
    /// As open(2). [`crate::Kind::InvalidArgument`] if the directory holds a link.
    pub fn open(path: &Path) -> Result<Self> {
        let images = Self::open_any(path)?;
        images.check_all().with_context(|| images.path.display().to_string())?;
        Ok(images)
    }

    /// Makes and opens the directory of CRIU's log. It may be a bundle, which holds other files, so only the names that
    /// CRIU writes must not be links.
    ///
    /// # Errors
    /// As [`Images::make`].
    pub fn make_work(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("mkdir {}", path.display()))?;
        let work = Self::open_any(path)?;
        for name in WRITTEN {
            match statat(&work.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                    let path = work.path.join(name);
                    return Err(Error::invalid(format!("{}: not a regular file", path.display())));
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e).with_context(|| format!("stat {}", work.path.join(name).display())),
            }
        }
        Ok(work)
    }

    /// Returns the path, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory of an earlier dump, by a path relative to this one.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] with the flag, as in runc.
    pub fn check_parent(&self, parent: &Path) -> Result<()> {
        if parent.is_absolute() {
            return Err(Error::invalid(format!("--parent-path must be relative, and not {}", parent.display())));
        }
        Self::open(&self.path.join(parent))
            .map(drop)
            .map_err(|e| Error::invalid(format!("invalid --parent-path {}: {e}", parent.display())))
    }

    fn open_any(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("open {}", path.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))?;
        refuse_other_writers(fd.as_fd()).with_context(|| path.display().to_string())?;
        Ok(Self { path, fd })
    }

    /// Checks the directory, and those of the earlier dumps: CRIU reads images by the link or directory `parent`, again and
    /// again.
    fn check_all(&self) -> Result<()> {
        refuse_links(self.fd.as_fd())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut last: Option<OwnedFd> = None;
        for _ in 0..MAX_PARENTS {
            let dir = last.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let next = match openat(dir, PARENT, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => return Ok(()),
                next => next.context("open \"parent\"")?,
            };
            refuse_other_writers(next.as_fd()).and_then(|()| refuse_links(next.as_fd())).context("parent")?;
            last = Some(next);
        }
        Err(Error::invalid(format!("more than {MAX_PARENTS} parents")))
    }

    /// Writes the standard streams of a process: as links of /proc name them, or as CRIU names a file of the host
    /// ([`outer_file`]).
    ///
    /// # Errors
    /// As readlink(2) and write(2).
    pub fn write_descriptors(&self, links: &[String; 3]) -> Result<()> {
        let json = serde_json::to_vec(links).map_err(|e| Error::new(crate::Kind::Internal, e.to_string()))?;
        let write = || -> Result<()> {
            match unlinkat(&self.fd, DESCRIPTORS, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&self.fd, DESCRIPTORS, flags, Mode::RUSR | Mode::WUSR)?;
            Ok(File::from(file).write_all(&json)?)
        };
        write().with_context(|| format!("write {}", self.path.join(DESCRIPTORS).display()))
    }

    /// Reads the standard streams that a dumped process had.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] unless the file is a list of three texts.
    pub fn read_descriptors(&self) -> Result<[String; 3]> {
        let read = || -> Result<[String; 3]> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(&self.fd, DESCRIPTORS, flags, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
                return Err(Error::invalid("not a regular file"));
            }
            let mut json = Vec::new();
            File::from(file).take(MAX_DESCRIPTORS + 1).read_to_end(&mut json)?;
            if u64::try_from(json.len()).is_ok_and(|length| length > MAX_DESCRIPTORS) {
                return Err(Error::invalid(format!("larger than {MAX_DESCRIPTORS} bytes")));
            }
            serde_json::from_slice(&json).map_err(|e| Error::invalid(e.to_string()))
        };
        read().with_context(|| format!("read {}", self.path.join(DESCRIPTORS).display()))
    }
}

impl AsFd for Images {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Refuses a directory in which another user could put a link while CRIU works.
fn refuse_other_writers(dir: BorrowedFd<'_>) -> Result<()> {
    let stat = fstat(dir)?;
    let own = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if own && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::invalid("another user can write to the directory"))
}

fn refuse_links(dir: BorrowedFd<'_>) -> Result<()> {
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink if name.as_bytes() == PARENT.as_bytes() => {
                let target = rustix::fs::readlinkat(dir, &name, Vec::new())?;
                let target = PathBuf::from(String::from_utf8_lossy(target.as_bytes()).into_owned());
                let plain = |part| matches!(part, Component::Normal(_) | Component::ParentDir | Component::CurDir);
                if !target.components().all(plain) {
                    return Err(Error::invalid("the link \"parent\" is not relative"));
                }
            }
            _ => {
                let name = name.to_string_lossy();
                return Err(Error::invalid(format!("{name:?} is neither a regular file nor a directory")));
            }
        }
    }
    Ok(())
}

/// Returns the names of the standard streams of a process. A stream that is closed has an empty name.
///
/// # Errors
/// As open(2) of files in /proc.
pub fn streams_of(pid: i32) -> Result<[String; 3]> {
    let path = format!("/proc/{pid}/mountinfo");
    let mounts = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    let stream = |n| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{n}")).unwrap_or_default();
        outer_file(pid, n, &mounts).unwrap_or_else(|| link.to_string_lossy().into_owned())
    };
    Ok([0, 1, 2].map(stream))
}

/// Returns CRIU's name for a file that lies on no mount of the container: `file[MOUNT:INODE]`, in hexadecimal. A caller
/// may give the null device or a log file of the host as a standard stream.
fn outer_file(pid: i32, number: i32, mounts: &[u8]) -> Option<String> {
    /// The major number of the memory devices, such as /dev/null (devices.txt of the kernel).
    const MEMORY: u32 = 1;
    let stat = rustix::fs::stat(format!("/proc/{pid}/fd/{number}")).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::CharacterDevice if rustix::fs::major(stat.st_rdev) == MEMORY => {}
        _ => return None,
    }
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let inside = mountinfo::lines(mounts).any(|line| line.id == mount.as_bytes());
    let mount: u32 = mount.parse().ok()?;
    (!inside).then(|| format!("file[{mount:x}:{:x}]", stat.st_ino))
}

/// Returns true for the name of a pipe, such as `pipe:[4026]`, or of a file of the host. A restore replaces both.
pub fn is_replaced(name: &str) -> bool {
    let within = |start| name.strip_prefix(start).and_then(|rest| rest.strip_suffix(']'));
    let number = |text: &str, radix| {
        !text.is_empty() && text.len() <= 20 && text.chars().all(|c| c.is_digit(radix) && !c.is_ascii_uppercase())
    };
    let pipe = within("pipe:[").is_some_and(|inode| number(inode, 10));
    let file = || within("file[").and_then(|pair| pair.split_once(':'));
    pipe || file().is_some_and(|(mount, inode)| number(mount, 16) && number(inode, 16))
}

/// Returns true for the name of a file of the host.
pub fn is_outer_file(name: &str) -> bool {
    is_replaced(name) && name.starts_with("file[")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_pipes_and_files_of_the_host_are_replaced() {
        assert!(is_replaced("pipe:[0]") && is_replaced("pipe:[123456]") && is_replaced("file[1f:4]"));
        assert!(is_outer_file("file[1f:4]") && !is_outer_file("pipe:[0]"));
        for other in [
            "",
            "pipe:[]",
            "pipe:[1",
            "pipe:[a]",
            "pipe:[-1]",
            "socket:[1]",
            "/dev/null",
            "pipe:[1]\n",
            "file[1f]",
            "file[:4]",
            "file[1F:4]",
            "extRootNetNS",
        ] {
            assert!(!is_replaced(other), "{other}");
        }
    }

    #[test]
    fn image_directory_of_a_stranger_is_refused() {
        let top = std::env::temp_dir().join(format!("berth-images-{}", std::process::id()));
        let dir = top.join("images");
        let images = Images::make(&dir).unwrap();
        let pid = std::process::id().try_into().unwrap();
        images.write_descriptors(&streams_of(pid).unwrap()).unwrap();
        assert_eq!(images.read_descriptors().unwrap().len(), 3);
        for (json, says) in
            [("[\"a\",\"b\"]".to_owned(), "length 2"), ("{}".to_owned(), "invalid type"), ("1".repeat(4097), "larger")]
        {
            std::fs::write(dir.join(DESCRIPTORS), json).unwrap();
            let error = images.read_descriptors().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        symlink("../images", dir.join("parent")).unwrap();
        assert!(Images::open(&dir).unwrap_err().to_string().contains("more than 64 parents"));
        std::fs::remove_file(dir.join("parent")).unwrap();
        std::fs::create_dir(dir.join("parent")).unwrap();
        Images::open(&dir).unwrap();
        symlink("/etc/passwd", dir.join("parent/pages-1.img")).unwrap();
        assert!(Images::open(&dir).unwrap_err().to_string().contains("pages-1.img"));
        std::fs::remove_dir_all(dir.join("parent")).unwrap();
        let mode = |mode| std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o770);
        assert!(Images::open(&dir).unwrap_err().to_string().contains("another user can write"));
        mode(0o700);
        for (name, target, says) in [("parent", "/etc", "not relative"), ("pages-1.img", "/etc/passwd", "pages-1.img")]
        {
            let _ = std::fs::remove_file(dir.join(name));
            symlink(target, dir.join(name)).unwrap();
            let error = Images::open(&dir).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        symlink(&dir, top.join("link")).unwrap();
        assert!(Images::open(&top.join("link")).is_err());
        assert!(images.check_parent(&dir).unwrap_err().to_string().contains("--parent-path"));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
