//! [`Step`]: one system call that builds the new root. Paths are relative to the new root, which is the working directory.

use rustix::{
    fs::{CWD, FileType, Mode, RawMode, mkdirat, mknodat, symlinkat},
    io::{Errno, Result},
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount},
};
use std::ffi::CString;

/// One system call on the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Calls mkdir(2). An existing directory is not an error.
    Directory(CString),
    /// Mounts a filesystem.
    Mount { source: CString, target: CString, kind: CString, flags: MountFlags, data: Option<CString> },
    /// Makes a bind mount, with submounts if `recursive`.
    Bind { source: CString, target: CString, recursive: bool },
    /// Changes the attributes of a bind mount.
    Remount { target: CString, flags: MountFlags },
    /// Changes the propagation of a mount.
    Change { target: CString, flags: MountPropagationFlags },
    /// Makes a character device.
    Node { path: CString, mode: RawMode, device: u64 },
    /// Makes a symbolic link.
    Link { to: CString, path: CString },
}

impl Step {
    /// Makes the system call.
    ///
    /// # Errors
    /// The error of the call.
    pub fn take(&self) -> Result<()> {
        match self {
            Self::Directory(path) => match mkdirat(CWD, path.as_c_str(), Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => Ok(()),
                made => made,
            },
            Self::Mount { source, target, kind, flags, data } => {
                mount(source.as_c_str(), target.as_c_str(), kind.as_c_str(), *flags, data.as_deref())
            }
            Self::Bind { source, target, recursive: true } => {
                mount_bind_recursive(source.as_c_str(), target.as_c_str())
            }
            Self::Bind { source, target, recursive: false } => mount_bind(source.as_c_str(), target.as_c_str()),
            Self::Remount { target, flags } => mount_remount(target.as_c_str(), MountFlags::BIND | *flags, c""),
            Self::Change { target, flags } => mount_change(target.as_c_str(), *flags),
            Self::Node { path, mode, device } => {
                mknodat(CWD, path.as_c_str(), FileType::CharacterDevice, Mode::from_raw_mode(*mode), *device)
            }
            Self::Link { to, path } => symlinkat(to.as_c_str(), CWD, path.as_c_str()),
        }
    }
}
