//! The files of a pod, in its bundle: `hostname`, `hosts` and `resolv.conf` of the containers, the tmpfs `shm` behind
//! their `/dev/shm`, and the pinned namespaces in `ns`.
//!
//! The shim itself uses the namespaces by descriptor. The pins are for others: their paths are in the specification that
//! StartSandbox answers with.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use berth_proto::pod_config::Dns;
use berth_runtime::{Context, Error, Result, foreign_dir};
use nix::mount::{MsFlags, mount};
use rustix::fs::Mode;

use super::config::PodConfig;
use crate::mount::unmount_recursive;

/// The paths of the files in a container and their names in the bundle.
pub const SHARED: [(&str, &str); 3] =
    [("/etc/hostname", "hostname"), ("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")];
/// The name of the tmpfs for `/dev/shm`.
pub const SHM: &str = "shm";
/// The directory of the pinned namespaces.
const PINS: &str = "ns";

/// Writes the files and mounts the tmpfs.
///
/// # Errors
/// Names the file. [`clear`] removes what was made.
pub fn make(config: &PodConfig) -> Result<()> {
    let owner = config.owner()?;
    write(config, "hostname", format!("{}\n", config.hostname).as_bytes(), owner)?;
    write(config, "hosts", &of_host("/etc/hosts")?, owner)?;
    let resolver = config.cri.dns.as_ref().map(resolv_conf).filter(|text| !text.is_empty());
    let resolver = resolver.map_or_else(|| of_host("/etc/resolv.conf"), |text| Ok(text.into_bytes()))?;
    write(config, "resolv.conf", &resolver, owner)?;
    if config.own_ipc { mount_shm(&config.bundle.join(SHM), owner) } else { Ok(()) }
}

/// Binds namespaces to files named after them, and returns the paths in this order. The directory is a private mount, so
/// that no pin propagates into a container, where it could not be unmounted.
///
/// # Errors
/// Names the file. [`clear`] removes what was made.
pub fn pin(bundle: &Path, namespaces: &[(&str, &OwnedFd)]) -> Result<Vec<PathBuf>> {
    let dir = bundle.join(PINS);
    let what = || format!("pin the namespaces in {}", dir.display());
    make_dir(&dir, 0o711)?;
    mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(what)?;
    mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).with_context(what)?;
    let pin = |(name, fd): &(&str, &OwnedFd)| {
        let path = dir.join(name);
        foreign_dir::write_whole(&path, b"", 0o444).with_context(|| format!("write {}", path.display()))?;
        let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
        mount(Some(own.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("pin a namespace at {}", path.display()))?;
        Ok(path)
    };
    namespaces.iter().map(pin).collect()
}

/// Unmounts and removes all files of a pod. It is no error if some or all do not exist.
///
/// # Errors
/// All mounts and files that cannot be removed; the others are removed.
pub fn clear(bundle: &Path) -> Result<()> {
    let mut errors = Vec::new();
    let is_there = |dir: &PathBuf| !matches!(fs::symlink_metadata(dir), Err(e) if e.kind() == io::ErrorKind::NotFound);
    for dir in [PINS, SHM].map(|name| bundle.join(name)).into_iter().filter(is_there) {
        errors.extend(unmount_recursive(&dir).and_then(|()| gone(fs::remove_dir_all(&dir), &dir)).err());
    }
    for (_, name) in SHARED {
        let path = bundle.join(name);
        errors.extend(gone(fs::remove_file(&path), &path).err());
    }
    Error::all(errors)
}

fn gone(removed: io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::from(e).context(format!("remove {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes a file that every user of the containers may read and their root may write.
fn write(config: &PodConfig, name: &str, content: &[u8], (uid, gid): (u32, u32)) -> Result<()> {
    let path = config.bundle.join(name);
    let written = foreign_dir::write_whole(&path, content, 0o644)
        .and_then(|()| chown(&path, Some(uid), Some(gid)))
        // The umask may have taken bits from the mode.
        .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o644)));
    written.with_context(|| format!("write {}", path.display()))
}

/// A file of the host, empty if the host has none.
fn of_host(path: &str) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("read {path}")),
    }
}

/// The text of resolv.conf(5).
fn resolv_conf(dns: &Dns) -> String {
    let list = |word: &str, values: &[String]| match values {
        [] => String::new(),
        values => format!("{word} {}\n", values.join(" ")),
    };
    let servers: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    list("search", &dns.searches) + &servers + &list("options", &dns.options)
}

/// Mounts the tmpfs with the size of a container's private one.
fn mount_shm(dir: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    make_dir(dir, 0o700)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=1777,size=65536k,uid={uid},gid={gid}");
    mount(Some("shm"), dir, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("mount {}", dir.display()))
}

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    rustix::fs::mkdir(dir, Mode::from_raw_mode(mode)).with_context(|| format!("mkdir {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_for_each_server_and_one_for_each_list() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let dns =
            Dns { servers: words(&["10.0.0.10", "::1"]), searches: words(&["a.b", "b"]), options: words(&["ndots:5"]) };
        assert_eq!(resolv_conf(&dns), "search a.b b\nnameserver 10.0.0.10\nnameserver ::1\noptions ndots:5\n");
        assert_eq!(resolv_conf(&Dns::default()), "");
    }

    #[test]
    fn the_files_of_a_pod_that_has_none_are_cleared_without_an_error() {
        let scratch = crate::testing::Scratch::new();
        clear(scratch.path()).unwrap();
        clear(&scratch.path().join("no-bundle")).unwrap();
    }
}
