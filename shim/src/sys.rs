//! The kernel calls of the shim that no crate wraps safely. Each `unsafe` block names the contract that it relies on.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use berth_runtime::{Error, Result};

/// The pid of a child that has exited and is not reaped; it stays unreaped (WNOWAIT). `None` if there is none.
///
/// nix has the same call, but it fails on a child that a real-time signal has killed. rustix does not return the pid.
///
/// # Errors
/// Those of waitid(2) except ECHILD.
pub fn exited_child() -> Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data, and all zero bytes are a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid(2) writes one siginfo_t through a pointer that is valid for it; WNOWAIT leaves the child waitable.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    if result < 0 {
        return match errno() {
            libc::ECHILD => Ok(None),
            errno => Err(Error::from_errno(errno)),
        };
    }
    // SAFETY: waitid(2) sets si_pid, or leaves it zero if no child has exited.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Reaps the exited child `pid` and drops its status.
pub fn discard_child(pid: i32) {
    // SAFETY: waitpid(2) allows a null status pointer; WNOHANG keeps the call from blocking.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

/// `struct loop_config` of linux/loop.h, with `struct loop_info64` inside it.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// device, inode, rdevice, offset, sizelimit: all zero means the whole file.
    place: [u64; 5],
    /// number, encrypt_type, encrypt_key_size.
    unused: [u32; 3],
    flags: u32,
    /// file_name, crypt_name, encrypt_key.
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;

/// The number of a free loop device.
///
/// # Errors
/// Those of the ioctl (loop(4)).
pub fn free_loop(control: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns the number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 { Err(Error::from_errno(errno())) } else { Ok(number) }
}

/// Attaches `file` to a loop device. `flags` are LO_FLAGS_… bits.
///
/// # Errors
/// EBUSY if another process took the device first; those of the ioctl (LOOP_CONFIGURE: Linux 5.8).
pub fn configure_loop(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        place: [0; 5],
        unused: [0; 3],
        flags,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one loop_config through the pointer; the struct above has the kernel's layout.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result < 0 { Err(Error::from_errno(errno())) } else { Ok(()) }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    #[test]
    fn loop_config_has_the_size_the_kernel_reads() {
        assert_eq!(std::mem::size_of::<super::LoopConfig>(), 304);
    }
}
