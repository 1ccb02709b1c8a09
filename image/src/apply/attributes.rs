//! Owners, extended attributes, modes and times, in the order that the kernel demands: chown(2) clears
//! `security.capability` and the set-user-ID bits, so both come after it, and the times come last.

use std::os::fd::{AsFd, BorrowedFd};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, Mode, Timespec, Timestamps, XattrFlags},
    io::Errno,
};

use super::Tree;
use crate::{
    tar::{Entry, Time},
    text::escaped,
};

const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const CAPABILITY: &[u8] = b"security.capability";

impl Tree<'_> {
    /// Sets the attributes of a regular file or a directory.
    pub(super) fn attributes(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        if let Some((uid, gid)) = self.options.owners.of(entry.uid, entry.gid)? {
            rustix::fs::fchown(file, Some(uid), Some(gid))
                .with_context(|| format!("set the owner {}:{}", entry.uid, entry.gid))?;
        }
        for (name, value) in &entry.xattrs {
            self.set_xattr(file, name, value).with_context(|| format!("set {}", escaped(name)))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).context("set the mode")?;
        rustix::fs::futimens(file, &times(entry)).context("set the times")
    }

    /// Sets the attributes of a symbolic link or a special file, without its extended attributes: the kernel allows none
    /// of those that berth sets there.
    pub(super) fn attributes_of_name(&mut self, name: &[u8], entry: &Entry) -> Result<()> {
        self.left_out.xattrs += entry.xattrs.len() as u64;
        let parent = &self.parent.as_ref().ok_or_else(|| Error::from_errno(libc::ENOENT))?.fd;
        if let Some((uid, gid)) = self.options.owners.of(entry.uid, entry.gid)? {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| format!("set the owner {}:{}", entry.uid, entry.gid))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).context("set the times")
    }

    /// Sets an extended attribute: capabilities, ACLs and those of users. The rest belongs to the host (labels of LSMs,
    /// IMA, trusted.*) and is counted.
    fn set_xattr(&mut self, file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<()> {
        let allowed = matches!(name, CAPABILITY | ACL_ACCESS | ACL_DEFAULT) || name.starts_with(b"user.");
        if !allowed {
            self.left_out.xattrs += 1;
            return Ok(());
        }
        let of_namespace;
        let value = match self.options.owners.root() {
            Some(root) if name == CAPABILITY => {
                of_namespace = capability_of(value, root);
                of_namespace.as_slice()
            }
            _ => value,
        };
        match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            Ok(()) => self.inherits_acl |= name == ACL_DEFAULT,
            Err(Errno::OPNOTSUPP) => self.left_out.xattrs += 1,
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Removes the extended attributes that berth sets, for an entry that replaces a directory's, or that has inherited
    /// ACLs. What the file system refuses is left.
    pub(super) fn clear_xattrs(&self, file: BorrowedFd<'_>) {
        for name in [ACL_ACCESS, ACL_DEFAULT, CAPABILITY] {
            let _ = rustix::fs::fremovexattr(file, name);
        }
        let mut names = vec![0; 65536];
        let Ok(len) = rustix::fs::flistxattr(file, names.as_mut_slice()) else { return };
        names.truncate(len);
        for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
            let _ = rustix::fs::fremovexattr(file, name);
        }
    }
}

/// Returns true if the entries of a directory inherit ACLs.
pub fn has_default_acl(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 0];
    rustix::fs::fgetxattr(directory.as_fd(), ACL_DEFAULT, &mut value).is_ok()
}

/// Turns file capabilities of revision 2 into those of revision 3, which hold in the user namespace whose root has the id
/// `root` (capabilities(7)); others stay.
fn capability_of(value: &[u8], root: u32) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    match value.split_first_chunk() {
        Some(([a, b, c, REVISION_2], rest)) if value.len() == 20 => {
            [&[*a, *b, *c, REVISION_3], rest, &root.to_le_bytes()].concat()
        }
        _ => value.to_vec(),
    }
}

/// The times of an entry: its access is its modification where the archive says none.
fn times(entry: &Entry) -> Timestamps {
    let of = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    Timestamps { last_access: of(entry.atime.unwrap_or(entry.mtime)), last_modification: of(entry.mtime) }
}
