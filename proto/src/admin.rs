//! `berth.admin.v1`: the calls of berth's own tools to a running shim. `admin.proto` describes them.
//!
//! The messages are coded here by hand, as [`runtime_options`](crate::runtime_options) is: no descriptors are built on the
//! heap of each shim, and no generator runs in the build.

use protobuf::{CodedInputStream, CodedOutputStream, rt::WireType};

/// The full name of the service.
pub const SERVICE: &str = "berth.admin.v1.Admin";

/// A message of the service.
pub trait AdminMessage: Default {
    /// The name of the message, and the name, type and number of each field, as in the .proto file.
    const FIELDS: (&'static str, &'static [(&'static str, &'static str, u32)]);

    /// Decodes the message. Unknown fields are skipped.
    ///
    /// # Errors
    /// The bytes are truncated, or a field has another type.
    fn decode(bytes: &[u8]) -> protobuf::Result<Self>;

    /// Encodes the message. Fields with their default value are left out.
    ///
    /// # Errors
    /// Writing to a vector does not fail in practice.
    fn encode(&self) -> protobuf::Result<Vec<u8>>;
}

trait Field: Sized {
    const NAME: &'static str;
    const WIRE: WireType;
    fn read(input: &mut CodedInputStream<'_>) -> protobuf::Result<Self>;
    fn write(&self, number: u32, output: &mut CodedOutputStream<'_>) -> protobuf::Result<()>;
}

macro_rules! field {
    ($type:ty, $name:literal, $wire:ident, $read:ident, $default:expr, |$output:ident, $number:ident, $value:ident| $write:expr) => {
        impl Field for $type {
            const NAME: &'static str = $name;
            const WIRE: WireType = WireType::$wire;
            fn read(input: &mut CodedInputStream<'_>) -> protobuf::Result<Self> {
                input.$read()
            }
            fn write(&self, $number: u32, $output: &mut CodedOutputStream<'_>) -> protobuf::Result<()> {
                let $value = self;
                if *$value == $default { Ok(()) } else { $write }
            }
        }
    };
}

field!(String, "string", LengthDelimited, read_string, "", |output, number, value| output.write_string(number, value));
field!(u32, "uint32", Varint, read_uint32, 0, |output, number, value| output.write_uint32(number, *value));
field!(u64, "uint64", Varint, read_uint64, 0, |output, number, value| output.write_uint64(number, *value));
field!(bool, "bool", Varint, read_bool, false, |output, number, value| output.write_bool(number, *value));

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $number:literal,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl AdminMessage for $name {
            const FIELDS: (&'static str, &'static [(&'static str, &'static str, u32)]) =
                (stringify!($name), &[$((stringify!($field), <$type as Field>::NAME, $number),)*]);

            fn decode(bytes: &[u8]) -> protobuf::Result<Self> {
                let mut input = CodedInputStream::from_bytes(bytes);
                #[allow(unused_mut, reason = "a message without fields")]
                let mut message = Self::default();
                while let Some(tag) = input.read_raw_tag_or_eof()? {
                    match (tag >> 3, WireType::new(tag & 7)) {
                        $(($number, Some(wire)) if wire == <$type as Field>::WIRE => {
                            message.$field = Field::read(&mut input)?;
                        })*
                        (_, Some(wire)) => input.skip_field(wire)?,
                        (_, None) => {
                            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no such wire type").into());
                        }
                    }
                }
                Ok(message)
            }

            fn encode(&self) -> protobuf::Result<Vec<u8>> {
                let mut bytes = Vec::new();
                let mut output = CodedOutputStream::vec(&mut bytes);
                $(Field::write(&self.$field, $number, &mut output)?;)*
                output.flush()?;
                drop(output);
                Ok(bytes)
            }
        }
    )* };
}

messages! {
    /// Asks what runs.
    StatusRequest {}
    /// The shim and its program.
    StatusResponse {
        /// The version of the program.
        version: String = 1,
        /// The pid.
        pid: u32 = 2,
        /// The id of the pod, or of the single container.
        id: String = 3,
        /// containerd's namespace.
        namespace: String = 4,
        /// The number of containers.
        containers: u32 = 5,
        /// The proportional share of memory, in bytes.
        memory: u64 = 6,
        /// The format of the handover document that it writes.
        format: u32 = 7,
        /// The oldest format that it reads.
        oldest_format: u32 = 8,
        /// The path of the program.
        program: String = 9,
    }
    /// Asks to wait until no change is in flight.
    DrainRequest {}
    /// No change was in flight.
    DrainResponse {
        /// The time that it took, in µs.
        waited: u64 = 1,
    }
    /// Asks for another program.
    UpgradeRequest {
        /// The absolute path of the new program; empty for the one that runs.
        path: String = 1,
        /// Try only.
        check: bool = 2,
    }
    /// Another program runs.
    UpgradeResponse {
        /// The version before.
        from: String = 1,
        /// The version now, or of the program that was tried.
        to: String = 2,
        /// The time in which no request was read, in µs.
        pause: u64 = 3,
        /// The program runs already.
        unchanged: bool = 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message in the words of a .proto file.
    fn described<M: AdminMessage>() -> String {
        let (name, fields) = M::FIELDS;
        let fields: String =
            fields.iter().map(|(name, kind, number)| format!("  {kind} {name} = {number};\n")).collect();
        format!("message {name} {{\n{fields}}}\n")
    }

    #[test]
    fn admin_messages_are_those_of_the_proto_file() {
        let file = include_str!("../admin.proto");
        let file: String =
            file.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
        let all = [
            described::<StatusRequest>(),
            described::<StatusResponse>(),
            described::<DrainRequest>(),
            described::<DrainResponse>(),
            described::<UpgradeRequest>(),
            described::<UpgradeResponse>(),
        ];
        all.iter().for_each(|message| assert!(file.contains(message), "{message} is not in\n{file}"));
        assert_eq!(file.matches("message ").count(), all.len());
        assert!(SERVICE.ends_with(".Admin") && file.contains("package berth.admin.v1;"));
    }

    #[test]
    fn an_encoded_admin_message_decodes_to_itself() {
        let status = StatusResponse { version: "1".into(), pid: 7, memory: 1 << 40, ..Default::default() };
        let mut bytes = status.encode().unwrap();
        bytes.extend([0xa2, 0x06, 1, b'x']);
        assert_eq!(StatusResponse::decode(&bytes).unwrap(), status);
        let request = UpgradeRequest { path: "/x".into(), check: true };
        assert_eq!(UpgradeRequest::decode(&request.encode().unwrap()).unwrap(), request);
        assert_eq!(StatusRequest::default().encode().unwrap(), b"");
        assert!(UpgradeRequest::decode(&[0x0a, 9]).is_err());
    }
}
