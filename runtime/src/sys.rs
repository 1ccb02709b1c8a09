//! The few kernel calls of the parent that neither nix nor rustix wraps, and the clone.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use berth_init::{plan::Plan, sys::Side};

use crate::{Context, Result};

/// ioctl_ns(2) `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of a namespace file.
pub fn namespace_kind(fd: &OwnedFd) -> Result<u32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument; on another kind of file it fails with ENOTTY.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    Ok(nix::errno::Errno::result(kind)?.cast_unsigned())
}

/// Clones, and carries out `plan` in the child. Returns the child's pid and pidfd.
pub fn clone_into(plan: &Plan<'_>, flags: u32, cgroup: Option<BorrowedFd<'_>>) -> Result<(i32, OwnedFd)> {
    // SAFETY: the child runs berth_init::run, which is no_std without alloc and never returns.
    match unsafe { berth_init::sys::clone_process(u64::from(flags), cgroup) }.context("clone3")? {
        Side::Child => berth_init::run(plan),
        Side::Parent(pid, pidfd) => Ok((pid, pidfd)),
    }
}

/// Owns an fd that recvmsg(2) just installed.
pub fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: called on the numbers of an SCM_RIGHTS message only, which are new and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// pidfd_send_signal(2), Linux 5.1, with any number: real-time signals and 0 have no name in the wrappers.
pub fn send_signal(pidfd: std::os::fd::RawFd, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed; a number that is no pidfd fails with EBADF.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, info, 0) };
    nix::errno::Errno::result(ret)?;
    Ok(())
}
