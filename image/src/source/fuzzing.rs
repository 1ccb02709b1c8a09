//! The documents of a source for the fuzz targets.

use super::{
    normal,
    types::{Index, Item, Manifest},
};

/// Reads an index.
pub fn index(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<Index>(text).ok().map(|index| format!("{index:?}"))
}

/// Reads a manifest.
pub fn manifest(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<Manifest>(text).ok().map(|manifest| format!("{manifest:?}"))
}

/// Reads manifest.json of a docker-archive.
pub fn items(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<Vec<Item>>(text).ok().map(|items| format!("{items:?}"))
}

/// A name with registry, namespace and tag.
pub fn full_name(name: &str) -> String {
    normal(name)
}
