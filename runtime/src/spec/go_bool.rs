//! Booleans in the notation of Go, which the flags of runc and of containerd's shims have.

/// Reads a boolean as Go's `strconv.ParseBool` does; `None` for any other text.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
