//! Descriptors in a document. Their numbers stay, and each comes with the identity of its file, so that a descriptor that
//! was closed and opened again meanwhile is noticed.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use berth_runtime::{Context, Error, Result};
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::sys;

/// A descriptor by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd(RawFd);

/// A descriptor with the device, the inode and the type of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known(RawFd, u64, u64, u32);

impl Known {
    fn of(fd: impl AsFd) -> Result<Self> {
        let (fd, number) = (fd.as_fd(), fd.as_fd().as_raw_fd());
        let stat = rustix::fs::fstat(fd).with_context(|| format!("stat descriptor {number}"))?;
        Ok(Self(number, stat.st_dev, stat.st_ino, stat.st_mode & libc::S_IFMT))
    }

    /// Checks that the descriptor is the one that was written down.
    ///
    /// # Errors
    /// It is closed, or another file is behind it.
    fn check(self) -> Result<()> {
        if Self::of(sys::borrow(self.0))? == self {
            return Ok(());
        }
        Err(Error::invalid(format!("descriptor {} is not the one that was handed over", self.0)))
    }
}

/// The descriptors that a document names, while it is written.
#[derive(Debug, Default)]
pub struct Keeper(BTreeMap<RawFd, Known>);

impl Keeper {
    /// Writes a descriptor down.
    ///
    /// # Errors
    /// fstat(2) failed.
    pub fn keep(&mut self, fd: impl AsFd) -> Result<Fd> {
        let known = Known::of(fd)?;
        self.0.insert(known.0, known);
        Ok(Fd(known.0))
    }

    /// As [`keep`](Self::keep), if there is one.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_some(&mut self, fd: Option<impl AsFd>) -> Result<Option<Fd>> {
        fd.map(|fd| self.keep(fd)).transpose()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Known> {
        self.0.values().copied().collect()
    }
}

/// Lets an executed program inherit the descriptors, or not.
///
/// # Errors
/// One of them is closed.
pub fn inherit<'a>(fds: impl IntoIterator<Item = &'a Known>, inherited: bool) -> Result<()> {
    let flags = if inherited { FdFlags::empty() } else { FdFlags::CLOEXEC };
    for &Known(number, ..) in fds {
        rustix::io::fcntl_setfd(sys::borrow(number), flags).with_context(|| format!("descriptor {number}"))?;
    }
    Ok(())
}

/// The descriptors of a document that was handed over.
#[derive(Debug)]
pub struct Adopter {
    unowned: BTreeMap<RawFd, Known>,
    shared: BTreeMap<RawFd, Arc<OwnedFd>>,
}

impl Adopter {
    /// Checks all descriptors that a document names. Nothing is changed, and none is owned yet.
    ///
    /// # Errors
    /// One of them is not the one that was written down.
    pub fn check(fds: &[Known]) -> Result<Self> {
        let mut unowned = BTreeMap::new();
        for &fd in fds {
            if fd.0 <= rustix::stdio::raw_stderr() {
                return Err(Error::invalid(format!("descriptor {} is a standard stream", fd.0)));
            }
            fd.check()?;
            unowned.insert(fd.0, fd);
        }
        Ok(Self { unowned, shared: BTreeMap::new() })
    }

    /// Keeps the descriptors from programs that this process executes later.
    ///
    /// # Errors
    /// One of them is closed.
    pub fn close_on_exec(&self) -> Result<()> {
        inherit(self.unowned.values(), false)
    }

    /// Takes a descriptor that may have several users.
    ///
    /// # Errors
    /// The document did not name it when it was checked, or it has an owner already.
    pub fn share(&mut self, fd: Fd) -> Result<Arc<OwnedFd>> {
        if let Some(shared) = self.shared.get(&fd.0) {
            return Ok(shared.clone());
        }
        let owned = Arc::new(self.take(fd)?);
        self.shared.insert(fd.0, owned.clone());
        Ok(owned)
    }

    /// Takes a descriptor for one owner.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    pub fn take(&mut self, fd: Fd) -> Result<OwnedFd> {
        match self.unowned.remove(&fd.0) {
            Some(known) => Ok(sys::own(known.0)),
            None => Err(Error::invalid(format!("descriptor {} is not in the table, or has an owner", fd.0))),
        }
    }
}
