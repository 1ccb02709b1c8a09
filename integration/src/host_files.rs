//! [`HostFiles`]: files on the host that a hostile bundle points at, with a fingerprint that shows every change.

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// An extended attribute of each file.
const ATTRIBUTE: &str = "trusted.berth";

/// A directory on the host with files in it.
pub struct HostFiles(PathBuf);

impl HostFiles {
    /// Makes the directory below `dir`.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("host_files");
        for sub in ["sub", "pts", "shm", "self/attr", "sys/net/ipv4", "sys/kernel"] {
            fs::create_dir_all(path.join(sub)).unwrap();
        }
        for file in
            ["file", "ptmx", "sub/file", "sys/net/ipv4/ip_forward", "sys/kernel/domainname", "self/attr/exec", "null"]
        {
            fs::write(path.join(file), "untouched\n").unwrap();
            lsetxattr(path.join(file), ATTRIBUTE, b"untouched", XattrFlags::CREATE).unwrap();
        }
        Self(path)
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns a digest of every name, type, mode, owner, device number, link, extended attribute and content in it,
    /// without entering other mounts. A mount on it changes the digest as well, by its device number.
    pub fn fingerprint(&self) -> String {
        let mut lines = vec![];
        describe(&self.0, &mut lines);
        lines.sort();
        let digest = Sha256::digest(lines.join("\n").as_bytes());
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Returns a listing for the message of a failure.
    pub fn listing(&self) -> String {
        let mut lines = vec![];
        describe(&self.0, &mut lines);
        lines.sort();
        lines.join("\n")
    }
}

fn describe(path: &Path, lines: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let kind = meta.file_type();
    let content = if kind.is_file() { fs::read(path).unwrap_or_default() } else { vec![] };
    let target = fs::read_link(path).unwrap_or_default();
    lines.push(format!(
        "{} {:o} {}:{} dev {} rdev {} -> {} {:?} {:?}{}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.dev(),
        meta.rdev(),
        target.display(),
        String::from_utf8_lossy(&content),
        attributes(path),
        if kind.is_socket() || kind.is_fifo() { " special" } else { "" },
    ));
    if kind.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            describe(&entry.path(), lines);
        }
    }
}

/// Returns the extended attributes of a file, each as `NAME=VALUE`.
fn attributes(path: &Path) -> Vec<String> {
    let mut names = [0; 1024];
    let length = llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let one = |name: &[u8]| {
        let mut value = [0; 1024];
        let length = lgetxattr(path, name, &mut value).unwrap_or(0);
        [name, b"=", &value[..length]].concat().escape_ascii().to_string()
    };
    names.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_change_of_the_files_shows() {
        let scratch = Scratch::new("host_files");
        let host_files = HostFiles::new(scratch.path());
        let touches: [fn(&Path); 5] = [
            |d| fs::write(d.join("file"), "other").unwrap(),
            |d| fs::create_dir(d.join("new")).unwrap(),
            |d| fs::remove_file(d.join("ptmx")).unwrap(),
            |d| std::os::unix::fs::symlink("x", d.join("link")).unwrap(),
            |d| lsetxattr(d.join("null"), ATTRIBUTE, b"other", XattrFlags::REPLACE).unwrap(),
        ];
        for touch in touches {
            let before = host_files.fingerprint();
            assert_eq!(host_files.fingerprint(), before);
            touch(host_files.path());
            assert_ne!(host_files.fingerprint(), before);
        }
    }
}
