//! Archives and images for tests, byte by byte, with whatever faults a test needs.

#![allow(dead_code, missing_docs, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A tar under construction.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn header(mut self, kind: u8, name: &[u8], link: &[u8], size: u64, edit: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(100, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
        put(108, format!("{:07o}\0", rustix::process::geteuid().as_raw()).as_bytes());
        put(116, format!("{:07o}\0", rustix::process::getegid().as_raw()).as_bytes());
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000001750\0");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, b"0000001\0");
        put(337, b"0000003\0");
        edit(&mut block);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn entry(self, kind: u8, name: &str, link: &str) -> Self {
        self.header(kind, name.as_bytes(), link.as_bytes(), 0, |_| {})
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.header(b'0', name.as_bytes(), b"", data.len() as u64, |_| {}).data(data.as_bytes())
    }

    pub fn mode(self, kind: u8, name: &str, mode: u32) -> Self {
        self.header(kind, name.as_bytes(), b"", 0, |block| {
            block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        })
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target)
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target)
    }

    pub fn whiteout(self, name: &str) -> Self {
        self.file(name, "")
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', &records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
    }

    pub fn extended(self, kind: u8, text: &[u8]) -> Self {
        self.header(kind, b"extended", b"", text.len() as u64, |_| {}).data(text)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A directory that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every path below a directory with its type and, for files and links, its content.
pub fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, directory: &Path, lines: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                lines.push(format!("{name}/"));
                walk(root, &path, lines);
            } else if kind.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_file() {
                lines.push(format!("{name} = {}", fs::read_to_string(&path).unwrap_or_default()));
            } else {
                lines.push(format!("{name} special"));
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    lines
}

/// A configuration for these uncompressed layers.
pub fn config(layers: &[Vec<u8>], execution: &Value) -> Value {
    let ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    json!({"os": "linux", "architecture": "amd64", "config": execution, "rootfs": {"type": "layers", "diff_ids": ids}})
}

/// An OCI layout as names and contents, with each layer as it is stored.
pub fn layout(stored: &[(&str, Vec<u8>)], config: &Value) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut blob = |media: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        files.push((format!("blobs/{}", digest.replace(':', "/")), bytes.to_vec()));
        json!({"mediaType": media, "digest": digest, "size": bytes.len()})
    };
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> = stored
        .iter()
        .map(|(suffix, bytes)| blob(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), bytes))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files
}

/// A docker-archive as names and contents.
pub fn docker(name: &str, layers: &[Vec<u8>], config: &Value) -> Vec<(String, Vec<u8>)> {
    let names: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    let mut files: Vec<_> = names.iter().cloned().zip(layers.iter().cloned()).collect();
    files.push(("config.json".into(), config.to_string().into_bytes()));
    files.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    files
}

/// Packs files into a tar.
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let tar = files.iter().fold(Tar::default(), |tar, (name, bytes)| {
        tar.header(b'0', name.as_bytes(), b"", bytes.len() as u64, |_| {}).data(bytes)
    });
    tar.end()
}

/// Writes files below a directory.
pub fn write(directory: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
