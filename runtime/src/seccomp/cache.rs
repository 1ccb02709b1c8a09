//! The last few compiled filters, in memory, found by the content of the profile.
//!
//! The key is the content itself, packed, rather than a digest of it: no two profiles can share an entry.

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::Filter;
use crate::Result;

/// A node's containers use one to three profiles.
const ENTRIES: usize = 8;

/// A packed profile and what it compiles to.
type Entry = (Box<[u8]>, Arc<Filter>);

/// Most recently used last.
static CACHE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// The filter for this content, made by `make` if none is kept. Errors are not kept.
pub fn get_or(profile: &LinuxSeccomp, make: impl FnOnce() -> Result<Filter>) -> Result<Arc<Filter>> {
    let key = pack(profile);
    let find = |cache: &mut Vec<Entry>| {
        let at = cache.iter().position(|(known, _)| **known == *key)?;
        let entry = cache.remove(at);
        let filter = entry.1.clone();
        cache.push(entry);
        Some(filter)
    };
    let lock = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = find(&mut lock()) {
        return Ok(filter);
    }
    // Not under the lock: two threads may both compile, and the second finds the first's.
    let filter = Arc::new(make()?);
    let mut cache = lock();
    if let Some(filter) = find(&mut cache) {
        return Ok(filter);
    }
    if cache.len() >= ENTRIES {
        cache.remove(0);
    }
    cache.push((key.into_boxed_slice(), filter.clone()));
    Ok(filter)
}

/// Everything the filter depends on, each list and string after its length, so that no two profiles pack alike.
fn pack(profile: &LinuxSeccomp) -> Vec<u8> {
    let mut out = Vec::with_capacity(8192);
    let number = |out: &mut Vec<u8>, n: u64| out.extend(n.to_le_bytes());
    let optional = |out: &mut Vec<u8>, n: Option<u64>| match n {
        Some(n) => {
            out.push(1);
            number(out, n);
        }
        None => out.push(0),
    };
    let length = |out: &mut Vec<u8>, n: usize| out.extend(n.to_le_bytes());
    out.push(profile.default_action() as u8);
    optional(&mut out, profile.default_errno_ret().map(u64::from));
    length(&mut out, profile.architectures().iter().flatten().count());
    profile.architectures().iter().flatten().for_each(|arch| number(&mut out, u64::from(*arch as u32)));
    // No flags at all and an empty list differ.
    optional(&mut out, profile.flags().as_ref().map(|_| 0));
    length(&mut out, profile.flags().iter().flatten().count());
    profile.flags().iter().flatten().for_each(|flag| out.push(*flag as u8));
    for entry in profile.syscalls().iter().flatten() {
        out.push(entry.action() as u8);
        optional(&mut out, entry.errno_ret().map(u64::from));
        length(&mut out, entry.names().len());
        for name in entry.names() {
            length(&mut out, name.len());
            out.extend(name.as_bytes());
        }
        length(&mut out, entry.args().iter().flatten().count());
        for arg in entry.args().iter().flatten() {
            out.push(arg.op() as u8);
            length(&mut out, arg.index());
            number(&mut out, arg.value());
            optional(&mut out, arg.value_two());
        }
    }
    out
}
