//! The JSON documents of an image, with the fields that berth reads. Unknown fields are allowed everywhere (image-spec,
//! considerations.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A value that is missing or null is the default: docker writes `null` for empty lists.
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A content descriptor (descriptor.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type.
    #[serde(default, deserialize_with = "nullable")]
    pub media_type: String,
    /// The digest.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// The content itself in base64, where the document embeds it.
    #[serde(default)]
    pub data: Option<String>,
    /// The platform, in an index.
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    /// Annotations.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of a descriptor.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DescriptorPlatform {
    /// `GOOS`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// `GOARCH`.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, deserialize_with = "nullable")]
    pub variant: String,
}

/// An image index (image-index.md) or a docker manifest list.
#[derive(Debug, Deserialize)]
pub struct Index {
    /// Its entries.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// An image manifest (manifest.md) or a docker manifest of version 2, schema 2.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
}

/// An item of a docker-archive's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Item {
    /// The member with the configuration.
    pub config: String,
    /// The names of the image.
    #[serde(default, deserialize_with = "nullable")]
    pub repo_tags: Vec<String>,
    /// The members with the layers, the lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<String>,
}
