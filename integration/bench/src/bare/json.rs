//! Reading values of config.json, and the error of everything in this module.

use serde_json::Value;
use std::ffi::{CStr, CString};

/// The reason for which a bundle cannot be used, or a failed system call.
pub type Failure = Box<dyn std::error::Error>;

/// Returns the string of a value.
pub fn word(value: &Value) -> Option<&str> {
    value.as_str()
}

/// Returns the elements of a list, or none if the value is not a list.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Returns the strings of a list.
///
/// # Errors
/// An element is not a string, or has a NUL.
pub fn strings(value: &Value) -> Result<Vec<CString>, Failure> {
    list(value).map(|item| c_string(word(item).ok_or_else(|| format!("{item} is no string"))?)).collect()
}

/// Converts a string for system calls.
///
/// # Errors
/// The string has a NUL.
pub fn c_string(text: &str) -> Result<CString, Failure> {
    Ok(CString::new(text)?)
}

/// Converts a C string for messages and comparisons.
pub fn text(string: &CStr) -> String {
    string.to_string_lossy().into_owned()
}

/// Refuses members that `names` does not have.
pub fn known(object: &Value, names: &[&str]) -> Result<(), Failure> {
    let mut members = object.as_object().into_iter().flatten();
    match members.find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("config.json: {name}: not known here").into()),
        None => Ok(()),
    }
}
