//! Whiteouts: members that take away what lower layers have (layer.md, "Whiteouts").

use std::os::fd::{AsFd, BorrowedFd};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use super::{
    Made, Tree,
    path::Place,
    root::{is_directory, times_of},
};

/// Begins the name of a whiteout.
pub const PREFIX: &[u8] = b".wh.";
/// The rest of the name of an opaque marker, after the prefix. The marker hides the entries of lower layers in its directory.
const OPAQUE: &[u8] = b".wh..opq";
/// Levels of directories below a whiteout.
const DEPTH: usize = 300;

impl Tree<'_> {
    /// Applies the whiteout of `hidden` in `directory`. What the layer itself has made stays. A whiteout of what is not
    /// there does nothing.
    pub(super) fn whiteout(&mut self, directory: &[u8], hidden: &[u8], made: &Made) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid("a whiteout without a name"));
        }
        if made.everything {
            return Ok(());
        }
        let opaque = hidden == OPAQUE;
        if opaque && self.is_symlink(directory)? {
            // The marker means a directory of this place. Through the link it would empty another directory, which the
            // layer does not name.
            return Ok(());
        }
        self.leave_parent()?;
        let Some(parent) = self.root.find_parent(directory)? else { return Ok(()) };
        if opaque {
            let entries = open(parent.fd.as_fd(), b".")?;
            self.prune(entries, parent.ino, made, DEPTH)?;
        } else {
            self.hide(parent.fd.as_fd(), parent.ino, hidden, made, DEPTH)?;
        }
        parent.restore_times()
    }

    fn is_symlink(&self, path: &[u8]) -> Result<bool> {
        let Ok(Some(place)) = Place::of(if path.is_empty() { b"." } else { path }) else { return Ok(false) };
        let Some(parent) = self.root.find_parent(&place.directory)? else { return Ok(false) };
        match rustix::fs::readlinkat(&parent.fd, place.name.as_slice(), Vec::new()) {
            Ok(_) => Ok(true),
            Err(Errno::INVAL | Errno::NOENT) => Ok(false),
            Err(e) => Err(e).context("look at a directory"),
        }
    }

    /// Removes `name` in `directory`, unless this layer has made it; of a directory, only what the layer has not made.
    fn hide(&self, directory: BorrowedFd<'_>, ino: u64, name: &[u8], made: &Made, depth: usize) -> Result<()> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.context("look at what is hidden")?,
        };
        if !is_directory(&stat) {
            if made.has(ino, name) {
                return Ok(());
            }
            return rustix::fs::unlinkat(directory, name, AtFlags::empty()).context("remove a hidden file");
        }
        let depth = depth.checked_sub(1).ok_or_else(|| Error::invalid("hidden directories are nested too deep"))?;
        self.prune(open(directory, name)?, stat.st_ino, made, depth)?;
        if !made.has(ino, name) {
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) => return Ok(()),
                // Something of this layer is in it.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(e) => return Err(e).context("remove a hidden directory"),
            }
        }
        rustix::fs::utimensat(directory, name, &times_of(&stat), AtFlags::SYMLINK_NOFOLLOW)
            .context("set the times of a directory")
    }

    /// Removes the entries of a directory that this layer has not made.
    fn prune(&self, mut entries: Dir, ino: u64, made: &Made, depth: usize) -> Result<()> {
        let mut names = Vec::new();
        while let Some(entry) = entries.read() {
            let entry = entry.context("read a directory")?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        for name in names {
            self.hide(entries.fd().context("read a directory")?, ino, &name, made, depth)?;
        }
        Ok(())
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).context("open a hidden directory")?;
    Dir::new(fd).context("read a directory")
}
