//! Keeps the last few compiled filters in memory, keyed by the content of the profile.
//!
//! The key is the packed content itself and no digest, so two different profiles never share an entry.

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::Filter;
use crate::Result;

/// Number of cached filters. The containers of a node use one to three profiles.
const ENTRIES: usize = 8;

/// A packed profile, and the filter that it compiles to.
type Entry = (Box<[u8]>, Arc<Filter>);

/// The most recently used entry is last.
static CACHE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Returns the cached filter for this profile. Without one, calls `compile` and caches its result unless it is an
/// error.
pub fn get_or(profile: &LinuxSeccomp, compile: impl FnOnce() -> Result<Filter>) -> Result<Arc<Filter>> {
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
    // Compiles without the lock. Two threads may compile the same profile; the second then uses the first's filter.
    let filter = Arc::new(compile()?);
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

/// Packs all fields that the filter depends on. A length precedes each list and string, so the packing is injective.
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
    // A missing list of flags and an empty one have different meanings.
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Error;

    fn parse(profile: Value) -> LinuxSeccomp {
        serde_json::from_value(profile).unwrap()
    }

    /// Returns a profile that no other test uses.
    fn profile(errno: u32) -> LinuxSeccomp {
        parse(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno}))
    }

    #[test]
    fn cache_compiles_equal_profiles_once_and_keeps_no_errors() {
        let _alone = ALONE.lock().unwrap();
        let fails = get_or(&profile(900), || Err(Error::invalid("no")));
        assert!(fails.is_err());
        let made = get_or(&profile(900), || Ok(Filter::new(Vec::new(), 1))).unwrap();
        let again = get_or(&profile(900), || panic!("it is kept")).unwrap();
        assert!(Arc::ptr_eq(&made, &again));
        let other = get_or(&profile(901), || Ok(Filter::new(Vec::new(), 2))).unwrap();
        assert_eq!((made.flags(), other.flags()), (1, 2));
    }

    #[test]
    fn cache_drops_the_least_recently_used_filter() {
        let _alone = ALONE.lock().unwrap();
        let make = |n| get_or(&profile(n), || Ok(Filter::new(Vec::new(), n))).unwrap();
        let first = make(1000);
        let mut count = 0;
        for n in 1001..1000 + u32::try_from(ENTRIES).unwrap() {
            make(n);
            // The first entry is used again each time, so it stays.
            assert!(Arc::ptr_eq(&first, &make(1000)));
            count += 1;
        }
        assert_eq!(count, ENTRIES - 1);
        make(2000);
        assert!(Arc::ptr_eq(&first, &make(1000)));
        let made = std::cell::Cell::new(false);
        get_or(&profile(1001), || {
            made.set(true);
            Ok(Filter::new(Vec::new(), 0))
        })
        .unwrap();
        assert!(made.get(), "the least recently used one is gone");
        assert_eq!(CACHE.lock().unwrap().len(), ENTRIES);
    }

    #[test]
    fn different_profiles_have_different_cache_keys() {
        let arg = |index, value, two, op| json!({"index": index, "value": value, "valueTwo": two, "op": op});
        let rule = |names: Value, args: Value| json!({"names": names, "action": "SCMP_ACT_LOG", "args": args});
        let base = |syscalls: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls});
        let all = [
            json!({"defaultAction": "SCMP_ACT_ERRNO"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": []}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"]}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}),
            base(json!([rule(json!(["ab", "c"]), json!([]))])),
            base(json!([rule(json!(["a", "bc"]), json!([]))])),
            base(json!([rule(json!(["abc"]), json!([]))])),
            base(json!([rule(json!(["ab"]), json!([])), rule(json!(["c"]), json!([]))])),
            base(json!([rule(json!(["ab"]), json!([arg(0, 1, 0, "SCMP_CMP_EQ")]))])),
            base(json!([rule(json!(["ab"]), json!([arg(1, 1, 0, "SCMP_CMP_EQ")]))])),
            base(json!([rule(json!(["ab"]), json!([arg(0, 2, 0, "SCMP_CMP_EQ")]))])),
            base(json!([rule(json!(["ab"]), json!([arg(0, 1, 1, "SCMP_CMP_EQ")]))])),
            base(json!([rule(json!(["ab"]), json!([arg(0, 1, 0, "SCMP_CMP_NE")]))])),
        ];
        let packed: Vec<_> = all.iter().map(|profile| pack(&parse(profile.clone()))).collect();
        for (n, one) in packed.iter().enumerate() {
            for (k, other) in packed.iter().enumerate() {
                assert_eq!(one == other, n == k, "{} {}", all[n], all[k]);
            }
        }
    }

    /// Serialises the tests, because the cache is a static of the process.
    static ALONE: Mutex<()> = Mutex::new(());
}
