//! A reader of tar archives: ustar, PAX records and GNU long names, as layers of images have them.
//!
//! Sizes follow one rule: a PAX `size` record wins over the header's field, and a member whose type has no data has none
//! whatever its header says, as in Go's archive/tar, with which images are made and scanned. A reader with another rule
//! reads members out of the data of others (CVE-2025-62518, CVE-2026-33055). Sparse members, unknown types and headers
//! with a wrong checksum are errors.

mod header;
mod pax;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
};

use berth_runtime::{Context, Error, Result};

use self::{header::Raw, pax::Records};
use crate::{limits, text::escaped};

/// Bytes of a block.
const BLOCK: u64 = 512;

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A hard link to [`Entry::link`].
    HardLink,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// A directory.
    Directory,
    /// A character device with its major and minor numbers.
    Character(u32, u32),
    /// A block device with its major and minor numbers.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A point in time: seconds since the epoch and nanoseconds (0 to 999,999,999) after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds, negative before the epoch.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// A member of an archive, without its data.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name as the archive has it.
    pub name: Vec<u8>,
    /// The type.
    pub kind: Kind,
    /// The target of a link; empty otherwise.
    pub link: Vec<u8>,
    /// Bytes of data that follow; 0 unless the type is [`Kind::File`].
    pub size: u64,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Time,
    /// Time of the last access, if the archive says it.
    pub atime: Option<Time>,
    /// Extended attributes: names and values in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A stream in which bytes can be passed over.
pub trait Skip: Read {
    /// Passes over `count` bytes; a stream that ends before is an error of kind `UnexpectedEof`.
    ///
    /// # Errors
    /// As for reading.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Passes over bytes of a buffered stream by reading them.
pub fn skip_by_reading(stream: &mut impl BufRead, mut count: u64) -> io::Result<()> {
    while count > 0 {
        let available = stream.fill_buf()?.len();
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let step = usize::try_from(count).map_or(available, |count| count.min(available));
        stream.consume(step);
        count -= step as u64;
    }
    Ok(())
}

impl Skip for &[u8] {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        skip_by_reading(self, count)
    }
}

impl Skip for BufReader<File> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let step = i64::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        self.seek_relative(step)?;
        let (at, len) = (self.stream_position()?, self.get_ref().metadata()?.len());
        if at > len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Reads the members of an archive in order.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    /// Bytes of the current member's data that are not read yet.
    data: u64,
    /// Bytes of padding after that data.
    padding: u64,
    /// Bytes of the stream before the next one that is read.
    position: u64,
}

impl<R: Skip> Reader<R> {
    /// Reads an archive from its begin.
    pub fn new(stream: R) -> Self {
        Self { stream, data: 0, padding: 0, position: 0 }
    }

    /// The stream's offset of the current member's data, when none of it has been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The stream, for what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.stream
    }

    /// Passes over the rest of the current member and returns the next one; `None` at the end of the archive: two blocks
    /// of zeros, or the end of the stream in front of a header.
    ///
    /// # Errors
    /// The stream fails or ends within a member, or a header is malformed, unsupported or out of bounds.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut records = Records::default();
        loop {
            let rest = self.data.saturating_add(self.padding);
            self.stream.skip(rest).context("read the data of a member")?;
            self.position = self.position.saturating_add(rest);
            (self.data, self.padding) = (0, 0);
            let Some(raw) = self.header()? else {
                return if records.is_empty() { Ok(None) } else { Err(malformed("it ends after an extended header")) };
            };
            match raw.kind() {
                b'x' => {
                    let text = self.extension(&raw)?;
                    records.read(&text)?;
                }
                b'g' => {
                    self.set_data(raw.size()?);
                }
                b'L' => records.set_path(without_nul(self.extension(&raw)?)),
                b'K' => records.set_link(without_nul(self.extension(&raw)?)),
                _ => {
                    let entry = entry(&raw, records)?;
                    self.set_data(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The data of an extended header.
    fn extension(&mut self, raw: &Raw) -> Result<Vec<u8>> {
        let size = raw.size()?;
        if size > limits::TAR_HEADER {
            return Err(malformed(format!("an extended header of {size} bytes is above {}", limits::TAR_HEADER)));
        }
        self.set_data(size);
        let mut text = Vec::new();
        self.read_to_end(&mut text).context("read an extended header")?;
        Ok(text)
    }

    fn set_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> Result<Option<Raw>> {
        let Some(raw) = self.block()? else { return Ok(None) };
        if !raw.is_zero() {
            raw.check()?;
            return Ok(Some(raw));
        }
        match self.block()? {
            Some(second) if !second.is_zero() => Err(malformed("a member follows a block of zeros")),
            _ => Ok(None),
        }
    }

    /// The next block; `None` if the stream ends in front of it.
    fn block(&mut self) -> Result<Option<Raw>> {
        let mut raw = Raw::default();
        let mut rest = raw.bytes_mut();
        let len = rest.len();
        while !rest.is_empty() {
            match self.stream.read(rest) {
                Ok(0) if rest.len() == len => return Ok(None),
                Ok(0) => return Err(malformed("it ends within a header")),
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("read a header"),
            }
        }
        self.position = self.position.saturating_add(BLOCK);
        Ok(Some(raw))
    }
}

impl<R: Skip + BufRead> Reader<R> {
    /// The buffered part of the current member's data; empty at its end.
    ///
    /// # Errors
    /// As for reading; `UnexpectedEof` if the stream ends within the data.
    pub fn fill(&mut self) -> io::Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let buffer = self.stream.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(self.data).map_or(buffer.len(), |data| data.min(buffer.len()));
        Ok(buffer.get(..len).unwrap_or_default())
    }

    /// Counts `count` bytes that [`Reader::fill`] gave as read.
    pub fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.data = self.data.saturating_sub(count as u64);
        self.position = self.position.saturating_add(count as u64);
    }
}

/// Reads the current member's data.
impl<R: Skip> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.data).map_or(buffer.len(), |data| data.min(buffer.len()));
        let Some(part) = buffer.get_mut(..len).filter(|part| !part.is_empty()) else { return Ok(0) };
        let count = self.stream.read(part)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data = self.data.saturating_sub(count as u64);
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}

/// Combines a header with the extended headers in front of it.
fn entry(raw: &Raw, records: Records) -> Result<Entry> {
    let name = match &records.path {
        Some(path) => path.clone(),
        None => raw.name(),
    };
    build(raw, records, &name).with_context(|| format!("member {}", escaped(&name)))
}

fn build(raw: &Raw, records: Records, name: &[u8]) -> Result<Entry> {
    if records.sparse || raw.kind() == b'S' {
        return Err(Error::unsupported("sparse members are not supported"));
    }
    let kind = match raw.kind() {
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character(raw.major()?, raw.minor()?),
        b'4' => Kind::Block(raw.major()?, raw.minor()?),
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Error::unsupported(format!("type {} is not supported", escaped(&[other])))),
    };
    let link = match kind {
        Kind::HardLink | Kind::Symlink => records.link.unwrap_or_else(|| raw.link()),
        _ => Vec::new(),
    };
    for path in [name, &link] {
        if path.len() >= limits::PATH {
            return Err(malformed(format!("a path of {} bytes", path.len())));
        }
        if path.contains(&0) {
            return Err(malformed("a path with a NUL byte"));
        }
    }
    let size = match (kind, records.size) {
        (Kind::File, Some(size)) => size,
        (Kind::File, None) => raw.size()?,
        _ => 0,
    };
    if i64::try_from(size).is_err() {
        return Err(malformed(format!("a size of {size} bytes")));
    }
    Ok(Entry {
        kind,
        size,
        link,
        mode: raw.mode()?,
        uid: records.uid.map_or_else(|| raw.uid(), Ok)?,
        gid: records.gid.map_or_else(|| raw.gid(), Ok)?,
        mtime: records.mtime.map_or_else(|| raw.mtime(), Ok)?,
        atime: records.atime,
        xattrs: records.xattrs,
        name: name.to_vec(),
    })
}

/// A GNU long name ends with its first NUL byte.
fn without_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// An error about the archive itself.
fn malformed(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(what).context("malformed tar")
}

/// Opens a file as an archive, from its begin.
///
/// # Errors
/// The file cannot be positioned.
pub fn of_file(mut file: File) -> Result<Reader<BufReader<File>>> {
    file.seek(SeekFrom::Start(0)).context("seek")?;
    Ok(Reader::new(BufReader::new(file)))
}

#[cfg(test)]
mod tests;
