//! Values of the D-Bus types, and their encoding (D-Bus specification, "Marshaling").
//!
//! berth writes little endian and reads both byte orders. A value is aligned to its size, counted from the beginning of the
//! message ([`super::message`]).

/// The maximal depth of nested containers in a received value (the specification allows 32 arrays and 32 structures).
const DEPTH: u32 = 16;

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cgroup) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of an element, which is also needed for an empty array, and the elements.
    Array(String, Vec<Value>),
    /// A structure, or an entry of a received dictionary.
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub(in crate::cgroup) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The signature, such as `a(sv)`.
    pub(super) fn signature(&self) -> String {
        let code = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::F64(_) => "d",
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => return format!("({})", fields.iter().map(Self::signature).collect::<String>()),
        };
        code.to_owned()
    }

    /// Encodes the value at the end of `out`, whose beginning is aligned to 8 bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        pad(out, alignment(&self.signature()));
        match self {
            Self::Byte(v) => out.push(*v),
            Self::Bool(v) => out.extend(u32::from(*v).to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Text(v) | Self::Path(v) => {
                out.extend(length(v.len()));
                out.extend(v.as_bytes());
                out.push(0);
            }
            Self::Signature(v) => write_signature(v, out),
            Self::Variant(v) => {
                write_signature(&v.signature(), out);
                v.write(out);
            }
            Self::Struct(fields) => fields.iter().for_each(|f| f.write(out)),
            Self::Array(element, values) => {
                let size = out.len();
                out.extend([0; 4]);
                // The length of an array does not include the padding before the first element.
                pad(out, alignment(element));
                let start = out.len();
                values.iter().for_each(|v| v.write(out));
                let bytes = length(out.len() - start);
                if let Some(place) = out.get_mut(size..size + 4) {
                    place.copy_from_slice(&bytes);
                }
            }
        }
    }
}

/// Encodes a signature. All signatures here are far shorter than the maximum of 255 bytes.
fn write_signature(signature: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    out.extend(signature.as_bytes());
    out.push(0);
}

/// Encodes a length. Messages are far shorter than 4 GiB.
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// Appends zeros up to a multiple of `to` bytes.
pub(super) fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

/// Splits a signature after its first complete type.
pub(super) fn first_type(signature: &str) -> Option<(&str, &str)> {
    let mut depth = 0_u32;
    for (at, c) in signature.bytes().enumerate() {
        match c {
            b'a' => continue,
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1)?,
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' => {}
            _ => return None,
        }
        if depth == 0 {
            return signature.split_at_checked(at + 1);
        }
    }
    None
}

/// Decodes the values of a message.
pub(super) struct Reader<'a> {
    /// The message, from its beginning.
    pub bytes: &'a [u8],
    /// The offset of the next value.
    pub at: usize,
    /// The byte order of the sender.
    pub big_endian: bool,
}

impl<'a> Reader<'a> {
    /// Decodes all values of `signature`; None if the message is malformed.
    pub(super) fn values(&mut self, mut signature: &str) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = first_type(signature)?;
            values.push(self.value(one, 0)?);
            signature = rest;
        }
        Some(values)
    }

    /// Skips to the next multiple of `to` bytes.
    pub(super) fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn value(&mut self, signature: &str, depth: u32) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        self.align(alignment(signature));
        Some(match signature.as_bytes().first()? {
            b'y' => Value::Byte(u8::from_le_bytes(self.number()?)),
            b'b' => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' => Value::U32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::F64(f64::from_le_bytes(self.number()?)),
            b's' => Value::Text(self.text()?),
            b'o' => Value::Path(self.text()?),
            b'g' => Value::Signature(self.short_text()?),
            b'v' => {
                let inner = self.short_text()?;
                let (one, "") = first_type(&inner)? else { return None };
                Value::Variant(Box::new(self.value(one, depth + 1)?))
            }
            b'a' => self.array(signature.get(1..)?, depth)?,
            b'(' | b'{' => {
                let mut left = signature.get(1..signature.len() - 1)?;
                if left.is_empty() {
                    // D-Bus has no empty structure. It takes no bytes, so an array of them would never end.
                    return None;
                }
                let mut fields = Vec::new();
                while !left.is_empty() {
                    let (one, rest) = first_type(left)?;
                    fields.push(self.value(one, depth + 1)?);
                    left = rest;
                }
                Value::Struct(fields)
            }
            _ => return None,
        })
    }

    fn array(&mut self, element: &str, depth: u32) -> Option<Value> {
        let size = self.length()?;
        self.align(alignment(element));
        let end = self.at.checked_add(size).filter(|end| *end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth + 1)?);
        }
        (self.at == end).then(|| Value::Array(element.to_owned(), values))
    }

    /// Decodes a length.
    pub(super) fn length(&mut self) -> Option<usize> {
        self.align(4);
        usize::try_from(u32::from_le_bytes(self.number()?)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let size = self.length()?;
        self.terminated(size)
    }

    fn short_text(&mut self) -> Option<String> {
        let size = u8::from_le_bytes(self.number()?);
        self.terminated(usize::from(size))
    }

    fn terminated(&mut self, size: usize) -> Option<String> {
        let text = self.take(size)?;
        let [0] = self.take(1)? else { return None };
        String::from_utf8(text.to_vec()).ok()
    }

    /// The bytes of a number, in little endian.
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.take(N)?.try_into().ok()?;
        if self.big_endian {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(size)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn alignment_and_lengths_follow_the_specification() {
        let strings = |words: &[&str]| Value::Array("s".into(), words.iter().map(|w| Value::text(*w)).collect());
        let rows: [(Value, &[u8]); 6] = [
            (Value::text("foo"), b"\x03\0\0\0foo\0"),
            (strings(&["a", "bc"]), b"\x0f\0\0\0\x01\0\0\0a\0\0\0\x02\0\0\0bc\0"),
            // An example of the specification: the length of an array with 8-byte elements does not include the padding.
            (Value::Array("x".into(), vec![Value::I64(5)]), b"\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"),
            (Value::Array("(ss)".into(), vec![]), b"\0\0\0\0\0\0\0\0"),
            (Value::Variant(Box::new(Value::U64(1))), b"\x01t\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"),
            (Value::Struct(vec![Value::Byte(7), Value::Bool(true)]), b"\x07\0\0\0\x01\0\0\0"),
        ];
        for (value, bytes) in rows {
            assert_eq!(written(&value), bytes, "{value:?}");
        }
    }

    #[test]
    fn encoded_values_are_decoded() {
        let all = Value::Struct(vec![
            Value::Byte(1),
            Value::I16(-2),
            Value::U16(3),
            Value::I32(-4),
            Value::U32(5),
            Value::I64(-6),
            Value::U64(u64::MAX),
            Value::F64(0.5),
            Value::Path("/a".into()),
            Value::Signature("a(sv)".into()),
            Value::Array(
                "(sv)".into(),
                vec![Value::Struct(vec![Value::text("n"), Value::Variant(Box::new(Value::Bool(false)))])],
            ),
        ]);
        assert_eq!(all.signature(), "(ynqiuxtdoga(sv))");
        let bytes = written(&all);
        let mut reader = Reader { bytes: &bytes, at: 0, big_endian: false };
        assert_eq!(reader.values(&all.signature()), Some(vec![all]));
    }

    #[test]
    fn big_endian_values_are_decoded() {
        let mut reader = Reader { bytes: b"\0\0\0\x02ok\0\0\0\0\0\x07", at: 0, big_endian: true };
        assert_eq!(reader.values("su"), Some(vec![Value::text("ok"), Value::U32(7)]));
    }

    #[test]
    fn truncated_or_inconsistent_values_are_refused() {
        let rows: [(&[u8], &str); 9] = [
            (b"\x09\0\0\0foo\0", "s"),
            (b"\x03\0\0\0foox", "s"),
            (b"\x02\0\0\0\xff\xfe\0", "s"),
            (b"\xff\xff\xff\xff", "as"),
            (b"\x02\0\0\0\x01\0", "au"),
            (b"\x02ss\0", "v"),
            (b"\x01\0", "z"),
            (b"", "()"),
            (b"\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a()"),
        ];
        for (bytes, signature) in rows {
            assert_eq!(Reader { bytes, at: 0, big_endian: false }.values(signature), None, "{bytes:?} {signature}");
        }
        let deep = "v".to_owned();
        let bytes: Vec<u8> = b"\x01v\0".iter().copied().cycle().take(300).collect();
        assert_eq!(Reader { bytes: &bytes, at: 0, big_endian: false }.values(&deep), None);
    }

    #[test]
    fn signature_is_split_after_its_first_type() {
        for (signature, want) in [
            ("a(sv)u", Some(("a(sv)", "u"))),
            ("aay", Some(("aay", ""))),
            ("a{sv}", Some(("a{sv}", ""))),
            ("", None),
            ("a", None),
            ("(s", None),
            (")", None),
            ("z", None),
        ] {
            assert_eq!(first_type(signature), want, "{signature}");
        }
    }
}
