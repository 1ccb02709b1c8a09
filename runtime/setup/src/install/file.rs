//! Files of the configuration, read and replaced by descriptors of their directories.
//!
//! A new text goes to a temporary file, which is flushed and renamed: a crash leaves the old text or the new one. The
//! last part of a path is never followed if it is a symbolic link: the file behind it may belong to another package.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fsync, openat, renameat, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Most bytes of a file that is changed.
const MOST: u64 = 16 << 20;
/// The mode of a new file.
const MODE: u32 = 0o644;

/// A file as it was read.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Content {
    /// The text.
    pub text: String,
    /// The permission bits.
    pub mode: u32,
    /// The owner and the group.
    pub owner: (u32, u32),
}

impl Content {
    /// A new file of root's.
    pub fn new(text: String) -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { text, mode: MODE, owner: (uid.as_raw(), gid.as_raw()) }
    }
}

/// Reads a regular file; `None` if there is none.
///
/// # Errors
/// Fails for a symbolic link, another kind of file, a file that is not UTF-8, and a file of more than 16 MiB.
pub fn read(path: &Path) -> Result<Option<Content>> {
    let Some((dir, name)) = directory(path)? else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(Error::invalid(format!("{}: is a symbolic link", path.display()))),
        Err(e) => return Err(Error::from(e).context(format!("open {}", path.display()))),
    };
    let stat = fstat(&file).with_context(|| format!("stat {}", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("{}: is not a regular file", path.display())));
    }
    let mut bytes = Vec::new();
    File::from(file).take(MOST + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > MOST {
        return Err(Error::invalid(format!("{}: has more than {MOST} bytes", path.display())));
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{}: is not UTF-8", path.display())))?;
    Ok(Some(Content { text, mode: stat.st_mode & 0o7777, owner: (stat.st_uid, stat.st_gid) }))
}

/// Gives a file this content, owner and mode.
///
/// # Errors
/// As open(2), fchown(2), write(2), fsync(2) and rename(2). The old file is then as it was.
pub fn write(path: &Path, content: &Content) -> Result<()> {
    let what = || format!("write {}", path.display());
    let (dir, name) = directory(path)?.ok_or_else(|| Error::from(Errno::NOENT).context(what()))?;
    let temporary = format!(".{name}.berth-{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR).with_context(what)?;
    let written = fill(file, content)
        .and_then(|()| renameat(&dir, &temporary, &dir, name).map_err(Error::from))
        .and_then(|()| fsync(&dir).map_err(Error::from));
    if written.is_err() {
        let _ = unlinkat(&dir, &temporary, AtFlags::empty()); // the first error is reported
    }
    written.with_context(what)
}

fn fill(file: OwnedFd, content: &Content) -> Result<()> {
    let (uid, gid) = content.owner;
    let stat = fstat(&file)?;
    if (stat.st_uid, stat.st_gid) != content.owner {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // After fchown(2), which clears the set-id bits.
    fchmod(&file, Mode::from_raw_mode(content.mode))?;
    let mut file = File::from(file);
    file.write_all(content.text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Removes a file. One that is gone is no error.
///
/// # Errors
/// As unlink(2).
pub fn remove(path: &Path) -> Result<()> {
    let Some((dir, name)) = directory(path)? else { return Ok(()) };
    match unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) => fsync(&dir).with_context(|| format!("flush the directory of {}", path.display())),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::from(e).context(format!("remove {}", path.display()))),
    }
}

/// Makes a directory and its parents; returns those that it made, the outermost first.
///
/// # Errors
/// As mkdir(2).
pub fn make_directory(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    let mut made = Vec::new();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => made.push(dir.to_owned()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::from(e).context(format!("make directory {}", dir.display()))),
        }
    }
    Ok(made)
}

/// The directory of a path and the name in it; `None` if there is no such directory.
fn directory(path: &Path) -> Result<Option<(OwnedFd, &str)>> {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(parent), Some(name)) = (path.parent(), name) else {
        return Err(Error::invalid(format!("{}: names no file", path.display())));
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(dir) => Ok(Some((dir, name))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::from(e).context(format!("open {}", parent.display()))),
    }
}
