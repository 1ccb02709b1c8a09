//! Landlock's three system calls (landlock(7)), which no crate of the tree wraps. The crate's only unsafe code.

#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use berth_runtime::{Error, Result};

/// `struct landlock_ruleset_attr` of ABI 4.
#[repr(C)]
pub struct Ruleset {
    /// `LANDLOCK_ACCESS_FS_*` that are denied unless a rule allows them.
    pub handled_access_fs: u64,
    /// `LANDLOCK_ACCESS_NET_*` likewise.
    pub handled_access_net: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// The version of Landlock's ABI that the kernel has; 0 without Landlock.
pub fn landlock_abi() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with LANDLOCK_CREATE_RULESET_VERSION the kernel takes a null pointer of size 0 and reads no memory.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0_usize, VERSION) };
    abi.max(0)
}

/// landlock_create_ruleset(2); `size` is how many bytes of the attributes the kernel's ABI knows.
///
/// # Errors
/// As the system call.
pub fn landlock_create(attributes: &Ruleset, size: usize) -> Result<OwnedFd> {
    let size = size.min(size_of::<Ruleset>());
    // SAFETY: the pointer is valid for `size` bytes, which the kernel only reads.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const *attributes, size, 0_u32) };
    let fd = checked(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Error::from_errno(libc::EBADF))?;
    // SAFETY: the kernel has just made the descriptor, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// landlock_add_rule(2): allows `access` on what is beneath a directory.
///
/// # Errors
/// As the system call.
pub fn landlock_allow(ruleset: BorrowedFd<'_>, beneath: BorrowedFd<'_>, access: u64) -> Result<()> {
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: beneath.as_raw_fd() };
    // SAFETY: the pointer is valid for the rule's size, which the kernel only reads.
    let done = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0_u32)
    };
    checked(done).map(drop)
}

/// landlock_restrict_self(2), for the calling thread and those that it makes.
///
/// # Errors
/// As the system call.
pub fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call has no pointers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
    checked(done).map(drop)
}

fn checked(result: i64) -> Result<i64> {
    if result >= 0 {
        return Ok(result);
    }
    Err(std::io::Error::last_os_error().into())
}
