//! D-Bus messages (D-Bus specification, "Message Format"): calls are sent, answers and signals are received.

use super::value::{Reader, Value, pad};

/// The maximal length of a message in bytes, far above any of systemd. The specification allows 128 MiB.
const LONGEST: usize = 1 << 20;

/// The flag NO_REPLY_EXPECTED.
const NO_REPLY: u8 = 1;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub kind: Kind,
    pub serial: u32,
    /// The sender of this call expects no answer.
    pub no_reply: bool,
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error: Option<String>,
    /// The serial of the call that this message answers.
    pub answers: Option<u32>,
    pub destination: Option<String>,
    pub body: Vec<Value>,
}

impl Message {
    /// A message without header fields and body.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            serial: 0,
            no_reply: false,
            path: None,
            interface: None,
            member: None,
            error: None,
            answers: None,
            destination: None,
            body: Vec::new(),
        }
    }

    /// A call of the method `member`.
    pub(super) fn call(destination: &str, path: &str, interface: &str, member: &str, body: Vec<Value>) -> Self {
        let own = |text: &str| Some(text.to_owned());
        Self {
            path: own(path),
            interface: own(interface),
            member: own(member),
            destination: own(destination),
            body,
            ..Self::new(Kind::Call)
        }
    }

    /// Encodes the message, little endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.body.iter().for_each(|v| v.write(&mut body));
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut out = vec![b'l', kind, if self.no_reply { NO_REPLY } else { 0 }, 1];
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.serial.to_le_bytes());
        let mut fields = Vec::new();
        let mut field = |code: u8, value: Option<Value>| {
            fields.extend(value.map(|v| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(v))])));
        };
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        field(1, self.path.clone().map(Value::Path));
        field(2, text(&self.interface));
        field(3, text(&self.member));
        field(4, text(&self.error));
        field(5, self.answers.map(Value::U32));
        field(6, text(&self.destination));
        let signature: String = self.body.iter().map(Value::signature).collect();
        field(8, (!signature.is_empty()).then_some(Value::Signature(signature)));
        Value::Array("(yv)".to_owned(), fields).write(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }

    /// The length in bytes of the message that begins with `bytes`; `Ok(None)` if more bytes are needed to know it.
    ///
    /// # Errors
    /// The bytes are no message, or one that is too long.
    pub(super) fn size(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let Some(start) = bytes.get(..16) else { return Ok(None) };
        let big_endian = order(start)?;
        let number = |at: usize| Reader { bytes: start, at, big_endian }.length();
        let (Some(body), Some(fields)) = (number(4), number(12)) else { return Ok(None) };
        let size = fields.checked_add(16).map(|n| n.next_multiple_of(8)).and_then(|n| n.checked_add(body));
        size.filter(|n| *n <= LONGEST).map(Some).ok_or("a message that is too long")
    }

    /// Decodes `bytes`.
    ///
    /// # Errors
    /// The bytes are no message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        Self::parse(bytes, order(bytes)?).ok_or("a malformed message")
    }

    fn parse(bytes: &[u8], big_endian: bool) -> Option<Self> {
        let kind = match bytes.get(1)? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let mut message = Self::new(kind);
        message.no_reply = bytes.get(2)? & NO_REPLY != 0;
        let mut reader = Reader { bytes, at: 8, big_endian };
        message.serial = u32::try_from(reader.length()?).ok()?;
        let mut fields = reader.values("a(yv)")?;
        let Some(Value::Array(_, fields)) = fields.pop() else { return None };
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(pair) = field else { return None };
            let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else { return None };
            match (code, value.as_ref()) {
                (1, Value::Path(v)) => message.path = Some(v.clone()),
                (2, Value::Text(v)) => message.interface = Some(v.clone()),
                (3, Value::Text(v)) => message.member = Some(v.clone()),
                (4, Value::Text(v)) => message.error = Some(v.clone()),
                (5, Value::U32(v)) => message.answers = Some(*v),
                (6, Value::Text(v)) => message.destination = Some(v.clone()),
                (8, Value::Signature(v)) => signature.clone_from(v),
                _ => {}
            }
        }
        reader.align(8);
        message.body = reader.values(&signature)?;
        Some(message)
    }
}

/// Whether the message is big endian.
fn order(bytes: &[u8]) -> Result<bool, &'static str> {
    match bytes.first() {
        Some(b'l') => Ok(false),
        Some(b'B') => Ok(true),
        _ => Err("something else than a message"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_call_is_decoded_and_has_its_size() {
        let mut call = Message::call("org.x", "/org/x", "org.x.I", "Do", vec![Value::text("a"), Value::U32(7)]);
        call.serial = 9;
        let bytes = call.encode();
        assert_eq!(Message::size(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Message::size(&bytes[..15]), Ok(None));
        assert_eq!(Message::decode(&bytes).unwrap(), call);
    }

    /// The bytes come from libdbus: `dbus-send --print-reply --dest=a.b / c.d.E string:foo array:string:x,yz uint64:7`. The
    /// order of header fields is free; berth has the same.
    #[test]
    fn encoded_call_equals_that_of_libdbus() {
        let words = Value::Array("s".into(), vec![Value::text("x"), Value::text("yz")]);
        let mut call = Message::call("a.b", "/", "c.d", "E", vec![Value::text("foo"), words, Value::U64(7)]);
        call.serial = 2;
        let want: &[u8] = b"l\x01\0\x01(\0\0\0\x02\0\0\0J\0\0\0\
            \x01\x01o\0\x01\0\0\0/\0\0\0\0\0\0\0\
            \x02\x01s\0\x03\0\0\0c.d\0\0\0\0\0\
            \x03\x01s\0\x01\0\0\0E\0\0\0\0\0\0\0\
            \x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\
            \x08\x01g\0\x04sast\0\0\0\0\0\0\0\
            \x03\0\0\0foo\0\x0f\0\0\0\x01\0\0\0x\0\0\0\x02\0\0\0yz\0\0\0\0\0\0\x07\0\0\0\0\0\0\0";
        assert_eq!(call.encode(), want);
        assert_eq!(Message::decode(want).unwrap(), call);
    }

    #[test]
    fn malformed_message_is_refused() {
        assert!(Message::size(&[b'x'; 16]).is_err());
        assert!(Message::size(b"l\x02\0\x01\xff\xff\xff\x7f\0\0\0\0\0\0\0\0").is_err());
        assert!(Message::decode(b"l\x09\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0").is_err());
        assert!(Message::decode(b"").is_err());
    }
}
