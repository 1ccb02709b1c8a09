//! System calls of the parent that neither nix nor rustix wraps, and the clone with its end in the child.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use berth_init::{plan::Plan, sys::Side};

use crate::{Context, Result};

/// Returns the `CLONE_NEW*` flag of a namespace file (`NS_GET_NSTYPE`, ioctl_ns(2)).
pub fn namespace_kind(fd: &OwnedFd) -> Result<u32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument; on another kind of file it fails with ENOTTY.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    Ok(nix::errno::Errno::result(kind)?.cast_unsigned())
}

/// Opens the user namespace that owns a namespace (`NS_GET_USERNS`, ioctl_ns(2)).
pub fn owner_of_namespace(fd: &OwnedFd) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the request takes no argument; on another kind of file it fails with ENOTTY.
    let owner = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS) };
    let owner = nix::errno::Errno::result(owner)?;
    // SAFETY: the call has just installed the descriptor, so it has no other owner. It is close-on-exec.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(owner) })
}

/// Clones, and carries out `plan` in the child. Returns the child's pid and pidfd in the parent.
pub fn clone_into(plan: &Plan<'_>, flags: u32, cgroup: Option<BorrowedFd<'_>>) -> Result<(i32, OwnedFd)> {
    let what = if cgroup.is_some() { "clone3 into the cgroup" } else { "clone3" };
    // SAFETY: the child runs berth_init::run, which is no_std without alloc and never returns.
    match unsafe { berth_init::sys::clone_process(u64::from(flags), cgroup) }.context(what)? {
        Side::Child => berth_init::run(plan),
        Side::Parent(pid, pidfd) => Ok((pid, pidfd)),
    }
}

/// Clones a process that holds a user namespace open ([`berth_init::namespace::hold_user_namespace`]). Returns its pid
/// and pidfd.
pub fn clone_and_hold(flags: u32, channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> Result<(i32, OwnedFd)> {
    // SAFETY: the child runs berth_init::namespace::hold_user_namespace, which is no_std without alloc and never
    // returns.
    match unsafe { berth_init::sys::clone_process(u64::from(flags), None) }.context("clone3")? {
        Side::Child => berth_init::namespace::hold_user_namespace(channel, join),
        Side::Parent(pid, pidfd) => Ok((pid, pidfd)),
    }
}

/// Runs `work` in a vfork child (`CLONE_VM`, `CLONE_FILES`, `CLONE_VFORK`) and returns its result.
///
/// The child shares memory and file descriptors with this process. Changes of credentials, namespaces and cgroup stay
/// in the child. This thread waits until the child exits, so `work` may allocate, take locks and log. Processes that
/// `work` clones with `CLONE_PARENT` become children of this process.
///
/// # Errors
/// As clone(2). [`crate::Kind::Internal`] if the child exits before `work` returns.
pub fn run_in_vfork_child<T>(work: impl FnOnce() -> T) -> Result<T> {
    use nix::sched::{CloneFlags, clone};
    // 8 MiB, of which the kernel allocates only the pages that are used.
    let mut stack = vec![0u8; 8 << 20];
    let (mut work, mut done) = (Some(work), None);
    let body = Box::new(|| {
        done = work.take().map(|work| work());
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_FILES | CloneFlags::CLONE_VFORK;
    // SAFETY: CLONE_VFORK suspends this thread until the child is gone. The child uses this thread's thread-local
    // storage, so for all shared state the two are one thread. The child has a stack of its own, which outlives it. It
    // leaves that stack only by exit(2): a panic aborts at the boundary of the C function through which clone(3) calls
    // the closure.
    let pid = unsafe { clone(body, &mut stack, flags, Some(libc::SIGCHLD)) }.context("clone")?;
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()) {}
    done.ok_or_else(|| crate::Error::new(crate::Kind::Internal, "a vfork child exited before its work was done"))
}

/// Returns the position of this program in memory, for [`berth_init::shed`]. Returns `None` for a dynamic executable.
pub fn image() -> Option<berth_init::plan::Image> {
    unsafe extern "C" {
        // The linker defines both: the first byte of the program, and the byte after its last.
        static __executable_start: u8;
        static _end: u8;
    }
    if !cfg!(target_feature = "crt-static") {
        return None;
    }
    let (start, end) = (&raw const __executable_start, &raw const _end);
    // SAFETY: getauxval(3) reads the auxiliary vector that the kernel has put on the stack.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let name = usize::from_ne_bytes(name.to_ne_bytes());
    // SAFETY: as above.
    let page = usize::from_ne_bytes(unsafe { libc::getauxval(libc::AT_PAGESZ) }.to_ne_bytes());
    // The kernel stores the file name in the highest page of the stack (execve(2)).
    (name != 0 && page != 0).then(|| berth_init::plan::Image {
        start: start.addr(),
        end: end.addr(),
        top: (name + 1).next_multiple_of(page),
        page,
        rseq: rseq(),
    })
}

/// Returns offset and sizes of the rseq area that glibc registers for each thread since glibc 2.35.
#[cfg(target_env = "gnu")]
fn rseq() -> Option<(isize, [u32; 3])> {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    /// `AT_RSEQ_FEATURE_SIZE` and `AT_RSEQ_ALIGN` (Linux 6.3). Newer C libraries register the size that the kernel
    /// supports.
    const SIZES: [u64; 2] = [27, 28];
    // SAFETY: the two statics are constants of the C library, and getauxval(3) reads the kernel's vector.
    let (offset, size, [known, align]) =
        unsafe { (__rseq_offset, __rseq_size, SIZES.map(|kind| u32::try_from(libc::getauxval(kind)).unwrap_or(0))) };
    (size != 0).then_some((offset, [32, size, known.next_multiple_of(align.max(1))]))
}

#[cfg(not(target_env = "gnu"))]
fn rseq() -> Option<(isize, [u32; 3])> {
    None
}

/// Kills a child with SIGKILL and waits for its end as [`reap`] does.
pub fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    reap(pidfd);
}

/// Waits for the end of a killed child, at most 10 s.
///
/// A child in a frozen v1 cgroup, or one that is stuck in the kernel, dies later. The process that reaps this process's
/// other children then reaps it.
pub fn reap(pidfd: BorrowedFd<'_>) {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
        process::{WaitId, WaitIdOptions, waitid},
    };
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    while let Err(Errno::INTR) = poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&timeout)) {}
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}

/// Runs `work` on `value` in a thread of its own, and waits for its end. `None` if the thread has panicked.
///
/// # Errors
/// No thread can be started.
pub fn run_on_thread<V: ?Sized, T: Send>(value: &V, work: impl FnOnce(&V) -> T + Send) -> std::io::Result<Option<T>> {
    struct Lent<'v, V: ?Sized>(&'v V);
    // SAFETY: the value is used by one thread at a time. This thread waits in `join` until the other one has ended, and
    // `work` may keep the reference no longer than its own call.
    unsafe impl<V: ?Sized> Send for Lent<'_, V> {}
    impl<V: ?Sized> Lent<'_, V> {
        fn give<T>(&self, work: impl FnOnce(&V) -> T) -> T {
            work(self.0)
        }
    }
    let lent = Lent(value);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || lent.give(work))?;
        Ok(thread.join().ok())
    })
}

/// Duplicates a file descriptor of another process with pidfd_getfd(2) (Linux 5.6). The duplicate is close-on-exec.
pub fn take_fd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?)
        .map_err(|_| crate::Error::new(crate::Kind::Internal, "pidfd_getfd gave no descriptor"))?;
    // SAFETY: the call has just installed the descriptor, so it has no other owner.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// Returns the soft and the hard limit that a process had, and sets `new` if given (prlimit(2)).
pub fn limit(pid: i32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let pair = |(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let new = new.map(pair);
    let mut old = pair((0, 0));
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live until the call returns. A null pointer sets no new limits.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) };
    nix::errno::Errno::result(ret)?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Returns true if the kernel has system call `number`. The call must be one that refuses arguments of -1.
pub fn has_call(number: libc::c_long) -> bool {
    // SAFETY: such a call refuses flags, sizes or numbers of -1 before it follows a pointer or uses an fd.
    let ret = unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) };
    nix::errno::Errno::result(ret) != Err(nix::errno::Errno::ENOSYS)
}

/// Sends any signal number with pidfd_send_signal(2) (Linux 5.1). rustix's wrapper lacks real-time signals and signal
/// 0.
///
/// # Errors
/// `ESRCH` if the process has ended, `EINVAL` if there is no such signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the kernel reads no memory of this process, because the call passes no siginfo. The fd is borrowed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    nix::errno::Errno::result(ret)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the directory of the child changes, not of this process")]
    fn vfork_child_shares_memory_and_descriptors_but_not_its_directory() {
        let mut seen = vec![std::process::id()];
        let (directory, fd) = run_in_vfork_child(|| {
            seen.push(std::process::id());
            // The working directory stays in the child, as credentials and namespaces do.
            std::env::set_current_dir("/proc").unwrap();
            (std::env::current_dir().unwrap(), std::fs::File::open("self/comm").unwrap())
        })
        .unwrap();
        let [own, other] = seen.as_slice() else { panic!("{seen:?}") };
        assert_ne!(own, other);
        assert_eq!(directory, std::path::Path::new("/proc"));
        assert_ne!(std::env::current_dir().unwrap(), directory);
        assert!(rustix::io::fcntl_getfd(&fd).is_ok(), "the descriptor is open in the parent");
    }
}
