//! A layer from its blob to the bytes of its tar: digests, decompression and bounds.
//!
//! [`with_layer`] reads in a thread of its own, so that decompression and the file system work at the same time. The
//! digests cover the whole of both streams: a reader of the tar stops at its two blocks of zeros, but writers pad after
//! them, and the digests include that padding.

mod decode;
pub mod digest;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use berth_runtime::{Context, Error, Kind, Result};

pub use self::decode::Format;
use self::digest::{Digest, Hasher};
use crate::tar::{Skip, skip_by_reading};

/// Bytes of one buffer between the two threads.
const CHUNK: usize = 128 << 10;
/// Buffers that may wait for the consumer.
const WAITING: usize = 4;

/// A part of a file: a blob of a layout, or a member of an archive.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl Blob {
    /// The `size` bytes of `file` from `offset` on.
    pub fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self { file, offset, size }
    }

    /// Bytes of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The whole blob, if it has at most `bound` bytes.
    ///
    /// # Errors
    /// The blob is larger, or reading fails.
    pub fn read_all(&self, bound: u64) -> Result<Vec<u8>> {
        if self.size > bound {
            return Err(Error::invalid(format!("{} bytes are more than {bound}", self.size)));
        }
        let mut bytes = Vec::new();
        self.reader().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), position: 0 }
    }
}

/// Reads a blob by pread(2), so that several readers can share its file.
struct BlobReader {
    blob: Blob,
    position: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.blob.size.saturating_sub(self.position);
        let len = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let Some(part) = buffer.get_mut(..len).filter(|part| !part.is_empty()) else { return Ok(0) };
        let count = self.blob.file.read_at(part, self.blob.offset.saturating_add(self.position))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// A reader that hashes what passes.
struct Hashed<R> {
    inner: R,
    hasher: Option<Hasher>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        Ok(count)
    }
}

/// A layer that can be read.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name for messages: a digest, or the name of the archive's member.
    pub name: String,
    /// The bytes as stored.
    pub blob: Blob,
    /// The digest of the bytes as stored, where the image says one.
    pub digest: Option<Digest>,
    /// The digest of the uncompressed bytes.
    pub diff_id: Digest,
}

/// Hands the uncompressed bytes of `layer` to `consume`, and then checks both digests to the very end of the streams.
/// `budget` is the count of uncompressed bytes that may still come; the layer's bytes are subtracted from it.
///
/// # Errors
/// The layer cannot be read or decompressed, a digest differs, the budget is exceeded, or `consume` fails.
pub fn with_layer<T>(layer: &Layer, budget: &mut u64, consume: impl FnOnce(&mut Chunks) -> Result<T>) -> Result<T> {
    let (full, filled) = sync_channel(WAITING);
    let (empty, emptied) = channel();
    let sink = Sink { full, emptied };
    let mut chunks = Chunks { filled, empty, current: Vec::new(), position: 0, ended: false };
    let (consumed, produced) = thread::scope(|scope| {
        // The sink goes with the thread, so that its end is the end of the stream.
        let producer = scope.spawn(move || produce(layer, budget, &sink));
        let consumed = consume(&mut chunks).and_then(|value| chunks.drain().map(|()| value));
        let ended = chunks.ended;
        drop(chunks);
        let produced =
            producer.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the reader of a layer failed")));
        // The consumer meets an early end of the stream where the producer knows the reason.
        (consumed.map_err(|e| (e, ended)), produced)
    });
    match (consumed, produced) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(e)) | (Err((_, true)), Err(e)) => Err(e),
        (Err((e, _)), _) => Err(e),
    }
}

/// The producer's end of the two channels.
struct Sink {
    full: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

/// Reads, decompresses, hashes and sends a whole layer.
fn produce(layer: &Layer, budget: &mut u64, sink: &Sink) -> Result<()> {
    let mut magic = [0; 8];
    let start = layer.blob.reader().read(&mut magic)?;
    let format = Format::of(magic.get(..start).unwrap_or_default());
    // A layer that is stored uncompressed is hashed once where both digests are the same one.
    let stored = layer.digest.as_ref().filter(|digest| format != Format::Plain || **digest != layer.diff_id);
    let hashed = Hashed { inner: layer.blob.reader(), hasher: stored.map(Digest::hasher) };
    let mut input = BufReader::with_capacity(CHUNK, hashed);
    let mut hasher = layer.diff_id.hasher();
    let mut decoder = format.decoder(&mut input)?;
    let sent = send(&mut *decoder, &mut hasher, budget, sink)?;
    drop(decoder);
    if !sent {
        return Ok(());
    }
    io::copy(&mut input, &mut io::sink())?;
    if let (Some(digest), Some(hasher)) = (stored, input.into_inner().hasher) {
        digest.check(hasher)?;
    }
    layer.diff_id.check(hasher).context("uncompressed")
}

/// Sends what `decoder` gives until its end; `false` if the consumer has gone.
fn send(decoder: &mut dyn Read, hasher: &mut Hasher, budget: &mut u64, sink: &Sink) -> Result<bool> {
    loop {
        let mut chunk = sink.emptied.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut len = 0;
        while let Some(rest) = chunk.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match decoder.read(rest) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if len == 0 {
            return Ok(true);
        }
        chunk.truncate(len);
        hasher.update(&chunk);
        *budget = budget
            .checked_sub(len as u64)
            .ok_or_else(|| Error::invalid("the layers have more bytes uncompressed than --max-size allows"))?;
        if sink.full.send(chunk).is_err() {
            return Ok(false);
        }
    }
}

/// The uncompressed bytes of a layer, as its consumer sees them.
#[derive(Debug)]
pub struct Chunks {
    filled: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Chunks {
    /// Reads to the end.
    fn drain(&mut self) -> Result<()> {
        while !self.fill_buf()?.is_empty() {
            self.position = self.current.len();
        }
        Ok(())
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.current.len() && !self.ended {
            let next = self.filled.recv().unwrap_or_default();
            self.ended = next.is_empty();
            // The producer may have gone already.
            let _ = self.empty.send(std::mem::replace(&mut self.current, next));
            self.position = 0;
        }
        Ok(self.current.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.current.len());
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Skip for Chunks {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        skip_by_reading(self, count)
    }
}

#[cfg(test)]
mod tests;
