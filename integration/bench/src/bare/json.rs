//! Reading values of config.json, and the error of everything in this module.

use std::ffi::{CStr, CString};

use serde_json::Value;

/// Why a bundle cannot be used, or a system call that failed.
pub type Failure = Box<dyn std::error::Error>;

/// A string of the document.
pub fn word(value: &Value) -> Option<&str> {
    value.as_str()
}

/// The elements of a list; none when there is none.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The strings of a list.
///
/// # Errors
/// One that is no string, or has a NUL in it.
pub fn strings(value: &Value) -> Result<Vec<CString>, Failure> {
    list(value).map(|item| c_string(word(item).ok_or_else(|| format!("{item} is no string"))?)).collect()
}

/// A string for the kernel.
///
/// # Errors
/// A NUL in it.
pub fn c_string(text: &str) -> Result<CString, Failure> {
    Ok(CString::new(text)?)
}

/// The text of a string for the kernel, for messages and comparisons.
pub fn text(string: &CStr) -> String {
    string.to_string_lossy().into_owned()
}

/// Refuses members that are not among those.
pub fn known(object: &Value, names: &[&str]) -> Result<(), Failure> {
    let mut members = object.as_object().into_iter().flatten();
    match members.find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("config.json: {name}: not known here").into()),
        None => Ok(()),
    }
}
