//! The encoding of Protocol Buffers, as far as CRIU's messages use it: varints, and texts and messages with a length.

use crate::{Error, Kind, Result};

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Writes a number, which may also be an enumeration or a boolean.
    pub fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    /// Writes a signed number. A negative one takes ten bytes, as the encoding demands for `int32`.
    pub fn signed(&mut self, field: u32, value: i32) {
        self.number(field, i64::from(value).cast_unsigned());
    }

    /// Writes a text.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(value);
    }

    /// Writes a message.
    pub fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.0);
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        loop {
            let [low, ..] = (value & 0x7f).to_le_bytes();
            value >>= 7;
            self.0.push(if value == 0 { low } else { low | 0x80 });
            if value == 0 {
                return;
            }
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'b> {
    /// A varint.
    Number(u64),
    /// A text or a message.
    Bytes(&'b [u8]),
    /// A number of 4 or 8 bytes, which no message here has.
    Fixed,
}

impl<'b> Value<'b> {
    /// Returns the number; 0 for another kind of value.
    pub fn number(self) -> u64 {
        if let Self::Number(value) = self { value } else { 0 }
    }

    /// Returns the number as `int32`.
    pub fn signed(self) -> i32 {
        let [a, b, c, d, ..] = self.number().to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }

    /// Returns the text; an empty one for another kind of value.
    pub fn bytes(self) -> &'b [u8] {
        if let Self::Bytes(value) = self { value } else { &[] }
    }

    /// Returns the text with replacement characters for bytes that are not UTF-8.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Reads the fields of a message in their order.
///
/// # Errors
/// [`Kind::Internal`] for bytes that are no message.
pub fn fields(mut rest: &[u8]) -> Result<Vec<(u32, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        fields.push(field(&mut rest).ok_or_else(|| Error::new(Kind::Internal, "criu: malformed message"))?);
    }
    Ok(fields)
}

fn field<'b>(rest: &mut &'b [u8]) -> Option<(u32, Value<'b>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return None,
    };
    Some((u32::try_from(tag >> 3).ok()?, value))
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protocol_buffers_are() {
        let mut inner = Writer::default();
        inner.bytes(1, b"a");
        let mut message = Writer::default();
        message.number(1, 300);
        message.message(2, &inner);
        message.signed(34, -1);
        let bytes = [8, 0xac, 2, 0x12, 3, 10, 1, b'a', 0x90, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(message.as_bytes(), bytes);
        let [first, second, third] = fields(&bytes).unwrap().try_into().unwrap();
        assert_eq!((first, second.0, second.1.bytes()), ((1, Value::Number(300)), 2, inner.as_bytes()));
        assert_eq!((third.0, third.1.signed()), (34, -1));
    }

    #[test]
    fn half_a_criu_message_is_an_error_at_every_length() {
        let mut message = Writer::default();
        message.number(1, 1 << 40);
        message.bytes(9, b"words");
        let bytes = message.as_bytes();
        for length in 1..bytes.len() {
            let whole = fields(&bytes[..length]).is_ok();
            assert_eq!(whole, length == 7, "{length}");
        }
        for bad in [&[0xff; 11][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &[3]] {
            assert_eq!(fields(bad).unwrap_err().to_string(), "criu: malformed message", "{bad:?}");
        }
    }
}
