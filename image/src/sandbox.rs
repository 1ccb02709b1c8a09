//! Landlock as the second wall: after the image and the bundle are open, the process can change files below the bundle
//! alone, read the image alone, and use no TCP. The first wall is openat2(2) in [`crate::apply`].

use std::os::fd::{AsFd, BorrowedFd};

use berth_runtime::{Context, Result};

use crate::sys::{self, Ruleset};

/// `LANDLOCK_ACCESS_FS_EXECUTE` to `..._MAKE_SYM`, ABI 1.
const FS_V1: u64 = (1 << 13) - 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// `LANDLOCK_ACCESS_FS_REFER`, ABI 2: without it a hard link into another directory is always denied.
const REFER: u64 = 1 << 13;
/// `LANDLOCK_ACCESS_FS_TRUNCATE`, ABI 3.
const TRUNCATE: u64 = 1 << 14;
/// `LANDLOCK_ACCESS_FS_IOCTL_DEV`, ABI 5.
const IOCTL_DEV: u64 = 1 << 15;
/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `..._CONNECT_TCP`, ABI 4.
const NET_TCP: u64 = 3;

/// Restricts the calling thread, and threads that it makes later, to write below `bundle` and to read below `image` (where
/// the image is a directory). Returns whether the kernel could: Linux 5.19 with Landlock among its LSMs.
///
/// # Errors
/// The kernel has Landlock and refuses the rules.
pub fn enter(bundle: BorrowedFd<'_>, image: Option<BorrowedFd<'_>>) -> Result<bool> {
    let abi = sys::landlock_abi();
    if abi < 2 {
        return Ok(false);
    }
    let mut access = FS_V1 | REFER;
    for (since, right) in [(3, TRUNCATE), (5, IOCTL_DEV)] {
        if abi >= since {
            access |= right;
        }
    }
    let (net, size) = if abi >= 4 { (NET_TCP, size_of::<Ruleset>()) } else { (0, size_of::<u64>()) };
    let ruleset = sys::landlock_create(&Ruleset { handled_access_fs: access, handled_access_net: net }, size)
        .context("make a Landlock ruleset")?;
    sys::landlock_allow(ruleset.as_fd(), bundle, access).context("allow the bundle in Landlock")?;
    if let Some(image) = image {
        sys::landlock_allow(ruleset.as_fd(), image, READ_FILE | READ_DIR).context("allow the image in Landlock")?;
    }
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    sys::landlock_restrict(ruleset.as_fd()).context("enter Landlock")?;
    Ok(true)
}
