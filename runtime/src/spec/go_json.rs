//! Parses JSON as Go's encoding/json does, because callers' files were written for it.
//!
//! encoding/json replaces bytes that are not UTF-8, and unpaired surrogates, by U+FFFD. serde_json refuses both. The
//! text is repaired only after serde_json has refused it, so a valid text costs nothing extra.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// The character that replaces invalid bytes and unpaired surrogates.
const REPLACEMENT: &str = "\u{fffd}";

/// Parses a text into a type.
///
/// # Errors
/// As [`serde_json::from_slice`].
pub fn read<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).or_else(|e| match repaired(json) {
        Cow::Owned(json) => serde_json::from_slice(&json),
        Cow::Borrowed(_) => Err(e),
    })
}

/// Returns the text with replacement characters as Go would put them. Borrows a text without faults.
pub fn repaired(json: &[u8]) -> Cow<'_, [u8]> {
    match surrogates(json) {
        Cow::Borrowed(json) => bytes(json),
        Cow::Owned(json) => Cow::Owned(bytes(&json).into_owned()),
    }
}

/// Replaces each byte that is not part of a UTF-8 sequence.
fn bytes(json: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(json).is_ok() {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len().saturating_add(64));
    for chunk in json.utf8_chunks() {
        out.extend(chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|_| out.extend(REPLACEMENT.as_bytes()));
    }
    Cow::Owned(out)
}

/// Replaces the escapes of unpaired surrogates. `\ud83d\ude00` is one character, and each half alone is none.
fn surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(backslash) = json.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        let escape = at + backslash;
        at = match unit(json, escape) {
            None => escape + 2,
            Some(0xd800..=0xdbff) if matches!(unit(json, escape + 6), Some(0xdc00..=0xdfff)) => escape + 12,
            Some(0xd800..=0xdfff) => {
                out.extend(json.get(kept..escape).unwrap_or_default());
                out.extend(REPLACEMENT.as_bytes());
                kept = escape + 6;
                kept
            }
            Some(_) => escape + 6,
        };
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    out.extend(json.get(kept..).unwrap_or_default());
    Cow::Owned(out)
}

/// Returns the number of the escape `\uXXXX` at `at`, if there is one.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..)?.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &[u8]) -> String {
        read::<String>(json).unwrap_or_else(|e| panic!("{}: {e}", json.escape_ascii()))
    }

    /// The expected texts are the results of Go 1.26's encoding/json.
    #[test]
    fn invalid_characters_are_replaced_as_in_go() {
        for (json, want) in [
            (&br#""plain""#[..], "plain"),
            (b"\"a\xffb\"", "a\u{fffd}b"),
            (b"\"\xe2\x82\"", "\u{fffd}\u{fffd}"),
            (b"\"\xc0\xaf\xf0\x9f\x98\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\"\xed\xa0\x80\"", "\u{fffd}\u{fffd}\u{fffd}"),
            (br#""\ud800""#, "\u{fffd}"),
            (br#""\udc00\ud800""#, "\u{fffd}\u{fffd}"),
            (br#""a\ud83dz""#, "a\u{fffd}z"),
            (br#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (br#""\ud83d\u0041""#, "\u{fffd}A"),
            (br#""\uD83D\uDE00""#, "\u{1f600}"),
            (b"\"\\ud800 \xff\"", "\u{fffd} \u{fffd}"),
            (br#""\\ud800""#, "\\ud800"),
            (br#""\"\ud800\"""#, "\"\u{fffd}\""),
            ("\"ü\u{fffd}\"".as_bytes(), "ü\u{fffd}"),
        ] {
            assert_eq!(text(json), want, "{}", json.escape_ascii());
        }
    }

    #[test]
    fn malformed_json_is_refused_after_the_repair() {
        for json in [&b"\"a"[..], b"{\xff}", br#""\ud8""#, br#""\ux000""#, br#""\"#, b"\xff", br#""\udc0"#, b""] {
            assert!(read::<serde_json::Value>(json).is_err(), "{}", json.escape_ascii());
        }
    }

    #[test]
    fn valid_json_is_not_copied() {
        for json in [&br#"{"a":"\ud83d\ude00 \\ \n"}"#[..], "ü".as_bytes(), b""] {
            assert!(matches!(repaired(json), Cow::Borrowed(_)));
        }
    }
}
