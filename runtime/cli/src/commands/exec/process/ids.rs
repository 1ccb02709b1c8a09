//! The flag `--user` of `exec`.

use berth_runtime::{Error, Result};

/// Reads `uid` or `uid:gid`. An id consists of decimal digits and fits 32 bits; 2^32 - 1 is refused, because the kernel takes
/// it for "unchanged" (setresuid(2)). A runtime that read `4294967296` or a trailing word as another id gave root
/// (CVE-2026-30892).
pub fn ids(text: &str) -> Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let gid = gid.map(|gid| id("gid", gid)).transpose()?;
    Ok((id("uid", uid)?, gid))
}

fn id(what: &str, text: &str) -> Result<u32> {
    let invalid = |why| Error::invalid(format!("bad {what}: parsing {text:?}: {why}"));
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid("invalid syntax"));
    }
    text.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| invalid("value out of range"))
}
