//! The system calls that rustix lacks, and the clone. This is one of the few files with `unsafe`.
//!
//! All functions but [`clone`] may be called between clone and execve: they neither allocate nor take a lock.
#![allow(unsafe_code)]

use rustix::io::{Errno, Result};
use std::{
    ffi::CStr,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU32, Ordering},
};

fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret >= 0 {
        return Ok(ret);
    }
    // SAFETY: the address of this thread's errno, always valid.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}

/// Invokes a system call whose pointer arguments the caller built from live references.
macro_rules! call {
    ($nr:expr $(, $arg:expr)*) => {
        // SAFETY: each wrapper passes integers, or pointers derived from references that outlive the call, with the
        // sizes that the call's man page asks for.
        check(unsafe { libc::syscall($nr $(, $arg)*) })
    };
}

/// The first 88 bytes of `struct clone_args` of clone3(2) (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Calls clone3(2) like fork, with `CLONE_NEW*` flags, and into a v2 cgroup if one is given. The process exits with 1
/// when `child` returns.
///
/// # Errors
/// As clone3(2).
pub fn clone(namespaces: u32, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce()) -> Result<OwnedFd> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let flags = u64::from(namespaces) | u64::from(libc::CLONE_PIDFD.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
    let mut args = CloneArgs {
        flags: flags | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
        ..CloneArgs::default()
    };
    if call!(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>())? == 0 {
        child();
        exit(1);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Resets SIGPIPE to its default action: the Rust runtime ignores it, and execve(2) would keep that.
pub fn default_sigpipe() -> Result<()> {
    // The kernel's struct sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0u64; 4];
    let null = std::ptr::null_mut::<u64>();
    call!(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), null, 8usize).map(drop)
}

/// The kinds of namespaces that the floor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Process ids.
    Pid,
    /// Network.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Mounts.
    Mount,
    /// Control groups.
    Cgroup,
}

impl Namespace {
    /// Returns the kind of a name in config.json.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "pid" => Self::Pid,
            "network" => Self::Network,
            "ipc" => Self::Ipc,
            "uts" => Self::Uts,
            "mount" => Self::Mount,
            "cgroup" => Self::Cgroup,
            _ => return None,
        })
    }

    /// Returns the `CLONE_NEW*` flag.
    pub fn flag(self) -> u32 {
        let flag = match self {
            Self::Pid => libc::CLONE_NEWPID,
            Self::Network => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
        };
        flag.cast_unsigned()
    }
}

/// Calls execve(2) and returns only its error. Both vectors end in null and point to live strings.
pub fn execve(path: &CStr, args: &Pointers, env: &Pointers) -> Errno {
    match call!(libc::SYS_execve, path.as_ptr(), args.0.as_ptr(), env.0.as_ptr()) {
        Ok(_) => Errno::INVAL,
        Err(e) => e,
    }
}

/// A null-terminated vector of strings for execve(2).
pub struct Pointers(Vec<*const libc::c_char>);

impl Pointers {
    /// Makes a vector of strings, which are leaked so that they outlive every use.
    pub fn new(words: Vec<std::ffi::CString>) -> Self {
        let words: &'static [std::ffi::CString] = words.leak();
        Self(words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect())
    }
}

/// Calls _exit(2).
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: ends the process, touches nothing.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// Waits for a signal, for ever.
pub fn pause() -> ! {
    loop {
        // SAFETY: sleeps, touches nothing.
        unsafe { libc::syscall(libc::SYS_pause) };
    }
}

/// Calls setns(2) for one namespace by its file, or for several of a process by its pidfd (Linux 5.8). `namespaces` has
/// `CLONE_NEW*` flags.
pub fn join(fd: BorrowedFd<'_>, namespaces: u32) -> Result<()> {
    call!(libc::SYS_setns, fd.as_raw_fd(), namespaces).map(drop)
}

/// Calls unshare(2) for namespaces, never for memory or descriptors.
pub fn unshare(namespace: Namespace) -> Result<()> {
    call!(libc::SYS_unshare, namespace.flag()).map(drop)
}

/// Joins a new session keyring of this name, searchable by its owner (keyctl(2)), as runc and berth make one for a
/// container.
pub fn join_keyring(name: &CStr, searchable: bool) -> Result<()> {
    const SEARCH: u32 = 0x0008_0000;
    let serial = call!(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())?;
    // The permissions that KEYCTL_JOIN_SESSION_KEYRING sets: all but setattr for the possessor, view and read for the
    // user.
    const JOINED: u32 = 0x3f03_0000;
    if searchable {
        call!(libc::SYS_keyctl, libc::KEYCTL_SETPERM, serial, JOINED | SEARCH)?;
    }
    Ok(())
}

/// Calls capset(2) with effective and permitted capabilities. The inheritable set becomes empty.
pub fn set_capabilities(effective: u64, permitted: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let halves = |set: u64| ((set & 0xffff_ffff) as u32, (set >> 32) as u32);
    let ((e0, e1), (p0, p1)) = (halves(effective), halves(permitted));
    let data = [e0, p0, 0, e1, p1, 0];
    call!(libc::SYS_capset, header.as_ptr(), data.as_ptr()).map(drop)
}

/// Calls prctl(2) with plain integers.
pub fn prctl(option: libc::c_int, argument: u64) -> Result<()> {
    call!(libc::SYS_prctl, option, argument, 0u64, 0u64, 0u64).map(drop)
}

/// Calls seccomp(2) with `SECCOMP_SET_MODE_FILTER`.
pub fn set_filter(filter: &[libc::sock_filter], flags: u32) -> Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program).map(drop)
}

/// Calls close_range(2) with `CLOSE_RANGE_CLOEXEC` from 3 on.
pub fn close_others_at_exec() -> Result<()> {
    call!(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC).map(drop)
}

/// Calls dup3(2) onto a standard stream.
pub fn dup_onto(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    call!(libc::SYS_dup3, fd.as_raw_fd(), number, 0).map(drop)
}

/// Returns the CPU time of this process and of the children that it has waited for, in nanoseconds. The children's is
/// exact to the microsecond (getrusage(2)).
pub fn cpu_time() -> u64 {
    let own = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    // SAFETY: plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is as large as the call wants it. It fails for a bad `who` only.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let micros = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    let children = micros(usage.ru_utime) + micros(usage.ru_stime);
    own.tv_sec.unsigned_abs() * 1_000_000_000 + own.tv_nsec.unsigned_abs() + children * 1000
}

/// Three words that a child shares with its parent: the place of a failure, its errno, and whether the child is ready.
pub struct Mailbox(&'static [AtomicU32; 3]);

impl Mailbox {
    /// Maps a page for the words, for the life of the process.
    ///
    /// # Errors
    /// mmap(2) failed.
    pub fn new() -> Result<Self> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, nothing given up for it.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Errno::NOMEM);
        }
        // SAFETY: the page is mapped for good, zeroed, aligned, and only ever seen as atomics.
        Ok(Self(unsafe { &*page.cast::<[AtomicU32; 3]>() }))
    }

    /// Stores a failure.
    pub fn put(&self, place: u32, errno: Errno) {
        self.0[1].store(errno.raw_os_error().unsigned_abs(), Ordering::Relaxed);
        self.0[0].store(place, Ordering::Release);
    }

    /// Reports that the keeper is ready.
    pub fn set_ready(&self) {
        self.0[2].store(1, Ordering::Release);
    }

    /// Returns whether the keeper is ready.
    pub fn is_ready(&self) -> bool {
        self.0[2].load(Ordering::Acquire) != 0
    }

    /// Takes the failure, if there is one. The place is never 0.
    pub fn take(&self) -> Option<(u32, Errno)> {
        let place = self.0[0].swap(0, Ordering::Acquire);
        // Zero is not an errno and means that there is no failure.
        (place != 0).then(|| (place, Errno::from_raw_os_error(self.0[1].load(Ordering::Relaxed).cast_signed())))
    }
}
