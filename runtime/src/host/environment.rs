//! The environment that the runtime's caller gave it. Hooks and programs of the host inherit it.

use std::{ffi::OsString, sync::OnceLock};

/// A variable of this process that the caller did not give it, and the caller's value.
static OWN: OnceLock<(&str, Option<OsString>)> = OnceLock::new();

/// Keeps the variable `name` of this process from hooks and programs. They get the caller's value instead, if there is
/// one. Later calls change nothing.
pub fn keep_own(name: &'static str, callers: Option<OsString>) {
    let _ = OWN.set((name, callers));
}

/// Returns the caller's environment, as `NAME=value`.
pub fn of_caller() -> Vec<Vec<u8>> {
    let own = OWN.get();
    let callers = std::env::vars_os().filter(|(name, _)| own.is_none_or(|(own, _)| name != own));
    let replaced = own.and_then(|(name, value)| Some(((*name).into(), value.clone()?)));
    callers
        .chain(replaced)
        .map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_variable_is_replaced_by_the_callers() {
        let find = || of_caller().into_iter().find(|pair| pair.starts_with(b"CARGO_MANIFEST_DIR="));
        assert!(find().is_some());
        keep_own("CARGO_MANIFEST_DIR", Some("/of/the/caller".into()));
        assert_eq!(find().unwrap(), b"CARGO_MANIFEST_DIR=/of/the/caller");
        assert_eq!(of_caller().len(), std::env::vars_os().count());
    }
}
