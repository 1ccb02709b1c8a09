//! Private functions for the fuzz targets (`integration/fuzz`). Nothing that is shipped enables this feature.

use serde_json::Value;

pub use crate::{
    registry::fuzzing::{PlainOrigin, challenges, next_link, origin, repository, url},
    source::fuzzing::{full_name, index, items, manifest},
};

/// The documents of an image, as far as their types accept the text: index, manifest, manifest.json, configuration.
pub fn documents(text: &[u8]) -> [Option<String>; 4] {
    let config = serde_json::from_slice::<crate::config::image::ImageConfig>(text).ok();
    [index(text), manifest(text), items(text), config.map(|config| format!("{config:?}"))]
}

/// Returns true if a text is JSON.
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok()
}
