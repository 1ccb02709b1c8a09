//! Names out of an image as text for a terminal.

use std::fmt::Write;

/// Renders the bytes of a name: control characters, backslashes and bytes that are not UTF-8 come as `\xNN`, so that a
/// name cannot drive the terminal, and long names are cut to 200 characters.
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    let mut count = 0;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if count == 200 {
                text.push('…');
                return text;
            }
            count += 1;
            if c.is_control() || c == '\\' || is_directional(c) {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The characters that change the direction of text (CVE-2021-42574).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_invalid_bytes_are_escaped() {
        assert_eq!(escaped(b"etc/hosts"), "etc/hosts");
        assert_eq!(escaped(b"a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
        assert_eq!(escaped(b"a\xffb\\"), "a\\xffb\\x5c");
        assert_eq!(escaped("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
        assert_eq!(escaped("é".repeat(300).as_bytes()).chars().count(), 201);
    }
}
