//! The bundle directory as the shim itself uses it: the group that config.json names, and the small files for
//! containerd and for a later `delete`. The runtime reads the rest of config.json.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Result, foreign_dir};
use serde::Deserialize;

/// The file with the socket's address. containerd 1.6 and 1.7 read it after a restart, `delete` always.
const ADDRESS: &str = "address";

/// The parts of config.json that select the server. The parser skips the rest without building it, since this runs for
/// each container before anything else.
#[derive(Default, Deserialize)]
struct Config {
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "io.containerd.runc.v2.group")]
    group: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-id")]
    sandbox: Option<String>,
}

/// The group of a container: the group annotation, else the pod, else the container's own id. A bundle without
/// config.json is that of a sandbox (containerd's `sandboxer = "shim"` writes none).
///
/// # Errors
/// config.json cannot be read or is malformed. The message says where.
pub fn group(bundle: &Path, id: &str) -> Result<String> {
    let path = bundle.join("config.json");
    let json = match std::fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        read => read.with_context(|| "read config.json")?,
    };
    let config: Config =
        berth_runtime::go_json::read(&json).map_err(|e| Error::invalid(format!("config.json: {e}")))?;
    let annotations = config.annotations.unwrap_or_default();
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    Ok(named(&annotations.group).or_else(|| named(&annotations.sandbox)).unwrap_or_else(|| id.to_owned()))
}

/// Writes the server's address into the bundle.
///
/// # Errors
/// The file cannot be written.
pub fn write_address(bundle: &Path, address: &str) -> Result<()> {
    write(bundle, ADDRESS, address.as_bytes())
}

/// The path of the server's socket, if the bundle has its address.
pub fn socket(bundle: &Path) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join(ADDRESS)).ok()?;
    address.trim().strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Writes a file of the bundle, whole or not at all, with mode 0600.
///
/// # Errors
/// The file cannot be written. No part of it is left then.
pub fn write(bundle: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = bundle.join(name);
    foreign_dir::write_whole(&path, content, 0o600).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn grouped(json: &str) -> Result<String> {
        let dir = Scratch::new();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        group(dir.path(), "c1")
    }

    #[test]
    fn the_group_annotation_overrides_the_pod_and_the_pod_the_id() {
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"group"}}"#;
        assert_eq!(grouped(both).unwrap(), "group");
        let pod = r#"{"ociVersion":"1.2.0","process":{"args":["a"]},"annotations":{"x":"y","io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_eq!(grouped(pod).unwrap(), "pod");
        for alone in ["{}", r#"{"annotations":null}"#, r#"{"annotations":{"io.kubernetes.cri.sandbox-id":""}}"#] {
            assert_eq!(grouped(alone).unwrap(), "c1", "{alone}");
        }
    }

    #[test]
    fn a_bundle_without_config_json_is_its_own_group() {
        assert_eq!(group(Scratch::new().path(), "c1").unwrap(), "c1");
    }

    #[test]
    fn a_malformed_config_json_is_named() {
        for json in ["", "{", "[]", r#"{"annotations":[]}"#, r#"{"annotations":{"io.kubernetes.cri.sandbox-id":7}}"#] {
            let e = grouped(json).unwrap_err();
            assert!(e.to_string().starts_with("config.json: "), "{json}: {e}");
        }
    }

    #[test]
    fn a_written_address_reads_back() {
        let dir = Scratch::new();
        assert_eq!(socket(dir.path()), None);
        write_address(dir.path(), "unix:///run/s/abc").unwrap();
        write_address(dir.path(), "unix:///run/s/def").unwrap();
        assert_eq!(socket(dir.path()), Some("/run/s/def".into()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        std::fs::write(dir.path().join("address"), "vsock://1:2").unwrap();
        assert_eq!(socket(dir.path()), None);
    }
}
