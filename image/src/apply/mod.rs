//! Applies the layers of an image to a root filesystem, one after the other.
//!
//! The rules are those of the image specification's layer.md; where it leaves a choice, umoci's. [`root`] resolves every
//! path inside the root. Entries that a layer has made are protected from its own whiteouts, so the order of a layer's
//! members does not matter (layer.md, "Whiteouts").

mod attributes;
mod path;
mod root;
mod whiteout;

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    io::BufRead,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use self::{
    path::Place,
    root::{Parent, is_directory},
};
pub use self::{
    path::components,
    root::{Root, remove_tree},
};
use crate::{
    ids::Owners,
    tar::{Entry, Kind, Reader, Skip},
    text::escaped,
};

/// The caller's choices for [`Tree`].
#[derive(Debug, Default)]
pub struct Options {
    /// The owners of the entries.
    pub owners: Owners,
    /// Device nodes are made.
    pub devices: bool,
}

/// Counts of the things that were left out, for warnings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Device nodes.
    pub devices: u64,
    /// Extended attributes: of other namespaces than berth sets, or refused by the file system.
    pub xattrs: u64,
}

/// A root filesystem to which layers are applied.
#[derive(Debug)]
pub struct Tree<'a> {
    root: Root,
    options: Options,
    /// The directory of the last entry. Consecutive entries mostly share it.
    parent: Option<Parent>,
    /// Entries that may still come.
    entries: u64,
    /// Set from outside: the work is to stop.
    stop: &'a AtomicBool,
    /// A layer has been applied already.
    has_lower: bool,
    /// New entries may inherit POSIX ACLs.
    inherits_acl: bool,
    left_out: LeftOut,
}

/// The entries of the layer at hand, as hashes with a random key: the whole names of a large layer would take much
/// memory. A collision spares one file from one whiteout.
struct Made {
    places: HashSet<u64>,
    keys: RandomState,
    /// There is no lower layer, so that there is nothing to tell apart.
    everything: bool,
}

impl Made {
    fn add(&mut self, directory: u64, name: &[u8]) {
        if !self.everything {
            self.places.insert(self.keys.hash_one((directory, name)));
        }
    }

    fn has(&self, directory: u64, name: &[u8]) -> bool {
        self.everything || self.places.contains(&self.keys.hash_one((directory, name)))
    }
}

impl<'a> Tree<'a> {
    /// A tree in the directory `root`, with at most `entries` entries in all layers. Once `stop` is set, applying fails.
    ///
    /// # Errors
    /// The kernel has no openat2(2), which came with Linux 5.6.
    pub fn new(root: OwnedFd, options: Options, entries: u64, stop: &'a AtomicBool) -> Result<Self> {
        let root = Root::new(root)?;
        let inherits_acl = attributes::has_default_acl(root.as_fd());
        let left_out = LeftOut::default();
        Ok(Self { root, options, parent: None, entries, stop, has_lower: false, inherits_acl, left_out })
    }

    /// Returns the counts of the things that were left out so far.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Applies one layer.
    ///
    /// # Errors
    /// The archive is malformed, an entry is not allowed or out of bounds, or a system call fails; the entry is named.
    pub fn apply<R: Skip + BufRead>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        let mut made = Made { places: HashSet::new(), keys: RandomState::new(), everything: !self.has_lower };
        while let Some(entry) = reader.next_entry()? {
            root::count_entry(&mut self.entries)?;
            self.check_stop()?;
            self.entry(&entry, reader, &mut made).with_context(|| format!("member {}", escaped(&entry.name)))?;
        }
        self.leave_parent()?;
        self.has_lower = true;
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::invalid("interrupted")) } else { Ok(()) }
    }

    fn entry<R: Skip + BufRead>(&mut self, entry: &Entry, data: &mut Reader<R>, made: &mut Made) -> Result<()> {
        let Some(place) = Place::of(&entry.name)? else { return self.root_entry(entry) };
        if place.is_aufs_metadata() {
            return Ok(());
        }
        if let Some(hidden) = place.name.strip_prefix(whiteout::PREFIX) {
            return self.whiteout(&place.directory, hidden, made);
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, &place, made);
        }
        self.enter_parent(&place.directory)?;
        let keep = entry.kind == Kind::Directory;
        let exists = self.clear(&place.name, keep)?;
        self.make(entry, &place.name, exists, data)?;
        made.add(self.parent()?.ino, &place.name);
        Ok(())
    }

    /// The entry for the root itself: attributes of the directory that is there.
    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::invalid("the root is not a directory in this layer"));
        }
        self.leave_parent()?;
        let root = self.root.open_file(b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.clear_xattrs(root.as_fd());
        self.attributes(root.as_fd(), entry)
    }

    /// Makes the directory of the coming entry the current one, with all directories above it.
    fn enter_parent(&mut self, directory: &[u8]) -> Result<()> {
        if self.parent.as_ref().is_some_and(|parent| parent.path == directory && !parent.is_stale) {
            return Ok(());
        }
        self.leave_parent()?;
        let owner = self.options.owners.of(0, 0)?;
        self.parent = Some(self.root.make_parent(directory, owner, &mut self.entries)?);
        Ok(())
    }

    /// Gives the current directory the times back that it had before entries were made in it.
    fn leave_parent(&mut self) -> Result<()> {
        match self.parent.take() {
            Some(parent) => parent.restore_times(),
            None => Ok(()),
        }
    }

    fn parent(&self) -> Result<&Parent> {
        self.parent.as_ref().ok_or_else(|| Error::from_errno(libc::ENOENT))
    }

    /// Removes what is at `name` in the current directory; with `keep_directory`, a directory stays, and the result is
    /// true.
    fn clear(&mut self, name: &[u8], keep_directory: bool) -> Result<bool> {
        let parent = self.parent.as_mut().ok_or_else(|| Error::from_errno(libc::ENOENT))?;
        let kind = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e).context("look at what is there"),
        };
        match kind {
            FileType::Directory if keep_directory => return Ok(true),
            FileType::Directory => remove_tree(parent.fd.as_fd(), name).context("replace a directory")?,
            _ => rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).context("replace a file")?,
        }
        // Paths that led through what is gone may lead elsewhere now.
        parent.is_stale |= matches!(kind, FileType::Directory | FileType::Symlink);
        Ok(false)
    }

    /// Makes an entry that is no hard link, where nothing is but possibly a directory for a directory.
    fn make<R: Skip + BufRead>(
        &mut self,
        entry: &Entry,
        name: &[u8],
        exists: bool,
        data: &mut Reader<R>,
    ) -> Result<()> {
        match entry.kind {
            Kind::File => self.make_file(entry, name, data),
            Kind::Directory => self.make_directory(entry, name, exists),
            Kind::Symlink => {
                let link = entry.link.as_slice();
                rustix::fs::symlinkat(link, &self.parent()?.fd, name).context("make a symbolic link")?;
                self.attributes_of_name(name, entry)
            }
            Kind::Fifo => self.make_node(entry, name, FileType::Fifo, 0),
            Kind::Character(major, minor) => {
                self.make_device(entry, name, FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Kind::Block(major, minor) => {
                self.make_device(entry, name, FileType::BlockDevice, rustix::fs::makedev(major, minor))
            }
            Kind::HardLink => Err(Error::from_errno(libc::EINVAL)),
        }
    }

    fn make_file<R: Skip + BufRead>(&mut self, entry: &Entry, name: &[u8], data: &mut Reader<R>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.parent()?.fd, name, flags, Mode::RUSR | Mode::WUSR).context("make a file")?;
        loop {
            let part = data.fill().context("read the data")?;
            if part.is_empty() {
                break;
            }
            let count = match rustix::io::write(&file, part) {
                Err(Errno::INTR) => 0,
                written => written.context("write the data")?,
            };
            data.consume(count);
            self.check_stop()?;
        }
        if self.inherits_acl {
            self.clear_xattrs(file.as_fd());
        }
        self.attributes(file.as_fd(), entry)
    }

    fn make_directory(&mut self, entry: &Entry, name: &[u8], exists: bool) -> Result<()> {
        let parent = &self.parent()?.fd;
        if !exists {
            rustix::fs::mkdirat(parent, name, Mode::RWXU).context("make a directory")?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty()).context("open the directory")?;
        if exists || self.inherits_acl {
            self.clear_xattrs(directory.as_fd());
        }
        self.attributes(directory.as_fd(), entry)
    }

    fn make_device(&mut self, entry: &Entry, name: &[u8], kind: FileType, device: u64) -> Result<()> {
        if !self.options.devices {
            self.left_out.devices += 1;
            return Ok(());
        }
        self.make_node(entry, name, kind, device)
    }

    fn make_node(&mut self, entry: &Entry, name: &[u8], kind: FileType, device: u64) -> Result<()> {
        // The node gets its mode at birth, because a later chmod(2) by name could follow a link. The umask is 0.
        rustix::fs::mknodat(&self.parent()?.fd, name, kind, Mode::from_raw_mode(entry.mode), device)
            .context("make a special file")?;
        self.attributes_of_name(name, entry)
    }

    /// Makes a hard link. The target's path is resolved inside the root; its last component is not followed if it is a
    /// symbolic link. The entry's attributes are not applied, since they are the target's own.
    fn hard_link(&mut self, entry: &Entry, place: &Place, made: &mut Made) -> Result<()> {
        let named = || format!("hard link to {}", escaped(&entry.link));
        let target = Place::of(&entry.link)
            .and_then(|target| target.ok_or_else(|| Error::invalid("it is the root")))
            .with_context(named)?;
        let directory = self.root.open_directory(&target.directory).with_context(named)?;
        let stat =
            rustix::fs::statat(&directory, target.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).with_context(named)?;
        if is_directory(&stat) {
            return Err(Error::invalid("it is a directory")).with_context(named);
        }
        self.enter_parent(&place.directory)?;
        let here = rustix::fs::statat(&self.parent()?.fd, place.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
        if here.is_ok_and(|here| (here.st_dev, here.st_ino) == (stat.st_dev, stat.st_ino)) {
            // The name is one of the target's already, perhaps the target itself.
            made.add(self.parent()?.ino, &place.name);
            return Ok(());
        }
        self.clear(&place.name, false)?;
        let parent = self.parent()?;
        rustix::fs::linkat(&directory, target.name.as_slice(), &parent.fd, place.name.as_slice(), AtFlags::empty())
            .with_context(named)?;
        made.add(parent.ino, &place.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
