//! Compression. The first bytes of a stream tell its format; a media type or a name is often wrong and never needed.

use std::io::{self, BufRead, Read};

use berth_runtime::{Error, Result};
use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use crate::limits;

/// The compression of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// No known compression.
    Plain,
    /// gzip (RFC 1952), with any number of members.
    Gzip,
    /// Zstandard (RFC 8878), with any number of frames.
    Zstd,
    /// bzip2, which is not supported.
    Bzip2,
    /// xz, which is not supported.
    Xz,
}

impl Format {
    /// Tells the format by the first bytes of a stream.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    /// A reader of the uncompressed bytes of `input`.
    ///
    /// # Errors
    /// The format is not supported.
    pub fn decoder<'a, R: BufRead + 'a>(self, input: &'a mut R) -> Result<Box<dyn Read + 'a>> {
        match self {
            Self::Plain => Ok(Box::new(input)),
            Self::Gzip => Ok(Box::new(Gzip { member: Some(GzDecoder::new(input)) })),
            Self::Zstd => Ok(Box::new(Zstd { input, decoder: FrameDecoder::new(), in_frame: false })),
            Self::Bzip2 => Err(Error::unsupported("compressed by bzip2, which is not supported: use gzip or zstd")),
            Self::Xz => Err(Error::unsupported("compressed by xz, which is not supported: use gzip or zstd")),
        }
    }
}

/// All members of a gzip stream. Zeros after the last one are padding, as for gzip(1); other bytes are an error.
struct Gzip<R> {
    /// `None` after the end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else { return Ok(0) };
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(member) = self.member.take() else { return Ok(0) };
            let mut input = member.into_inner();
            if pass_padding(&mut input)? {
                self.member = Some(GzDecoder::new(input));
            }
        }
    }
}

/// Returns true if another member follows. Otherwise it passes over zeros until the end.
fn pass_padding(input: &mut impl BufRead) -> io::Result<bool> {
    if input.fill_buf()?.first() == Some(&0x1f) {
        return Ok(true);
    }
    loop {
        let rest = input.fill_buf()?;
        if !rest.iter().all(|byte| *byte == 0) {
            return Err(io::Error::other("data follows the end of the gzip stream"));
        }
        let len = rest.len();
        if len == 0 {
            return Ok(false);
        }
        input.consume(len);
    }
}

/// All frames of a Zstandard stream; skippable frames, in which zstd:chunked keeps its table of contents, are passed over.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            self.decoder.set_max_window_size(limits::ZSTD_WINDOW);
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    crate::tar::skip_by_reading(&mut self.input, u64::from(length))?;
                }
                Err(e) => return Err(io::Error::other(format!("zstd: {e}"))),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame {
                let count = self.decoder.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                if !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(|e| io::Error::other(format!("zstd: {e}")))?;
                    continue;
                }
                if self.decoder.can_collect() > 0 {
                    continue;
                }
            }
            self.in_frame = self.next_frame()?;
            if !self.in_frame {
                return Ok(0);
            }
        }
    }
}
