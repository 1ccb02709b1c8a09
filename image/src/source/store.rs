//! The files of a source, by name: a directory, or the members of a tar.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use berth_runtime::{Context, Error, Kind, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::{
    apply::components,
    limits,
    stream::{Blob, Format},
    tar,
    text::escaped,
};

/// A source.
#[derive(Debug)]
pub enum Store {
    /// A directory.
    Directory(OwnedFd),
    /// An archive.
    Archive(Archive),
}

/// A tar and its members by name.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Clone, Debug)]
enum Member {
    /// Offset and size of a regular file's data.
    File(u64, u64),
    /// A symbolic link, with its target resolved by text against its own directory.
    Link(Vec<u8>),
}

impl Store {
    /// Opens a directory, or a tar. A tar that cannot be read at any place, or that is compressed as a whole, is first
    /// written to a file without a name in `scratch`, of at most `bound` bytes.
    ///
    /// # Errors
    /// It cannot be read, or is no tar.
    pub fn open(path: &Path, scratch: BorrowedFd<'_>, bound: u64) -> Result<Self> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("open")?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Directory {
            return Ok(Self::Directory(file));
        }
        let file = spooled(File::from(file), scratch, bound)?;
        Ok(Self::Archive(Archive::read(file)?))
    }

    /// The directory, where the source is one.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Directory(directory) => Some(directory.as_fd()),
            Self::Archive(_) => None,
        }
    }

    /// Returns true if the source has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.blob(name).is_ok()
    }

    /// A file of the source. One symbolic link is followed in a tar: docker saves a layer that stands twice so.
    ///
    /// # Errors
    /// There is no such file, or it is none.
    pub fn blob(&self, name: &str) -> Result<Blob> {
        match self {
            Self::Directory(directory) => of_directory(directory.as_fd(), name),
            Self::Archive(archive) => archive.blob(name),
        }
        .with_context(|| escaped(name.as_bytes()))
    }

    /// A JSON document of the source.
    ///
    /// # Errors
    /// There is no such file, or it is too large.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        self.blob(name)?.read_all(limits::JSON).with_context(|| escaped(name.as_bytes()))
    }
}

/// Opens a file below a layout's directory: a regular one, without leaving the directory by links.
fn of_directory(directory: BorrowedFd<'_>, name: &str) -> Result<Blob> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
        .map_err(|e| if e == rustix::io::Errno::NOENT { missing() } else { e.into() })?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("it is no regular file"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    Ok(Blob::new(Arc::new(File::from(fd)), 0, size))
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "it is missing in the image")
}

impl Archive {
    fn read(file: File) -> Result<Self> {
        let file = Arc::new(file);
        let mut reader = tar::of_file(file.try_clone().context("duplicate a descriptor")?)?;
        let mut members = HashMap::new();
        let mut names = 0usize;
        while let Some(entry) = reader.next_entry().context("the image is no tar, or a damaged one")? {
            names = names.saturating_add(entry.name.len()).saturating_add(entry.link.len());
            if members.len() == limits::ARCHIVE_MEMBERS || names > limits::ARCHIVE_NAMES {
                return Err(Error::invalid("the tar of the image has too many members"));
            }
            let name = clean(&entry.name);
            let member = match entry.kind {
                tar::Kind::File => Member::File(reader.position(), entry.size),
                tar::Kind::Symlink => Member::Link(beside(&name, &entry.link)),
                tar::Kind::HardLink => Member::Link(clean(&entry.link)),
                _ => continue,
            };
            members.insert(name, member);
        }
        Ok(Self { file, members })
    }

    fn blob(&self, name: &str) -> Result<Blob> {
        let member = self.members.get(&clean(name.as_bytes())).ok_or_else(missing)?;
        let member = match member {
            Member::Link(target) => self.members.get(target).ok_or_else(missing)?,
            Member::File(..) => member,
        };
        match member {
            Member::File(offset, size) => Ok(Blob::new(self.file.clone(), *offset, *size)),
            Member::Link(_) => Err(Error::invalid("it is a link to a link")),
        }
    }
}

/// A member's name without `.`, `..` and empty components.
fn clean(name: &[u8]) -> Vec<u8> {
    components(name).join(&b'/')
}

/// The target of a symbolic link at `name`.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let end = name.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let directory = if target.starts_with(b"/") { &[] } else { name.get(..end).unwrap_or_default() };
    clean(&[directory, target].concat())
}

/// The file itself if it is an uncompressed regular one, else a copy of its uncompressed bytes.
fn spooled(mut file: File, scratch: BorrowedFd<'_>, bound: u64) -> Result<File> {
    let is_regular = file.metadata()?.is_file();
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(8).read_to_end(&mut start).context("read")?;
    let format = Format::of(&start);
    if format == Format::Plain && is_regular {
        return Ok(file);
    }
    let copy =
        rustix::fs::openat(scratch, c".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .context("make a temporary file in the bundle")?;
    let mut copy = File::from(copy);
    let mut input = BufReader::new(start.chain(file));
    let copied = std::io::copy(&mut format.decoder(&mut input)?.take(bound.saturating_add(1)), &mut copy)
        .context("uncompress the image")?;
    if copied > bound {
        return Err(Error::invalid("the image has more bytes uncompressed than --max-size allows"));
    }
    copy.flush()?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_by_text() {
        assert_eq!(clean(b"./a//b/../c/"), b"a/c");
        assert_eq!(beside(b"id/layer.tar", b"../x.tar"), b"x.tar");
        assert_eq!(beside(b"layer.tar", b"x.tar"), b"x.tar");
        assert_eq!(beside(b"id/layer.tar", b"/x.tar"), b"x.tar");
        assert_eq!(beside(b"id/layer.tar", b"../../../x.tar"), b"x.tar");
    }
}
