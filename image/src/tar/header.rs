//! The 512 bytes of a header block, as POSIX.1-1988 (ustar) and GNU tar lay them out.

use std::ops::Range;

use berth_runtime::Result;

use super::{Time, malformed};

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;

/// A header block.
pub struct Raw([u8; 512]);

impl Default for Raw {
    fn default() -> Self {
        Self([0; 512])
    }
}

impl Raw {
    /// The block, to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Whether all bytes are 0, as at the end of an archive.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn text(&self, range: Range<usize>) -> &[u8] {
        self.field(range).split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Compares the checksum, which old writers computed over signed bytes.
    pub fn check(&self) -> Result<()> {
        let said = number(self.field(CHECKSUM))?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if said == unsigned || said == signed { Ok(()) } else { Err(malformed("a header has a wrong checksum")) }
    }

    /// The type flag.
    pub fn kind(&self) -> u8 {
        self.0.get(KIND).copied().unwrap_or_default()
    }

    /// The name; with the prefix where the magic is that of POSIX (GNU tar has other fields there).
    pub fn name(&self) -> Vec<u8> {
        let (prefix, name) = (self.text(PREFIX), self.text(NAME));
        if self.field(MAGIC) == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    /// The target of a link.
    pub fn link(&self) -> Vec<u8> {
        self.text(LINK).to_vec()
    }

    /// Permission bits, without the type bits that some writers put there.
    pub fn mode(&self) -> Result<u32> {
        let mode = number(self.field(MODE))?;
        u32::try_from(mode & 0o7777).map_err(|_| malformed("a mode that is negative"))
    }

    /// Bytes of data.
    pub fn size(&self) -> Result<u64> {
        u64::try_from(number(self.field(SIZE))?).map_err(|_| malformed("a size that is negative"))
    }

    /// The owner.
    pub fn uid(&self) -> Result<u32> {
        id(self.field(UID), "an owner")
    }

    /// The owning group.
    pub fn gid(&self) -> Result<u32> {
        id(self.field(GID), "a group")
    }

    /// Time of the last modification.
    pub fn mtime(&self) -> Result<Time> {
        Ok(Time { seconds: number(self.field(MTIME))?, nanoseconds: 0 })
    }

    /// The major number of a device.
    pub fn major(&self) -> Result<u32> {
        id(self.field(MAJOR), "a device number")
    }

    /// The minor number of a device.
    pub fn minor(&self) -> Result<u32> {
        id(self.field(MINOR), "a device number")
    }
}

/// An id or a device number. 4294967295 is `-1` to chown(2), so it is no id.
fn id(field: &[u8], what: &str) -> Result<u32> {
    u32::try_from(number(field)?)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| malformed(format!("{what} that is out of range")))
}

/// A number: octal digits between spaces and NUL bytes, or, with the first bit set, base 256 in two's complement.
pub fn number(field: &[u8]) -> Result<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let start = if negative { -1 } else { 0 };
            let first = if negative { first | 0x80 } else { first & 0x7f };
            std::iter::once(&first).chain(rest).try_fold(start, |value: i64, byte| {
                value
                    .checked_mul(256)
                    .map(|value| value | i64::from(*byte))
                    .ok_or_else(|| malformed("a number too big"))
            })
        }
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
            let (digits, rest) = digits.split_at_checked(end).unwrap_or((digits, &[]));
            if !rest.iter().all(|b| matches!(b, 0 | b' ')) {
                return Err(malformed("a number that is not octal"));
            }
            digits.iter().try_fold(0i64, |value, digit| match digit {
                b'0'..=b'7' => value
                    .checked_mul(8)
                    .map(|value| value | i64::from(digit - b'0'))
                    .ok_or_else(|| malformed("a number too big")),
                _ => Err(malformed("a number that is not octal")),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b" 644 \0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777", Some(0o77777777777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"64\x0044\0\0\0", None),
        ] {
            assert_eq!(number(field).ok(), expected, "{field:?}");
        }
    }
}
