//! Saved images: this module opens a source, chooses one of its images, and finds the layers.
//!
//! A source is a directory with an OCI image layout, or a tar with such a layout, with the members of a docker-archive, or
//! with both (docker from 25 on, nerdctl). A tar that is compressed as a whole, or that comes through a pipe, is written
//! uncompressed to a file without a name first, since its members stand in any order.

mod docker;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layout;
mod platform;
mod store;
mod types;

use std::path::Path;

use berth_runtime::{Context, Error, Kind, Result};

pub(crate) use self::types::nullable;
pub use self::{platform::Platform, store::Store};
use crate::{
    config::image::ImageConfig,
    limits,
    names::{DEFAULT, split_host},
    stream::{Layer, digest::Digest},
};

/// The caller's choice among the images of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The only one.
    #[default]
    Only,
    /// The one of this name or tag.
    Name(String),
    /// The one at this place in the index or in manifest.json, from 0 on.
    At(usize),
}

/// An image that was chosen.
#[derive(Debug)]
pub struct Image {
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// Splits `PATH[:NAME]` or `PATH[@N]`: the longest path that exists comes first, so a colon in a path does no harm.
///
/// # Errors
/// There is no such path.
pub fn split(text: &str) -> Result<(&Path, Choice)> {
    if Path::new(text).exists() {
        return Ok((Path::new(text), Choice::Only));
    }
    for (at, sign) in text.rmatch_indices([':', '@']) {
        let (path, rest) = (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        if path.is_empty() || !Path::new(path).exists() {
            continue;
        }
        let choice = match (sign, rest.parse()) {
            ("@", Ok(number)) => Choice::At(number),
            ("@", Err(_)) => continue,
            _ => Choice::Name(rest.to_owned()),
        };
        return Ok((Path::new(path), choice));
    }
    Err(Error::new(Kind::NotFound, format!("image {text}: no such file or directory")))
}

/// Chooses an image of a store.
///
/// # Errors
/// There is none of that name or platform, or several; or its documents are malformed or do not fit their digests.
pub fn choose(store: &Store, choice: &Choice, platform: &Platform) -> Result<Image> {
    if !store.has("oci-layout") {
        return docker::choose(store, choice);
    }
    match layout::choose(store, choice, platform) {
        // docker has written layouts that lack images which manifest.json has (moby#47065, moby#47210, moby#51389). A
        // layout that does not fit its digests is an error: manifest.json has none, so it would hide the difference.
        Err(e) if e.kind() == Kind::NotFound && store.has("manifest.json") => {
            docker::choose(store, choice).map_err(|_| e)
        }
        chosen => chosen,
    }
}

/// Checks that configuration and layers belong together: one `diff_id` a layer.
fn pair(config: &ImageConfig, layers: usize) -> Result<Vec<Digest>> {
    if config.rootfs.diff_ids.len() != layers {
        return Err(Error::invalid(format!(
            "the image has {layers} layers, its configuration {} diff_ids",
            config.rootfs.diff_ids.len()
        )));
    }
    if layers > limits::LAYERS {
        return Err(Error::invalid(format!("the image has {layers} layers, more than {}", limits::LAYERS)));
    }
    config.rootfs.diff_ids.iter().map(|text| Digest::parse(text)).collect::<Result<_>>().context("diff_ids")
}

/// Reads a JSON document, and names it in errors.
fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| Error::invalid(format!("{name}: {e}")))
}

/// The names that an image is asked for by: as given; with `:latest`; and as docker completes them.
fn same_name(asked: &str, has: &str) -> bool {
    asked == has || normal(asked) == normal(has)
}

/// A name with registry, namespace and tag.
fn normal(name: &str) -> String {
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let path = match split_host(path) {
        Some(_) => path.to_owned(),
        None if path.contains('/') => format!("{DEFAULT}/{path}"),
        None => format!("{DEFAULT}/library/{path}"),
    };
    format!("{path}:{tag}")
}

#[cfg(test)]
mod tests;
