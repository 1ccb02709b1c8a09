//! config.json: read, checked, and the one that `spec` writes.

pub mod bundle;
pub mod check;
pub mod default_spec;
pub mod go_bool;
pub mod go_json;
mod json_place;
mod strict_json;
