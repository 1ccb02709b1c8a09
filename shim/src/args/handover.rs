//! The part of the command line that is about a handover.

use std::os::fd::RawFd;

use berth_runtime::{Error, Result};

/// The flag with the descriptors of the document and of the old program.
pub const FLAG: &str = "-handover";
/// The flag with the reason for which the other program has refused.
pub const REFUSED: &str = "-refused";

/// The descriptors that another program of this process has passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The document.
    pub document: RawFd,
    /// The program to go back to.
    pub old: Option<RawFd>,
    /// The reason for which the other program has refused; this one is the old one then.
    pub refused: Option<String>,
}

impl Handover {
    /// Parses the value of `-handover`: `DOCUMENT:OLD` or `DOCUMENT:`.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(value: &str, refused: Option<String>) -> Result<Self> {
        let malformed = || Error::invalid(format!("flag -handover: {value:?} is no pair of descriptors"));
        let number = |text: &str| text.parse().ok().filter(|number: &RawFd| *number > 2).ok_or_else(malformed);
        let (document, old) = value.split_once(':').ok_or_else(malformed)?;
        let old = if old.is_empty() { None } else { Some(number(old)?) };
        Ok(Self { document: number(document)?, old, refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_names_descriptors_above_the_standard_streams() {
        let both = Handover { document: 70, old: Some(71), refused: None };
        assert_eq!(Handover::parse("70:71", None).unwrap(), both);
        let back = Handover { document: 70, old: None, refused: Some("x".into()) };
        assert_eq!(Handover::parse("70:", Some("x".into())).unwrap(), back);
        for bad in ["", "70", ":71", "2:71", "70:1", "70:x", "-3:"] {
            assert!(Handover::parse(bad, None).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
