//! The records of an extended header: `LENGTH KEY=VALUE\n` each, where LENGTH counts the whole record (pax(1)).

use berth_runtime::Result;

use super::{Time, malformed};
use crate::{limits, text::escaped};

/// The records that berth knows, of one member. An empty value takes a record back, as POSIX has it.
#[derive(Debug, Default)]
pub struct Records {
    /// The name.
    pub path: Option<Vec<u8>>,
    /// The target of a link.
    pub link: Option<Vec<u8>>,
    /// Bytes of data.
    pub size: Option<u64>,
    /// The owner.
    pub uid: Option<u32>,
    /// The owning group.
    pub gid: Option<u32>,
    /// Time of the last modification.
    pub mtime: Option<Time>,
    /// Time of the last access.
    pub atime: Option<Time>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The member is sparse.
    pub sparse: bool,
    seen: bool,
}

impl Records {
    /// Returns true if no extended header has been read.
    pub fn is_empty(&self) -> bool {
        !self.seen
    }

    /// Takes a GNU long name.
    pub fn set_path(&mut self, path: Vec<u8>) {
        self.seen = true;
        self.path = Some(path);
    }

    /// Takes a GNU long target of a link.
    pub fn set_link(&mut self, link: Vec<u8>) {
        self.seen = true;
        self.link = Some(link);
    }

    /// Reads all records of an extended header.
    pub fn read(&mut self, mut text: &[u8]) -> Result<()> {
        self.seen = true;
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or_else(|| malformed("a PAX record is not understood"))?;
            self.set(key, value)?;
            text = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let wrong = || malformed(format!("PAX record {}={}", escaped(key), escaped(value)));
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = decimal(value).ok_or_else(wrong)?,
            b"uid" => self.uid = id(value).ok_or_else(wrong)?,
            b"gid" => self.gid = id(value).ok_or_else(wrong)?,
            b"mtime" => self.mtime = time(value).ok_or_else(wrong)?,
            b"atime" => self.atime = time(value).ok_or_else(wrong)?,
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(malformed("an extended attribute's name is empty, too long or has a NUL byte"));
        }
        if value.len() > limits::XATTR_VALUE {
            return Err(malformed(format!("extended attribute {} of {} bytes", escaped(name), value.len())));
        }
        self.xattrs.retain(|(known, _)| known != name);
        if self.xattrs.len() == limits::XATTRS {
            return Err(malformed(format!("more than {} extended attributes", limits::XATTRS)));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// Splits off the first record: key, value and the records after it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let digits = text.get(..space)?;
    let len = usize::try_from(decimal(digits)??).ok()?;
    let body = text.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let key = body.get(..equals).filter(|key| !key.is_empty())?;
    Some((key, body.get(equals + 1..)?, text.get(len..)?))
}

/// A decimal number without a sign: `None` if it is none, `Some(None)` if the value is empty.
fn decimal(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() {
        return Some(None);
    }
    let number = value.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })?;
    Some(Some(number))
}

fn id(value: &[u8]) -> Option<Option<u32>> {
    match decimal(value)? {
        None => Some(None),
        Some(id) => u32::try_from(id).ok().filter(|id| *id != u32::MAX).map(Some),
    }
}

/// Seconds with an optional fraction, of which nanoseconds are kept.
fn time(value: &[u8]) -> Option<Option<Time>> {
    if value.is_empty() {
        return Some(None);
    }
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)??).ok()?;
    let mut nanoseconds = 0u32;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit.wrapping_sub(b'0')));
    }
    Some(Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_by_their_length() {
        let mut records = Records::default();
        records.read(b"12 path=a=b\n21 SCHILY.xattr.a=\0\n\n10 uid=70\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a=b"[..]));
        assert_eq!(records.uid, Some(70));
        assert_eq!(records.xattrs, [(b"a".to_vec(), b"\0\n".to_vec())]);
        for text in
            [&b"12 path=a"[..], b"x path=a\n", b"10 path=ab\n", b"9 path=a\n9 p", b"7 path\n", b"5 =a\n", b" \n"]
        {
            assert!(Records::default().read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let at = |seconds, nanoseconds| Some(Some(Time { seconds, nanoseconds }));
        for (value, expected) in [
            (&b"12"[..], at(12, 0)),
            (b"12.5", at(12, 500_000_000)),
            (b"12.123456789123", at(12, 123_456_789)),
            (b"-1.25", at(-2, 750_000_000)),
            (b"-3", at(-3, 0)),
            (b"", Some(None)),
            (b"1.x", None),
            (b"1.5x", None),
            (b"--1", None),
            (b"99999999999999999999", None),
        ] {
            assert_eq!(time(value), expected, "{value:?}");
        }
    }
}
