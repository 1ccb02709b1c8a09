//! The docker-archive: manifest.json names configuration and layers by their members of the tar.

use berth_runtime::{Context, Error, Result};

use super::{Choice, Image, Store, pair, parse, same_name, types::Item};
use crate::{config::image::ImageConfig, stream::Layer, text::escaped};

/// Chooses an image by its name or place.
pub fn choose(store: &Store, choice: &Choice) -> Result<Image> {
    if !store.has("manifest.json") {
        return Err(Error::invalid(if store.has("repositories") {
            "the image was saved by docker before 1.10, whose format is not supported"
        } else {
            "neither an OCI image layout nor a docker-archive: oci-layout and manifest.json are missing"
        }));
    }
    let items: Vec<Item> = parse("manifest.json", &store.document("manifest.json")?)?;
    let item = chosen(&items, choice)?;
    let config: ImageConfig = parse(&escaped(item.config.as_bytes()), &store.document(&item.config)?)?;
    let diff_ids = pair(&config, item.layers.len())?;
    let layers = item.layers.iter().zip(diff_ids).map(|(name, diff_id)| {
        let blob = store.blob(name).with_context(|| format!("layer {}", escaped(name.as_bytes())))?;
        if blob.size() == 0 {
            return Err(Error::invalid(format!("layer {}: it is empty in the image", escaped(name.as_bytes()))));
        }
        Ok(Layer { name: escaped(name.as_bytes()), blob, digest: None, diff_id })
    });
    Ok(Image { layers: layers.collect::<Result<_>>()?, config })
}

fn chosen<'a>(items: &'a [Item], choice: &Choice) -> Result<&'a Item> {
    let names = || {
        let name = |(at, item): (usize, &Item)| match item.repo_tags.as_slice() {
            [] => format!("@{at}"),
            tags => tags.iter().map(|tag| escaped(tag.as_bytes())).collect::<Vec<_>>().join(" "),
        };
        items.iter().enumerate().map(name).collect::<Vec<_>>().join(", ")
    };
    match choice {
        Choice::Only => match items {
            [item] => Ok(item),
            [] => Err(Error::invalid("manifest.json has no image")),
            _ => Err(Error::invalid(format!("several images, of which one has to be named: {}", names()))),
        },
        Choice::At(at) => {
            items.get(*at).ok_or_else(|| Error::invalid(format!("no image @{at}: {} there", items.len())))
        }
        Choice::Name(name) => items
            .iter()
            .find(|item| item.repo_tags.iter().any(|tag| same_name(name, tag)))
            .ok_or_else(|| Error::invalid(format!("no image {}; there are: {}", escaped(name.as_bytes()), names()))),
    }
}
