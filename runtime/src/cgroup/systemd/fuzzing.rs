//! The decoders of D-Bus and of the GVariant text format for the fuzz targets.

use super::{
    gvariant::parse,
    message::{Kind, Message},
    value::Value,
};

/// The length of the message that begins with `bytes`, once it is known.
///
/// # Errors
/// The bytes are no message.
pub fn message_size(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    Message::size(bytes)
}

/// Decodes a message; returns it as text, the longest signature in it, and its encoding.
///
/// # Errors
/// The bytes are no message.
pub fn message(bytes: &[u8]) -> Result<(String, usize, Vec<u8>), &'static str> {
    let message = Message::decode(bytes)?;
    let all: String = message.body.iter().map(Value::signature).collect();
    let longest = message.body.iter().map(longest_signature).max().unwrap_or_default().max(all.len());
    Ok((format!("{message:?}"), longest, message.encode()))
}

/// Parses a value; returns it as text, the longest signature in it, and a message that has it as its body.
///
/// # Errors
/// The text is no value.
pub fn gvariant(text: &str) -> Result<(String, usize, Vec<u8>), String> {
    let value = parse(text)?;
    let longest = longest_signature(&value);
    let message = Message { body: vec![value], ..Message::new(Kind::Signal) };
    Ok((format!("{message:?}"), longest, message.encode()))
}

fn longest_signature(value: &Value) -> usize {
    let below = match value {
        Value::Signature(text) => text.len(),
        Value::Array(_, values) | Value::Struct(values) => {
            values.iter().map(longest_signature).max().unwrap_or_default()
        }
        Value::Variant(inner) => longest_signature(inner),
        _ => 0,
    };
    below.max(value.signature().len())
}
