//! Idmapped mounts: which mapping a mount gets, and the user namespace that stands for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_init::{
    plan::Inside,
    sys::{map_ids, mount_setattr},
};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{Options, attr, clone_tree};
use crate::{Context, Error, Result, namespace::Users, user::Ids, userns};

/// The mappings of one container's mounts; each distinct one has one user namespace.
pub struct IdMaps<'u> {
    users: &'u Users<'u>,
    made: HashMap<String, OwnedFd>,
}

impl<'u> IdMaps<'u> {
    /// None yet, for a container with this user namespace.
    pub fn new(users: &'u Users<'u>) -> Self {
        Self { users, made: HashMap::new() }
    }

    /// Maps the ids of `tree`, a detached clone of `source`, when the mount asks for that: as its own mappings say, or
    /// with `idmap` alone as the container's user namespace does.
    ///
    /// # Errors
    /// Names the mount and its file system when that cannot be.
    pub fn apply(&mut self, mount: &Mount, options: &Options, tree: &OwnedFd, source: &Path) -> Result<()> {
        match self.ids(mount, options)? {
            Some(ids) => map(tree, options.idmap == Some(true), self.namespace(&ids)?, source),
            None => Ok(()),
        }
    }

    /// The user namespace whose ids a mount asks for, if it does.
    ///
    /// # Errors
    /// As user_namespaces(7) has it for the mappings.
    pub fn wanted(&mut self, mount: &Mount, options: &Options) -> Result<Option<OwnedFd>> {
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
        let made: &OwnedFd = match self.made.entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(userns::make(ids)?),
        };
        Ok(made.as_fd())
    }
}

/// A detached clone of all that is mounted at `path`, private and with its ids mapped as `users` maps them; it can only
/// be read when `readonly`.
///
/// # Errors
/// Names the path, and the mount and file system that cannot be mapped.
pub fn clone_mapped(path: &Path, users: BorrowedFd<'_>, readonly: bool) -> Result<OwnedFd> {
    let tree = clone_tree(path, true)?;
    let set = if readonly { attr::RDONLY } else { 0 };
    let private = mount_setattr(tree.as_fd(), true, set, 0, libc::MS_PRIVATE);
    private.with_context(|| format!("mount_setattr {}", path.display()))?;
    map(&tree, true, users, path)?;
    Ok(tree)
}

/// Maps the ids of `tree`, which init has made of a part of the root file system, as `inside` asks for it.
///
/// # Errors
/// Names the part that cannot be mapped.
pub fn map_inside(inside: &Inside<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    let Some((users, recursive)) = inside.ids else { return Ok(()) };
    map_ids(tree, recursive, users).with_context(|| {
        let from = inside.from.to_string_lossy();
        format!("mount_setattr MOUNT_ATTR_IDMAP {from}: the file system there cannot be idmapped here")
    })
}

fn map(tree: &OwnedFd, recursive: bool, users: BorrowedFd<'_>, source: &Path) -> Result<()> {
    map_ids(tree.as_fd(), recursive, users).map_err(|e| Error::from(e).context(fault(source, recursive, users)))
}

/// Words for a tree that would not be mapped: the first of its mounts that is at fault.
fn fault(source: &Path, recursive: bool, users: BorrowedFd<'_>) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = vec![(source.to_owned(), kind(&table, source))];
    if recursive {
        mounts.extend(below(&table, source));
    }
    let refuses = |path: &Path| clone_tree(path, false).is_ok_and(|tree| map_ids(tree.as_fd(), false, users).is_err());
    let (path, kind) = mounts.iter().find(|(path, _)| refuses(path)).or(mounts.first()).cloned().unwrap_or_default();
    format!("mount_setattr MOUNT_ATTR_IDMAP {}: file system {kind} cannot be idmapped here", path.display())
}

/// The type of the file system that `path` is on.
fn kind(table: &str, path: &Path) -> String {
    let id = statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).map(|x| x.stx_mnt_id.to_string());
    let found = table.lines().find(|line| line.split(' ').next() == id.as_deref().ok());
    found.and_then(fstype).unwrap_or_default().to_owned()
}

/// The mounts below a path, with the types of their file systems.
fn below(table: &str, path: &Path) -> Vec<(PathBuf, String)> {
    let mounts =
        table.lines().filter_map(|line| Some((PathBuf::from(line.split(' ').nth(4)?), fstype(line)?.to_owned())));
    mounts.filter(|(point, _)| point != path && point.starts_with(path)).collect()
}

/// proc_pid_mountinfo(5): behind the separator stands the type.
fn fstype(line: &str) -> Option<&str> {
    line.split_once(" - ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 0:20 / /proc rw shared:1 - proc proc rw\n30 1 8:1 / /srv rw - ext4 /dev/a rw\n\
        31 30 0:41 / /srv/a rw - tmpfs none rw\n32 1 0:42 / /srv2 rw - nfs a:/b rw\n";

    #[test]
    fn types_are_found() {
        assert_eq!(below(TABLE, Path::new("/srv")), [(PathBuf::from("/srv/a"), "tmpfs".to_owned())]);
        assert_eq!(kind(TABLE, Path::new("/no/such/path")), "");
        assert_eq!(TABLE.lines().filter_map(fstype).collect::<Vec<_>>(), ["proc", "ext4", "tmpfs", "nfs"]);
    }
}
