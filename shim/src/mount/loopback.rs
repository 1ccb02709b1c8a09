//! A file system in a file, attached to a loop device. The kernel frees the device with its last mount
//! (LO_FLAGS_AUTOCLEAR).

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Result};
use nix::mount::MsFlags;
use rustix::fs::{Mode, OFlags, open};

use super::options::MountOptions;
use crate::sys;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// The number of attempts to get a free device. Another process may take the device between the two ioctls.
const TRIES: u32 = 100;

/// An attached loop device. Dropping it frees the device unless it is mounted.
pub struct Device {
    /// `/dev/loopN`.
    pub path: PathBuf,
    _fd: OwnedFd,
}

/// Attaches `file` to a free loop device.
///
/// # Errors
/// The file or the device cannot be opened or attached; the error names it.
pub fn attach(file: &Path, options: &MountOptions) -> Result<Device> {
    let read_only = options.flags.contains(MsFlags::MS_RDONLY);
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let direct = if options.direct_io { OFlags::DIRECT } else { OFlags::empty() };
    let backing = open(file, access | direct | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", file.display()))?;
    let control =
        open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/loop-control")?;
    let mut flags = AUTOCLEAR;
    if read_only {
        flags |= READ_ONLY;
    }
    if options.direct_io {
        flags |= DIRECT_IO;
    }
    for _ in 0..TRIES {
        let number = sys::free_loop(control.as_fd()).context("find a free loop device")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let fd =
            open(&path, access | OFlags::CLOEXEC, Mode::empty()).with_context(|| format!("open {}", path.display()))?;
        match sys::configure_loop(fd.as_fd(), backing.as_fd(), flags) {
            Ok(()) => return Ok(Device { path, _fd: fd }),
            Err(e) if e.errno() == Some(libc::EBUSY) => {}
            Err(e) => return Err(e.context(format!("attach {} to {}", file.display(), path.display()))),
        }
    }
    Err(Error::from_errno(libc::EBUSY).context("no loop device stays free"))
}
