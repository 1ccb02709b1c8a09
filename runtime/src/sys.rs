//! The few kernel calls of the parent that neither nix nor rustix wraps, and the clone with the end of what it made.
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

/// Clones a process that stands for a user namespace ([`berth_init::namespace::hold_user_namespace`]). Returns its pid and pidfd.
pub fn clone_and_hold(flags: u32, channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> Result<(i32, OwnedFd)> {
    // SAFETY: the child runs berth_init::namespace::hold_user_namespace, which is no_std without alloc and never returns.
    match unsafe { berth_init::sys::clone_process(u64::from(flags), None) }.context("clone3")? {
        Side::Child => berth_init::namespace::hold_user_namespace(channel, join),
        Side::Parent(pid, pidfd) => Ok((pid, pidfd)),
    }
}

/// Carries out `work` in a process of its own that has this one's memory and descriptors, while this thread waits for its
/// end: what it returns is as if it had been called here, but its credentials, namespaces and cgroup were its own. Children
/// that it makes with `CLONE_PARENT` are this process'.
///
/// # Errors
/// As clone(2); the process ended before the work was done.
pub fn run_in_vfork_child<T>(work: impl FnOnce() -> T) -> Result<T> {
    use nix::sched::{CloneFlags, clone};
    // The kernel gives pages to what is used of it.
    let mut stack = vec![0u8; 8 << 20];
    let (mut work, mut done) = (Some(work), None);
    let body = Box::new(|| {
        done = work.take().map(|work| work());
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_FILES | CloneFlags::CLONE_VFORK;
    // SAFETY: with CLONE_VFORK this thread, whose thread-local storage the child uses, stands still until the child is gone,
    // so the two are one thread to everything that they share; the child has a stack of its own, which outlives it, and
    // leaves it by exit(2) alone: a panic ends it at the border of the C function that it is called through.
    let pid = unsafe { clone(body, &mut stack, flags, Some(libc::SIGCHLD)) }.context("clone")?;
    while let Err(nix::errno::Errno::EINTR) = nix::sys::wait::waitpid(pid, None) {}
    done.ok_or_else(|| crate::Error::new(crate::Kind::Internal, "a process ended before its work was done"))
}

/// Where this program is in memory, for [`berth_init::shed`]; `None` where it is linked dynamically.
pub fn image() -> Option<berth_init::plan::Image> {
    unsafe extern "C" {
        // The linker defines them: the first byte of the program, and the one after its last.
        static __executable_start: u8;
        static _end: u8;
    }
    if !cfg!(target_feature = "crt-static") {
        return None;
    }
    let (start, end) = (&raw const __executable_start, &raw const _end);
    // SAFETY: reads the vector that the kernel has put on the stack (getauxval(3)).
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let name = usize::from_ne_bytes(name.to_ne_bytes());
    // SAFETY: the same vector.
    let page = usize::from_ne_bytes(unsafe { libc::getauxval(libc::AT_PAGESZ) }.to_ne_bytes());
    // The file name lies in the highest page of the stack (execve(2)).
    (name != 0 && page != 0).then(|| berth_init::plan::Image {
        start: start.addr(),
        end: end.addr(),
        top: (name + 1).next_multiple_of(page),
        page,
        rseq: rseq(),
    })
}

/// The area that glibc (from 2.35 on) registers for each thread.
#[cfg(target_env = "gnu")]
fn rseq() -> Option<(isize, [u32; 3])> {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    /// `AT_RSEQ_FEATURE_SIZE` and `AT_RSEQ_ALIGN`, Linux 6.3: newer C libraries register as much as the kernel knows.
    const SIZES: [u64; 2] = [27, 28];
    // SAFETY: constants of the C library, and the kernel's vector.
    let (offset, size, [known, align]) =
        unsafe { (__rseq_offset, __rseq_size, SIZES.map(|kind| u32::try_from(libc::getauxval(kind)).unwrap_or(0))) };
    (size != 0).then_some((offset, [32, size, known.next_multiple_of(align.max(1))]))
}

#[cfg(not(target_env = "gnu"))]
fn rseq() -> Option<(isize, [u32; 3])> {
    None
}

/// Ends a child that is not wanted any more, and waits until it is gone.
pub fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    reap(pidfd);
}

/// Waits for the end of a child that is as good as dead, at most 10 s: one that is frozen (cgroup v1) or stuck in the
/// kernel dies later, and then goes to whoever collects this process's children.
pub fn reap(pidfd: BorrowedFd<'_>) {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
        process::{WaitId, WaitIdOptions, waitid},
    };
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    while let Err(Errno::INTR) = poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&patience)) {}
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}

/// A reference that another thread uses while its owner waits for that thread.
pub struct SendRef<'a, T: ?Sized>(pub &'a T);

// SAFETY: the scope in which it is lent (`timens::in_new`, `namespace::among`) ends only when the other thread has, and the
// lender does nothing but wait meanwhile; so one thread at a time has the value.
unsafe impl<T: ?Sized> Send for SendRef<'_, T> {}

impl<'a, T: ?Sized> SendRef<'a, T> {
    /// What was lent.
    pub fn get(&self) -> &'a T {
        self.0
    }
}

/// pidfd_getfd(2), Linux 5.6: a duplicate of another process' fd, close-on-exec.
pub fn take_fd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?)
        .map_err(|_| crate::Error::new(crate::Kind::Internal, "pidfd_getfd gave no descriptor"))?;
    // SAFETY: the call has just installed it, and nobody else owns it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// prlimit(2): the soft and hard limit that a process had, and with `new` has now.
pub fn limit(pid: i32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let pair = |(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let new = new.map(pair);
    let mut old = pair((0, 0));
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live until the call returns; no new limits are a null pointer.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) };
    nix::errno::Errno::result(ret)?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Whether the kernel has system call `number`, which must be one that refuses all its arguments being -1.
pub fn has_call(number: libc::c_long) -> bool {
    // SAFETY: no such call follows a pointer or uses an fd before it has refused flags, sizes or numbers of -1.
    let ret = unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) };
    nix::errno::Errno::result(ret) != Err(nix::errno::Errno::ENOSYS)
}

/// pidfd_send_signal(2), Linux 5.1, with any number: real-time signals and 0 have no name in the wrappers.
pub fn send_signal(pidfd: std::os::fd::RawFd, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed; a number that is no pidfd fails with EBADF.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, info, 0) };
    nix::errno::Errno::result(ret)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is another process whose directory changes")]
    fn what_is_done_beside_is_done_here() {
        let mut seen = vec![std::process::id()];
        let (directory, fd) = run_in_vfork_child(|| {
            seen.push(std::process::id());
            // Its own, as with credentials and namespaces.
            std::env::set_current_dir("/proc").unwrap();
            (std::env::current_dir().unwrap(), std::fs::File::open("self/comm").unwrap())
        })
        .unwrap();
        let [own, other] = seen.as_slice() else { panic!("{seen:?}") };
        assert_ne!(own, other);
        assert_eq!(directory, std::path::Path::new("/proc"));
        assert_ne!(std::env::current_dir().unwrap(), directory);
        assert!(rustix::io::fcntl_getfd(&fd).is_ok(), "what it opened is open here");
    }
}
