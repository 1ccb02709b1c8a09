//! Idmapped mounts: finds the mapping of each mount, and creates the user namespace that carries it.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_init::{
    plan::RootBind,
    sys::{map_ids, mount_setattr},
};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{Options, Submounts, attr, clone_tree};
use crate::{
    Context, Error, Result,
    host::mountinfo,
    id_maps::Ids,
    namespace::{UserNamespace, user},
};

/// The id mappings of one container's mounts, with one user namespace for each distinct mapping.
pub struct IdMaps<'u> {
    users: &'u UserNamespace<'u>,
    namespaces: HashMap<String, OwnedFd>,
}

impl<'u> IdMaps<'u> {
    /// Starts without namespaces, for a container with the user namespace `users`.
    pub fn new(users: &'u UserNamespace<'u>) -> Self {
        Self { users, namespaces: HashMap::new() }
    }

    /// Maps the ids of `tree`, a detached clone of `source`, if the mount asks for it.
    ///
    /// The mount's own mappings come first. With the option `idmap` alone, the mappings of the container's user
    /// namespace apply.
    ///
    /// # Errors
    /// Names the mount and its file system if the file system cannot be idmapped.
    pub fn apply(&mut self, mount: &Mount, options: &Options, tree: &OwnedFd, source: &Path) -> Result<()> {
        match self.ids(mount, options)? {
            Some(ids) => map(tree, options.idmap == Some(Submounts::Include), self.namespace(&ids)?, source),
            None => Ok(()),
        }
    }

    /// Returns the user namespace with the mappings that the mount asks for, if it asks for any.
    ///
    /// # Errors
    /// As user_namespaces(7) documents for writing the mappings.
    pub fn requested_namespace(&mut self, mount: &Mount, options: &Options) -> Result<Option<OwnedFd>> {
        let Some(ids) = self.ids(mount, options)? else { return Ok(None) };
        self.namespace(&ids)?.try_clone_to_owned().map(Some).context("dup a user namespace")
    }

    fn ids(&self, mount: &Mount, options: &Options) -> Result<Option<Ids>> {
        let uids = mount.uid_mappings().as_deref().unwrap_or_default();
        let gids = mount.gid_mappings().as_deref().unwrap_or_default();
        if !uids.is_empty() || !gids.is_empty() {
            return Ids::new(uids, gids, "").map(Some);
        }
        Ok(options.idmap.map(|_| self.users.ids.clone()))
    }

    fn namespace(&mut self, ids: &Ids) -> Result<BorrowedFd<'_>> {
        if let Some(fd) = self.users.fd
            && ids.same_as(&self.users.ids)
        {
            return Ok(fd);
        }
        let key = format!("{}g\n{}", ids.uid_map(), ids.gid_map());
        let namespace: &OwnedFd = match self.namespaces.entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(user::create(ids)?),
        };
        Ok(namespace.as_fd())
    }
}

/// Whether files of a mount can be changed through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    /// Every mount of the tree is read-only.
    ReadOnly,
    /// Every mount keeps the access of its source.
    Unchanged,
}

/// Clones all mounts at `path` as a detached private tree, with ids mapped as in the user namespace `users`.
///
/// # Errors
/// Names the path, and the mount and file system that cannot be idmapped.
pub fn clone_mapped(path: &Path, users: BorrowedFd<'_>, access: MountAccess) -> Result<OwnedFd> {
    let tree = clone_tree(path, Submounts::Include)?;
    let set = if access == MountAccess::ReadOnly { attr::RDONLY } else { 0 };
    let private = mount_setattr(tree.as_fd(), true, set, 0, libc::MS_PRIVATE);
    private.with_context(|| format!("mount_setattr {}", path.display()))?;
    map(&tree, true, users, path)?;
    Ok(tree)
}

/// Maps the ids of `tree`, which init has cloned from a part of the root file system, as `inside` asks for it.
///
/// # Errors
/// Names the path that cannot be idmapped.
pub fn map_inside(inside: &RootBind<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    let Some((users, recursive)) = inside.idmap else { return Ok(()) };
    map_ids(tree, recursive, users).with_context(|| {
        let from = inside.from.to_string_lossy();
        format!("mount_setattr MOUNT_ATTR_IDMAP {from}: the file system there cannot be idmapped here")
    })
}

fn map(tree: &OwnedFd, recursive: bool, users: BorrowedFd<'_>, source: &Path) -> Result<()> {
    map_ids(tree.as_fd(), recursive, users).map_err(|e| Error::from(e).context(error_words(source, recursive, users)))
}

/// Words the error for a tree that cannot be idmapped. Names the first of its mounts that the kernel refuses.
fn error_words(source: &Path, recursive: bool, users: BorrowedFd<'_>) -> String {
    let table = mountinfo::read().unwrap_or_default();
    let mut mounts = vec![(source.to_owned(), fstype_of(&table, source))];
    if recursive {
        mounts.extend(submounts(&table, source));
    }
    let refuses = |path: &Path| {
        clone_tree(path, Submounts::Exclude).is_ok_and(|tree| map_ids(tree.as_fd(), false, users).is_err())
    };
    let (path, kind) = mounts.iter().find(|(path, _)| refuses(path)).or(mounts.first()).cloned().unwrap_or_default();
    format!("mount_setattr MOUNT_ATTR_IDMAP {}: file system {kind} cannot be idmapped here", path.display())
}

/// Returns the type of the file system that contains `path`, or an empty string.
fn fstype_of(table: &[u8], path: &Path) -> String {
    let id = statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).map(|x| x.stx_mnt_id.to_string());
    let found = id.ok().and_then(|id| mountinfo::lines(table).find(|line| line.id == id.as_bytes()));
    found.map(|line| text(line.fstype)).unwrap_or_default()
}

/// Returns the mounts below `path` and the types of their file systems.
fn submounts(table: &[u8], path: &Path) -> Vec<(PathBuf, String)> {
    let mounts = mountinfo::lines(table).map(|line| (line.point(), text(line.fstype)));
    mounts.filter(|(point, _)| point != path && point.starts_with(path)).collect()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / /proc rw shared:1 - proc proc rw\n30 1 8:1 / /srv rw - ext4 /dev/a rw\n\
        31 30 0:41 / /srv/a\\040b rw - tmpfs none rw\n32 1 0:42 / /srv2 rw - nfs a:/b rw\n";

    #[test]
    fn mountinfo_gives_file_system_types() {
        assert_eq!(submounts(TABLE, Path::new("/srv")), [(PathBuf::from("/srv/a b"), "tmpfs".to_owned())]);
        assert_eq!(fstype_of(TABLE, Path::new("/no/such/path")), "");
    }
}
