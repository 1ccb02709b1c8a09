//! Mount options `idmap=…` and `ridmap=…` with their own mappings, an extension of crun that podman uses for volumes.
//!
//! They become the mount's `uidMappings` and `gidMappings` of the OCI spec. The example is
//! `idmap=uids=0-100-10#10-200-5;gids=@0-1-10`. A triplet holds the first id in the file system, the first id on the
//! host, and the number of ids. After `@`, the second id is an id of the container's user namespace. The code does no
//! I/O.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, Spec};

use crate::{Context, Error, Result, id_maps::Ids};

/// Moves the mappings of all mounts of a config.json from the options to `uidMappings` and `gidMappings`. The option
/// `idmap` or `ridmap` stays.
///
/// # Errors
/// As [`translate_list`].
pub fn translate(spec: &mut Spec) -> Result<()> {
    // Few configurations have such options. In the others even a faulty mapping of the container is no error here.
    if !spec.mounts().iter().flatten().any(has_mapping) {
        return Ok(());
    }
    let of_container = Ids::from_spec(spec)?;
    translate_list(spec.mounts_mut().as_deref_mut().unwrap_or_default(), &of_container)
}

/// Does the same for a list of mounts of a container with the mappings `of_container`.
///
/// # Errors
/// Names the mount and its option if the mapping is malformed, or if the mount has `uidMappings` or `gidMappings` too.
pub fn translate_list(mounts: &mut [Mount], of_container: &Ids) -> Result<()> {
    for (n, mount) in mounts.iter_mut().enumerate().filter(|(_, mount)| has_mapping(mount)) {
        let mut options = mount.options().clone().unwrap_or_default();
        let mut found = (None, None);
        for option in &mut options {
            let Some((plain, text)) = split_option(option) else { continue };
            found = parse(text, of_container).with_context(|| format!("mounts[{n}].options: {option}"))?;
            *option = plain.to_owned();
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            let text = "an option with mappings beside uidMappings or gidMappings";
            return Err(Error::invalid(format!("mounts[{n}].options: {text}")));
        }
        mount.set_options(Some(options)).set_uid_mappings(found.0).set_gid_mappings(found.1);
    }
    Ok(())
}

fn has_mapping(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| split_option(option).is_some())
}

/// Splits `idmap=…` into the plain option and its mappings.
fn split_option(option: &str) -> Option<(&'static str, &str)> {
    ["idmap", "ridmap"].into_iter().find_map(|plain| Some((plain, option.strip_prefix(plain)?.strip_prefix('=')?)))
}

/// The mappings of one kind of ids, if the option has any.
type Mappings = Option<Vec<LinuxIdMapping>>;

fn parse(text: &str, of_container: &Ids) -> Result<(Mappings, Mappings)> {
    let (mut uids, mut gids) = (None, None);
    for part in text.split(';') {
        let (list, host): (_, &dyn Fn(u32) -> Result<u32>) = match part.split_once('=') {
            Some(("uids", list)) => (list, &|id| of_container.host_uid(id, "uids")),
            Some(("gids", list)) => (list, &|id| of_container.host_gid(id, "gids")),
            _ => return Err(Error::invalid(format!("{part:?} is neither uids= nor gids="))),
        };
        let relative = |id| match of_container.has_mappings() {
            true => host(id),
            false => Err(Error::invalid("the container has no user namespace with mappings")),
        };
        let mappings = list.split('#').map(|triplet| parse_triplet(triplet, &relative)).collect::<Result<_>>()?;
        *if part.starts_with('u') { &mut uids } else { &mut gids } = Some(mappings);
    }
    Ok((uids, gids))
}

fn parse_triplet(triplet: &str, relative: &dyn Fn(u32) -> Result<u32>) -> Result<LinuxIdMapping> {
    let bad = || Error::invalid(format!("{triplet:?} is no mapping such as 0-100000-65536"));
    let relative_triplet = triplet.strip_prefix('@');
    let numbers = relative_triplet.unwrap_or(triplet).split('-').map(str::parse).collect::<Result<Vec<u32>, _>>();
    let numbers = numbers.map_err(|_| bad())?;
    let [inside, host, size] = numbers.as_slice() else { return Err(bad()) };
    let host = if relative_triplet.is_some() { relative(*host)? } else { *host };
    LinuxIdMappingBuilder::default().container_id(*inside).host_id(host).size(*size).build().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn translated(mount: Value, map: Value) -> Result<Value> {
        let spec = json!({"ociVersion": "1.3.0", "mounts": [mount], "linux": {"uidMappings": map, "gidMappings": map}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        translate(&mut spec).map(|()| serde_json::to_value(spec).unwrap()["mounts"][0].clone())
    }

    fn of(word: &str) -> Result<Value> {
        let map = json!([{"containerID": 0, "hostID": 7, "size": 5}, {"containerID": 5, "hostID": 1000, "size": 10}]);
        translated(json!({"destination": "/mnt", "options": ["bind", word]}), map)
    }

    fn lines(list: &[[u32; 3]]) -> Value {
        list.iter().map(|[inside, host, size]| json!({"containerID": inside, "hostID": host, "size": size})).collect()
    }

    #[test]
    fn idmap_options_become_mappings_of_the_mount() {
        let mount = of("idmap=uids=0-1-10#10-11-10;gids=0-100-10").unwrap();
        assert_eq!(mount["options"], json!(["bind", "idmap"]));
        assert_eq!(mount["uidMappings"], lines(&[[0, 1, 10], [10, 11, 10]]));
        assert_eq!(mount["gidMappings"], lines(&[[0, 100, 10]]));
        let mount = of("ridmap=gids=@0-6-1#1-2-1;uids=@1-3-10").unwrap();
        assert_eq!(mount["options"], json!(["bind", "ridmap"]));
        assert_eq!(mount["uidMappings"], lines(&[[1, 10, 10]]), "relative to the container's");
        assert_eq!(mount["gidMappings"], lines(&[[0, 1001, 1], [1, 2, 1]]));
    }

    #[test]
    fn options_without_mappings_stay_unchanged() {
        for word in ["idmap", "ridmap", "idmapped=1", "uids=0-1-10"] {
            let mount = of(word).unwrap();
            assert_eq!((&mount["options"], mount.get("uidMappings")), (&json!(["bind", word]), None));
        }
    }

    #[test]
    fn malformed_idmap_options_are_refused_by_name() {
        for word in
            ["idmap=", "ridmap=uids", "idmap=uids=0-1", "idmap=uids=0-1-2-3", "idmap=uids=a-1-2", "idmap=x=0-1-2"]
        {
            let error = of(word).unwrap_err().to_string();
            assert!(error.starts_with(&format!("mounts[0].options: {word}: ")), "{error}");
        }
        assert!(of("idmap=uids=@0-99-1").unwrap_err().to_string().contains("id 99 is not mapped"));
        let alone = json!({"destination": "/mnt", "options": ["idmap=uids=@0-1-1"]});
        assert!(translated(alone, json!([])).unwrap_err().to_string().contains("no user namespace"));
        let both = json!({"destination": "/mnt", "options": ["idmap=uids=0-1-1"], "uidMappings": lines(&[[0, 1, 1]])});
        assert!(translated(both, json!([])).unwrap_err().to_string().contains("beside uidMappings"));
    }
}
