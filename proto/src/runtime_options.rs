//! `runtimeoptions.v1.Options`: the options table of a runtime handler in containerd's configuration, for a shim of any
//! type.
//!
//! `containerd-shim-protos` lacks this message. Its three fields are coded here by hand, without descriptors: 1
//! `type_url` (string), 2 `config_path` (string), 3 `config_body` (bytes).

use protobuf::CodedOutputStream;

use crate::fields::{self, Field};

/// The options table of a runtime handler, as TOML.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The type of the table. containerd sends the handler's setting or nothing.
    pub type_url: String,
    /// The path of a TOML file. It overrides the body.
    pub config_path: String,
    /// TOML text. containerd 1.6 does not send it.
    pub config_body: Vec<u8>,
}

impl RuntimeOptions {
    /// Decodes the message. Unknown fields are skipped.
    ///
    /// # Errors
    /// The bytes are truncated, or a field has another type.
    pub fn parse_from_bytes(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut options = Self::default();
        fields::read(bytes, |field| {
            match field {
                (1, Field::Bytes(text)) => options.type_url = fields::text(text)?,
                (2, Field::Bytes(text)) => options.config_path = fields::text(text)?,
                (3, Field::Bytes(body)) => options.config_body = body.to_vec(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(options)
    }

    /// Encodes the message.
    ///
    /// # Errors
    /// Writing to a vector does not fail in practice.
    pub fn write_to_bytes(&self) -> protobuf::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut output = CodedOutputStream::vec(&mut bytes);
        if !self.type_url.is_empty() {
            output.write_string(1, &self.type_url)?;
        }
        if !self.config_path.is_empty() {
            output.write_string(2, &self.config_path)?;
        }
        if !self.config_body.is_empty() {
            output.write_bytes(3, &self.config_body)?;
        }
        output.flush()?;
        drop(output);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_message_parses_to_itself() {
        let options = RuntimeOptions {
            type_url: "runtimeoptions.v1.Options".into(),
            config_path: "/etc/berth.toml".into(),
            config_body: b"SystemdCgroup = true\n".to_vec(),
        };
        assert_eq!(RuntimeOptions::parse_from_bytes(&options.write_to_bytes().unwrap()).unwrap(), options);
        assert_eq!(RuntimeOptions::parse_from_bytes(b"").unwrap(), RuntimeOptions::default());
    }

    #[test]
    fn the_bytes_carry_the_field_numbers() {
        let options = RuntimeOptions { config_path: "/p".into(), config_body: b"x".to_vec(), ..Default::default() };
        assert_eq!(options.write_to_bytes().unwrap(), b"\x12\x02/p\x1a\x01x");
    }

    #[test]
    fn an_unknown_field_is_skipped() {
        let options = RuntimeOptions::parse_from_bytes(b"\x20\x07\x12\x02/p\x2a\x01z").unwrap();
        assert_eq!(options.config_path, "/p");
    }

    #[test]
    fn parsing_malformed_options_fails() {
        for bytes in [&b"\x12\x09/p"[..], b"\x12", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x1f", b"\x0e"] {
            assert!(RuntimeOptions::parse_from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
