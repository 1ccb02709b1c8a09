//! Rootfs mounts with mapped ids: the options `uidmap=` and `gidmap=` of containerd's snapshots.
//!
//! An overlay cannot be idmapped, but its lower layers can. They come from a read-only, idmapped clone of their common
//! directory. The clone is mounted at the rootfs while the overlay is mounted over it, so that a clean-up after a crash
//! finds it there; the overlay keeps clones of its layers.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Ids, MountAccess, Result, clone_mapped, user_namespace};
use nix::mount::{MntFlags, umount2};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{overlay, proc_path};

/// The flags of move_mount(2) from one descriptor to another.
pub const FD_TO_FD: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// Makes the user namespace for a mount's mappings; `None` without mappings.
///
/// # Errors
/// One of the two options is missing, or an option is no list of `container:host:size`. The error names it.
pub fn namespace(uids: Option<&str>, gids: Option<&str>) -> Result<Option<OwnedFd>> {
    match (uids, gids) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => {
            let ids = Ids::new(&parse(uids, "uidmap")?, &parse(gids, "gidmap")?, "rootfs ")?;
            user_namespace::create(&ids).map(Some)
        }
        (Some(_), None) => Err(Error::invalid("option uidmap without gidmap")),
        (None, Some(_)) => Err(Error::invalid("option gidmap without uidmap")),
    }
}

fn parse(list: &str, option: &str) -> Result<Vec<LinuxIdMapping>> {
    let one = |text: &str| {
        let mut numbers = text.split(':').map(|n| n.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        let (inside, host, size) = (next()?, next()?, next()?);
        let mapping = LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().ok()?;
        numbers.next().is_none().then_some(mapping)
    };
    let bad = |text: &str| Error::invalid(format!("option {option}: {text:?} is not of the form container:host:size"));
    list.split(',').map(|text| one(text).ok_or_else(|| bad(text))).collect()
}

/// The idmapped layers, mounted at the rootfs while the overlay is mounted over them.
pub struct Layers {
    tree: OwnedFd,
    /// The overlay's options, with the layers as paths below `tree`.
    pub data: Vec<String>,
}

impl Layers {
    /// Mounts the idmapped layers at `place`: an overlay takes no layers from a detached tree.
    ///
    /// # Errors
    /// The layers have no common directory, or their file system cannot be idmapped.
    pub fn mount(data: &[String], users: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<Self> {
        let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="));
        let lower = overlay::split(lower.ok_or_else(|| Error::invalid("option lowerdir is missing"))?);
        let common = common_directory(&lower)
            .ok_or_else(|| Error::invalid("the lower directories have no directory in common"))?;
        let tree = clone_mapped(&common, users, MountAccess::ReadOnly)?;
        let there = proc_path(&tree);
        let moved = |path: &String| match Path::new(path).strip_prefix(&common) {
            Ok(below) => overlay::escape(&there.join(below).to_string_lossy()),
            // An empty name makes the next layer a data-only layer (overlayfs, `lowerdir=a::b`).
            Err(_) => String::new(),
        };
        let lower = lower.iter().map(moved).collect::<Vec<_>>().join(":");
        let data = data.iter().map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={lower}"),
            None => option.clone(),
        });
        let data = data.collect();
        move_mount(&tree, c"", place, c"", FD_TO_FD).context("mount the layers")?;
        Ok(Self { tree, data })
    }

    /// Unmounts the layers below the overlay `top`, and returns a detached clone of the overlay: the kernel unmounts
    /// the layers only with all that is mounted on them.
    ///
    /// # Errors
    /// Those of open_tree(2) and umount(2).
    pub fn unmount(self, top: OwnedFd) -> Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let overlay = open_tree(&top, c"", flags).context("open_tree")?;
        for fd in [&top, &self.tree] {
            // MNT_DETACH, since the descriptors that name the mounts keep them busy.
            umount2(&proc_path(fd), MntFlags::MNT_DETACH).context("unmount the layers")?;
        }
        Ok(overlay)
    }
}

/// The deepest directory above all paths.
fn common_directory(paths: &[String]) -> Option<PathBuf> {
    let mut parents = paths.iter().filter(|path| !path.is_empty()).map(|path| Path::new(path).parent());
    let mut common = parents.next()??.to_owned();
    for parent in parents {
        let parent = parent?;
        while !parent.starts_with(&common) {
            common = common.parent()?.to_owned();
        }
    }
    (common.is_absolute() && common != Path::new("/")).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_mappings_parse_or_are_refused_by_option() {
        let map = parse("0:65536:65536,65536:7:1", "uidmap").unwrap();
        let numbers: Vec<_> = map.iter().map(|m| (m.container_id(), m.host_id(), m.size())).collect();
        assert_eq!(numbers, [(0, 65536, 65536), (65536, 7, 1)]);
        for bad in ["", "0:1", "0:1:2:3", "0:-1:2", "0:1:4294967296", "0:1:2,", "a:b:c"] {
            let error = parse(bad, "gidmap").unwrap_err().to_string();
            assert!(error.contains("option gidmap"), "{bad}: {error}");
        }
        assert!(namespace(None, None).unwrap().is_none());
        for (uids, gids) in [(Some("0:1:1"), None), (None, Some("0:1:1")), (Some("0:1:0"), Some("0:1:1"))] {
            assert!(namespace(uids, gids).is_err());
        }
    }

    #[test]
    fn the_common_directory_of_layers_is_found() {
        let of = |paths: &[&str]| common_directory(&paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of(&["/s/snapshots/1/fs", "/s/snapshots/12/fs"]), Some("/s/snapshots".into()));
        assert_eq!(of(&["/s/1/fs"]), Some("/s/1".into()));
        assert_eq!(of(&["/s/a", "", "", "/s/b"]), Some("/s".into()));
        for none in [&["/a", "/b"][..], &["/a/b", "/c/d"], &["a/b"], &[]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
