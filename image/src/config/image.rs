//! The configuration of an image (config.md), with the fields that berth reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::source::nullable;

/// The document.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    /// When the image was made (RFC 3339).
    #[serde(default, deserialize_with = "nullable")]
    pub created: String,
    /// The author of the image.
    #[serde(default, deserialize_with = "nullable")]
    pub author: String,
    /// `GOARCH`.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, deserialize_with = "nullable")]
    pub variant: String,
    /// `GOOS`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// The version of the operating system.
    #[serde(default, rename = "os.version", deserialize_with = "nullable")]
    pub os_version: String,
    /// Features that the operating system must have.
    #[serde(default, rename = "os.features", deserialize_with = "nullable")]
    pub os_features: Vec<String>,
    /// The settings of a container.
    #[serde(default, deserialize_with = "nullable")]
    pub config: Execution,
    /// The layers by their content.
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
}

/// The settings of a container of the image (`config` of config.md).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    /// `user`, `uid`, `user:group` and so on; empty for root.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// `PORT/PROTOCOL` as keys.
    #[serde(deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=VALUE` each.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The first words of the command line.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// The arguments, which a caller can replace.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Paths as keys.
    #[serde(deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Value>,
    /// The working directory.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends the container.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
}

/// The layers by their content.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, the lowest first.
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}
