//! The fields of an encoded message, one after another, for messages that are decoded by hand.

use protobuf::{CodedInputStream, rt::WireType};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// An integer, an enumeration or a boolean.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

/// Passes each field with its number to `set`, in order. Fields of fixed width and groups are skipped: the messages here
/// have none.
///
/// # Errors
/// The bytes are truncated or malformed, or `set` fails.
pub fn read<'a>(
    bytes: &'a [u8],
    mut set: impl FnMut((u32, Field<'a>)) -> protobuf::Result<()>,
) -> protobuf::Result<()> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let field = match WireType::new(tag & 7) {
            Some(WireType::Varint) => Field::Number(input.read_raw_varint64()?),
            Some(WireType::LengthDelimited) => {
                let length = input.read_raw_varint64()?;
                let start = usize::try_from(input.pos()).ok();
                let end = start.zip(usize::try_from(length).ok()).and_then(|(start, length)| start.checked_add(length));
                let value = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
                let value = value.ok_or_else(|| malformed("a field is longer than its message"))?;
                input.skip_raw_bytes(u32::try_from(length).map_err(|_| malformed("a field is too long"))?)?;
                Field::Bytes(value)
            }
            Some(other) => {
                input.skip_field(other)?;
                continue;
            }
            None => return Err(malformed("no such wire type")),
        };
        set((tag >> 3, field))?;
    }
    Ok(())
}

/// The text of a string field.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn text(bytes: &[u8]) -> protobuf::Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed("a string is not UTF-8"))
}

/// An error for bytes that are no message.
fn malformed(why: &str) -> protobuf::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why).into()
}
