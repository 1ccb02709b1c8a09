//! The OCI image layout: index.json leads by digests to manifests, configurations and layers (image-layout.md).

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_runtime::{Context, Error, Kind, Result};

use super::{
    Choice, Image, Platform, Store, pair, parse, same_name,
    types::{Descriptor, Index, Manifest},
};
use crate::{
    config::image::ImageConfig,
    limits,
    stream::{Layer, digest::Digest},
    text::escaped,
};

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// The beginnings of the media types of layers; what follows says the compression, which the content says as well.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// The annotations of index.json with a name: the specification's, and the full name of containerd and docker.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Chooses an image by its name or place, and by platform.
pub fn choose(store: &Store, choice: &Choice, platform: &Platform) -> Result<Image> {
    let index: Index = parse("index.json", &store.document("index.json")?)?;
    let descriptor = named(&index.manifests, choice, platform)?;
    let manifest = manifest(store, descriptor, platform, limits::INDEXES)?;
    if !CONFIGS.contains(&manifest.config.media_type.as_str()) {
        return Err(Error::invalid(format!(
            "not an image that runs: its configuration is of type {}",
            escaped(manifest.config.media_type.as_bytes())
        )));
    }
    let config: ImageConfig = parse("the configuration", &document(store, &manifest.config).context("configuration")?)?;
    let diff_ids = pair(&config, manifest.layers.len())?;
    let layers = manifest.layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| layer(store, descriptor, diff_id));
    let layers: Vec<_> = layers.collect::<Result<_>>()?;
    if layers.is_empty() {
        return Err(Error::new(Kind::NotFound, "the image has no layers"));
    }
    Ok(Image { config, layers })
}

/// The descriptor of index.json that is asked for. Names need not be unique; then the platform decides.
fn named<'a>(manifests: &'a [Descriptor], choice: &Choice, platform: &Platform) -> Result<&'a Descriptor> {
    let names = |descriptor: &Descriptor| -> Vec<String> {
        NAMES.iter().filter_map(|key| descriptor.annotations.get(*key)).cloned().collect()
    };
    let list = || {
        let each = manifests.iter().enumerate().map(|(at, descriptor)| match names(descriptor).first() {
            Some(name) => escaped(name.as_bytes()),
            None => format!("@{at}"),
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let matching: Vec<&Descriptor> = match choice {
        Choice::At(at) => manifests.get(*at).into_iter().collect(),
        Choice::Only => manifests.iter().collect(),
        Choice::Name(asked) => {
            let has = |descriptor: &&Descriptor| {
                names(descriptor).iter().any(|name| name == asked || (name.contains('/') && same_name(asked, name)))
            };
            manifests.iter().filter(has).collect()
        }
    };
    match matching.as_slice() {
        [one] => Ok(one),
        [] if manifests.is_empty() => Err(Error::new(Kind::NotFound, "index.json has no image")),
        [] => Err(Error::new(Kind::NotFound, format!("no such image; there are: {}", list()))),
        several => {
            let mut fitting: Vec<_> =
                several.iter().filter(|one| platform.fits(one).is_some_and(|rank| rank < 100)).collect();
            match (fitting.pop(), fitting.is_empty()) {
                (Some(one), true) => Ok(one),
                _ => Err(Error::invalid(format!("several images, of which one has to be named: {}", list()))),
            }
        }
    }
}

/// Follows indexes down to the manifest for the platform.
fn manifest(store: &Store, descriptor: &Descriptor, platform: &Platform, depth: usize) -> Result<Manifest> {
    let text = document(store, descriptor)?;
    let name = escaped(descriptor.digest.as_bytes());
    let media_type = descriptor.media_type.as_str();
    if MANIFESTS.contains(&media_type) {
        return parse(&name, &text);
    }
    if !INDEXES.contains(&media_type) {
        return Err(Error::invalid(format!("not an image: {name} is of type {}", escaped(media_type.as_bytes()))));
    }
    let depth = depth.checked_sub(1).ok_or_else(|| Error::invalid("indexes are nested too deep"))?;
    let index: Index = parse(&name, &text)?;
    let mut fitting: Vec<_> =
        index.manifests.iter().filter_map(|entry| platform.fits(entry).map(|rank| (rank, entry))).collect();
    fitting.sort_by_key(|(rank, _)| *rank);
    let (_, chosen) = fitting
        .first()
        .ok_or_else(|| Error::invalid(format!("no image for the platform {platform} in index {name}")))?;
    manifest(store, chosen, platform, depth)
}

/// A JSON document by its descriptor, with size and digest checked.
fn document(store: &Store, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let digest = Digest::parse(&descriptor.digest)?;
    let read = || -> Result<Vec<u8>> {
        match &descriptor.data {
            Some(data) if u64::try_from(data.len()).is_ok_and(|len| len <= limits::JSON * 2) => {
                STANDARD.decode(data).map_err(|_| Error::invalid("its embedded data is no base64"))
            }
            _ => store.document(&digest.path()),
        }
    };
    let text = read().with_context(|| digest.to_string())?;
    check_size(descriptor, text.len() as u64).with_context(|| digest.to_string())?;
    digest.check_bytes(&text)?;
    Ok(text)
}

fn layer(store: &Store, descriptor: &Descriptor, diff_id: Digest) -> Result<Layer> {
    let digest = Digest::parse(&descriptor.digest)?;
    let name = digest.to_string();
    let found = || -> Result<_> {
        if !LAYERS.iter().any(|start| descriptor.media_type.starts_with(start)) {
            return Err(Error::unsupported(format!("media type {}", escaped(descriptor.media_type.as_bytes()))));
        }
        let blob = store.blob(&digest.path())?;
        check_size(descriptor, blob.size())?;
        Ok(blob)
    };
    let blob = found().with_context(|| format!("layer {name}"))?;
    Ok(Layer { name, blob, digest: Some(digest), diff_id })
}

fn check_size(descriptor: &Descriptor, size: u64) -> Result<()> {
    if u64::try_from(descriptor.size).is_ok_and(|said| said == size) {
        return Ok(());
    }
    Err(Error::invalid(format!("it has {size} bytes, its descriptor says {}", descriptor.size)))
}
