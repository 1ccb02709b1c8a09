//! The decoders of D-Bus and of the GVariant text format. The oracle is the encoder: an accepted message is the same after it
//! is encoded and decoded again, and it needs no more memory than its size allows.

use berth_runtime::fuzzing::cgroup::{gvariant as parse, message, message_size};

/// The longest signature that D-Bus has.
const SIGNATURE: usize = 255;

pub fn run(data: &[u8]) {
    match message_size(data) {
        Ok(Some(size)) => assert!((16..=1 << 20).contains(&size), "{size}"),
        Ok(None) => assert!(data.len() < 16),
        Err(_) => {}
    }
    let Ok((text, longest, encoded)) = message(data) else { return };
    // A value needs at least one byte, and its text a bounded number of letters for each.
    assert!(text.len() <= 4096 + 200 * data.len(), "{} letters of {} bytes", text.len(), data.len());
    if longest <= SIGNATURE {
        let (again, ..) = message(&encoded).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(without_braces(&again), without_braces(&text));
        assert_eq!(message_size(&encoded), Ok(Some(encoded.len())));
    }
}

/// An entry of a dictionary is decoded as a structure, and written as one.
fn without_braces(text: &str) -> String {
    text.replace(['{', '('], "(").replace(['}', ')'], ")")
}

pub fn gvariant(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok((printed, longest, encoded)) = parse(&text) else { return };
    if longest <= SIGNATURE {
        let (again, ..) = message(&encoded).unwrap_or_else(|e| panic!("{e}: {printed}"));
        assert_eq!(again, printed);
    }
}
