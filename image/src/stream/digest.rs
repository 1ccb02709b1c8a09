//! Digests as descriptors have them: `sha256:HEX` and `sha512:HEX`, the two registered algorithms.

use std::fmt::{self, Write};

use berth_runtime::{Error, Result};
use sha2::{Digest as _, Sha256, Sha512};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

/// A digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Reads `ALGORITHM:HEX`.
    ///
    /// # Errors
    /// Another algorithm, or no lower-case hexadecimal number of its length.
    pub fn parse(text: &str) -> Result<Self> {
        let (algorithm, hex, len) = match text.split_once(':') {
            Some(("sha256", hex)) => (Algorithm::Sha256, hex, 64),
            Some(("sha512", hex)) => (Algorithm::Sha512, hex, 128),
            _ => {
                return Err(Error::invalid(format!(
                    "digest {} is not supported",
                    crate::text::escaped(text.as_bytes())
                )));
            }
        };
        if hex.len() != len || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::invalid(format!("digest {} is malformed", crate::text::escaped(text.as_bytes()))));
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }

    /// The path of the blob in an OCI layout.
    pub fn path(&self) -> String {
        format!("blobs/{}/{}", self.algorithm.name(), self.hex)
    }

    /// A hasher of the digest's algorithm.
    pub fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    /// Compares with what `hasher` has seen.
    ///
    /// # Errors
    /// The digests differ.
    pub fn check(&self, hasher: Hasher) -> Result<()> {
        let hex = hasher.hex();
        if hex == self.hex {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "digest mismatch: the image says {self}, the data has {}:{hex}",
            self.algorithm.name()
        )))
    }

    /// Compares with the digest of `bytes`.
    ///
    /// # Errors
    /// The digests differ.
    pub fn check_bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        self.check(hasher)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A running digest.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest as a lower-case hexadecimal number.
    pub fn hex(self) -> String {
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registered_algorithms_are_read() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert!(digest.check_bytes(b"").is_ok());
        assert!(digest.check_bytes(b"a").is_err());
        assert_eq!(digest.path(), format!("blobs/sha256/{hex}"));
        for text in ["md5:00", "sha256:", "sha256:../../etc/passwd", &format!("sha512:{hex}"), hex] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
        assert!(Digest::parse(&format!("sha256:{}", hex.to_uppercase())).is_err());
    }
}
