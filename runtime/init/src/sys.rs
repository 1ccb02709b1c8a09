//! The system calls that rustix lacks or wraps with an allocation, and the clones.
//!
//! Nothing in this file allocates, takes a lock, uses the C library's thread data ([`crate::trap`]), or touches memory
//! that is not passed to it.
#![allow(unsafe_code)]

use core::{cell::Cell, ffi::CStr, mem::size_of};

use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    io::{Errno, Result},
};

use crate::{
    plan::{Capabilities, Plan, Ptr, SchedulerAttributes},
    trap::{self, Word},
};

/// The result of a system call: a value from -4095 to -1 is a negated errno.
fn check(ret: isize) -> Result<i64> {
    match i32::try_from(ret) {
        Ok(errno @ -4095..=-1) => Err(Errno::from_raw_os_error(-errno)),
        _ => Ok(i64::from_ne_bytes(ret.to_ne_bytes())),
    }
}

/// Makes a system call. The pointer arguments come from live references; one to memory that the kernel writes is `&raw
/// mut`.
macro_rules! call {
    ($nr:expr $(, $arg:expr)*) => {{
        let mut words = [0usize; 6];
        let mut _slots = words.iter_mut();
        $(if let Some(slot) = _slots.next() {
            *slot = Word::word($arg);
        })*
        // SAFETY: each wrapper passes integers, or pointers from references that outlive the call, with the sizes that
        // the man page of the call demands.
        check(unsafe { trap::call(Word::word($nr), words) })
    }};
}

/// `struct clone_args` of clone3(2), its first 88 bytes (Linux 5.7).
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

/// The process in which a clone returns.
pub enum Side {
    /// The new process.
    Child,
    /// The process that called it, with the child's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// clone3(2) as a fork: a copied address space, `CLONE_PIDFD`, signal handlers reset (`CLONE_CLEAR_SIGHAND`), SIGCHLD
/// at exit. With `cgroup` the child is created in that v2 cgroup (`CLONE_INTO_CGROUP`, Linux 5.7). With `CLONE_PARENT`
/// the child has the exit signal of the caller.
///
/// # Errors
/// As clone3(2).
///
/// # Safety
/// The child may run only code that neither allocates nor takes a lock, and it must not return from the caller: the
/// locks of other threads are copied in any state.
pub unsafe fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | (libc::CLONE_PIDFD as u64) | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if flags & (libc::CLONE_PARENT as u64) == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
    }
    match call!(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>())? {
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: the kernel stored a new fd that has no other owner.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(i32::try_from(pid).unwrap_or(-1), pidfd))
        }
    }
}

/// The second clone: `CLONE_PARENT` makes the new process a sibling of this one. Both sides run this crate's code
/// only, so this function is safe to call.
///
/// It uses clone(2) with `CLONE_PIDFD` (Linux 5.2): a seccomp filter cannot read the arguments of clone3(2), so
/// profiles deny it. The first clone has reset the signal handlers.
///
/// # Errors
/// As clone(2).
pub(crate) fn second_clone() -> Result<Side> {
    let mut pidfd: RawFd = -1;
    // The order of the last two arguments differs between architectures; both are 0.
    match call!(libc::SYS_clone, SECOND_CLONE_FLAGS, 0, &raw mut pidfd, 0, 0)? {
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: the kernel stored a new fd that has no other owner.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(i32::try_from(pid).unwrap_or(-1), pidfd))
        }
    }
}

/// The flags of the second clone. They have no exit signal: `CLONE_PARENT` takes the caller's.
pub const SECOND_CLONE_FLAGS: u64 = (libc::CLONE_PARENT | libc::CLONE_PIDFD).cast_unsigned() as u64;

/// Clones a child that becomes a hook, or that opens a file for this process.
pub(crate) fn clone_hook() -> Result<Side> {
    // SAFETY: only `hook` and `namespace` call it. Their child neither allocates nor takes a lock, and ends in execve
    // or exit.
    unsafe { clone_process(0, None) }
}

/// Clones a child that becomes a program of the host.
pub(crate) fn clone_program() -> Result<Side> {
    // SAFETY: only `program` calls it. Its child neither allocates nor takes a lock, and ends in execve or exit.
    unsafe { clone_process(0, None) }
}

/// Waits with ppoll(2) for the end of the process of `pidfd`. Returns true when it has ended; false when `watch` is
/// hung up or has an error, or when `seconds` have passed.
pub(crate) fn wait_readable(
    pidfd: BorrowedFd<'_>,
    watch: Option<BorrowedFd<'_>>,
    seconds: Option<u32>,
) -> Result<bool> {
    let entry = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
    // ppoll(2) ignores an entry with a negative fd, and always reports a hang-up and an error.
    let mut fds = [entry(pidfd.as_raw_fd(), libc::POLLIN), entry(watch.map_or(-1, |fd| fd.as_raw_fd()), 0)];
    // Linux writes the remaining time back, so an interruption does not restart the timeout.
    let mut left = libc::timespec { tv_sec: i64::from(seconds.unwrap_or(0)), tv_nsec: 0 };
    let timeout = if seconds.is_some() { &raw mut left } else { core::ptr::null_mut() };
    let mask = core::ptr::null::<u64>();
    loop {
        match call!(libc::SYS_ppoll, fds.as_mut_ptr(), fds.len(), timeout, mask, 8usize) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(fds.first().is_some_and(|f| f.revents != 0)),
        }
    }
}

/// close_range(2): closes the fds from `first` to `last`, both included.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    call!(libc::SYS_close_range, first, last, 0).map(drop)
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC` (Linux 5.11): all fds from `first` on close at execve.
pub fn cloexec_from(first: u32) -> Result<()> {
    call!(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC).map(drop)
}

/// dup3(2) of `fd` to `number`, without close-on-exec. If both are the same, clears the flag.
pub fn dup_onto(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    if fd.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
    call!(libc::SYS_dup3, fd.as_raw_fd(), number, 0).map(drop)
}

/// mount_setattr(2) (Linux 5.12) of the mount that `fd` refers to.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: u64) -> Result<()> {
    set_attributes(fd, recursive, &libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 })
}

/// mount_setattr(2) with `MOUNT_ATTR_IDMAP` (Linux 5.12): maps the ids of the mount that `tree` refers to as the user
/// namespace `users` maps them; with `recursive` also those of the mounts below it.
pub fn map_ids(tree: BorrowedFd<'_>, recursive: bool, users: BorrowedFd<'_>) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let userns_fd = u64::from(users.as_raw_fd().unsigned_abs());
    let attr = libc::mount_attr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(tree, recursive, &attr)
}

/// mount_setattr(2) of the mount of `fd`.
fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    call!(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const *attr, size).map(drop)
}

/// fchmodat2(2) (Linux 6.6) of the file of `fd`.
pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    const FCHMODAT2: libc::c_long = 452;
    call!(FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH).map(drop)
}

/// mount(2) with `MS_REMOUNT`.
pub(crate) fn remount(path: &CStr, flags: u64, data: &CStr) -> Result<()> {
    let none = core::ptr::null::<u8>();
    call!(libc::SYS_mount, none, path.as_ptr(), none, flags | libc::MS_REMOUNT, data.as_ptr()).map(drop)
}

/// setns(2) with `CLONE_NEW*` flags.
pub fn setns(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    call!(libc::SYS_setns, fd.as_raw_fd(), flags).map(drop)
}

/// unshare(2) with `CLONE_NEW*` flags or `CLONE_FS`.
pub fn unshare(flags: u32) -> Result<()> {
    call!(libc::SYS_unshare, flags).map(drop)
}

/// Sets the loopback device of this network namespace up (netdevice(7), `SIOCSIFFLAGS`), which gives it its addresses.
/// The namespace must be new: the call clears the other flags of the device.
pub fn set_loopback_up() -> Result<()> {
    /// `struct ifreq`, 40 bytes.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    const LO: [u8; libc::IFNAMSIZ] = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    /// `IFF_UP`.
    const UP: libc::c_short = 1;
    let request = Request { name: LO, flags: UP, rest: [0; 22] };
    // The ioctl accepts a socket of any family, and every kernel has this one.
    let fd = call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
    // SAFETY: the kernel has created a new fd that has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) };
    call!(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).map(drop)
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`. Returns the serial number of the keyring.
pub fn join_session_keyring(name: &CStr) -> Result<i32> {
    let serial = call!(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())?;
    Ok(i32::try_from(serial).unwrap_or(-1))
}

/// keyctl(2): adds `permissions` to those of the keyring, which `KEYCTL_DESCRIBE` gives as the fourth field.
pub fn add_key_permissions(serial: i32, permissions: u32) -> Result<()> {
    let mut buffer = [0u8; 512];
    let len = call!(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, serial, buffer.as_mut_ptr(), buffer.len())?;
    let text = buffer.get(..usize::try_from(len).unwrap_or(0).min(buffer.len())).unwrap_or_default();
    let field = text.split(|&b| b == b';').nth(3).ok_or(Errno::INVAL)?;
    let have = core::str::from_utf8(field).ok().and_then(|f| u32::from_str_radix(f, 16).ok()).ok_or(Errno::INVAL)?;
    call!(libc::SYS_keyctl, libc::KEYCTL_SETPERM, serial, have | permissions).map(drop)
}

/// The signals with which users and managers end a process, one bit each. Their default action is to end it.
const END_SIGNALS: u64 =
    bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGABRT) | bit(libc::SIGTERM);

/// The bit of a signal.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks the signals that end a process, and returns a signalfd(2) for them. Without this, the kernel would drop them
/// for the first process of a pid namespace (pid_namespaces(7)).
pub fn block_signals() -> Result<OwnedFd> {
    let mask = END_SIGNALS;
    let null = core::ptr::null_mut::<u64>();
    call!(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const mask, null, 8usize)?;
    let fd = call!(libc::SYS_signalfd4, -1, &raw const mask, 8usize, libc::SFD_CLOEXEC)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just created it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for a signal of [`block_signals`], and returns its number.
pub fn read_signal(fd: BorrowedFd<'_>) -> Result<i32> {
    // struct signalfd_siginfo; the number comes first.
    let mut info = [0u8; 128];
    rustix::io::read(fd, &mut info)?;
    let [a, b, c, d, ..] = info;
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

/// Resets the dispositions of the signals in `ignored` (one bit each) and unblocks all signals: execve(2) keeps both.
/// The clone has reset all handlers.
pub fn reset_signals(ignored: u64) -> Result<()> {
    let empty = 0u64;
    // The kernel's struct sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0u64; 4];
    let null = core::ptr::null_mut::<u64>();
    for signal in (1..=64).filter(|signal| ignored & 1 << (signal - 1) != 0) {
        match call!(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, 8usize) {
            // sigaction(2) refuses SIGKILL and SIGSTOP, which `ignored` may contain if it has all bits.
            Ok(_) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    call!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, null, 8usize).map(drop)
}

/// setgroups(2). The raw call, because glibc's would signal the other threads, which this process no longer has.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    call!(libc::SYS_setgroups, groups.len(), groups.as_ptr()).map(drop)
}

/// setresgid(2) and setresuid(2).
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    call!(libc::SYS_setresgid, gid, gid, gid)?;
    call!(libc::SYS_setresuid, uid, uid, uid).map(drop)
}

/// True if the real, effective and saved uids are all `uid`, and the gids `gid`.
pub fn ids_are(uid: u32, gid: u32) -> Result<bool> {
    let mut u = [0u32; 3];
    let mut g = [0u32; 3];
    let [r, e, s] = &mut u;
    call!(libc::SYS_getresuid, &raw mut *r, &raw mut *e, &raw mut *s)?;
    let [r, e, s] = &mut g;
    call!(libc::SYS_getresgid, &raw mut *r, &raw mut *e, &raw mut *s)?;
    Ok(u == [uid; 3] && g == [gid; 3])
}

/// getgroups(2) into `buffer`, which is not empty. Returns the number of groups.
pub fn get_groups(buffer: &[Cell<u32>]) -> Result<usize> {
    let n = call!(libc::SYS_getgroups, buffer.len(), buffer.as_ptr().cast::<u32>().cast_mut())?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// prctl(2) with plain integers.
pub fn prctl(option: libc::c_int, arg2: u64, arg3: u64) -> Result<i64> {
    call!(libc::SYS_prctl, option, arg2, arg3, 0u64, 0u64)
}

/// sched_setaffinity(2) of the calling thread, one bit for each CPU.
pub fn set_affinity(cpus: &[u64]) -> Result<()> {
    call!(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()).map(drop)
}

/// sched_getaffinity(2) of the calling thread. `cpus` has a bit for each CPU that the kernel supports.
pub fn get_affinity(cpus: &mut [u64]) -> Result<()> {
    call!(libc::SYS_sched_getaffinity, 0, size_of_val(cpus), cpus.as_mut_ptr()).map(drop)
}

/// sched_setattr(2) of thread `tid`; 0 is the calling thread.
pub fn set_scheduler(tid: i32, attributes: &SchedulerAttributes) -> Result<()> {
    call!(libc::SYS_sched_setattr, tid, core::ptr::from_ref(attributes), 0).map(drop)
}

/// ioprio_set(2) of the caller's process group.
pub(crate) fn set_io_priority(priority: u32) -> Result<()> {
    const IOPRIO_WHO_PGRP: u32 = 2;
    call!(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, priority).map(drop)
}

/// personality(2).
pub(crate) fn set_personality(domain: u32) -> Result<()> {
    call!(libc::SYS_personality, u64::from(domain)).map(drop)
}

/// set_mempolicy(2). The kernel ignores the last bit of the mask, so the size is one bit larger. Without nodes the
/// mask is null.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) =
        if nodes.is_empty() { (core::ptr::null(), 0) } else { (nodes.as_ptr(), size_of_val(nodes) * 8 + 1) };
    call!(libc::SYS_set_mempolicy, mode, mask, bits).map(drop)
}

/// `_LINUX_CAPABILITY_VERSION_3` of capget(2).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The low and the high half of a capability set.
fn halves(set: u64) -> (u32, u32) {
    let bytes = set.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// capset(2) of the three classic sets.
pub fn set_capabilities(caps: &Capabilities) -> Result<()> {
    let header = [CAPABILITY_VERSION_3, 0];
    let ((e0, e1), (p0, p1), (i0, i1)) = (halves(caps.effective), halves(caps.permitted), halves(caps.inheritable));
    let data = [e0, p0, i0, e1, p1, i1];
    call!(libc::SYS_capset, header.as_ptr(), data.as_ptr()).map(drop)
}

/// capget(2) of the three classic sets; bounding and ambient are left 0.
pub fn get_capabilities() -> Result<Capabilities> {
    let mut header = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    call!(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr())?;
    let [e0, p0, i0, e1, p1, i1] = data.map(u64::from);
    Ok(Capabilities {
        effective: e0 | e1 << 32,
        permitted: p0 | p1 << 32,
        inheritable: i0 | i1 << 32,
        ..Capabilities::default()
    })
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER`. Returns the number of the listener's fd if the flags ask for a listener.
pub fn set_filter(filter: &[libc::sock_filter], flags: u32) -> Result<Option<i32>> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let answer = call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)?;
    if has_listener(flags) {
        return i32::try_from(answer).map(Some).map_err(|_| Errno::BADF);
    }
    // With `SECCOMP_FILTER_FLAG_TSYNC` a positive result is the id of a thread that could not be synchronised.
    if answer == 0 { Ok(None) } else { Err(Errno::SRCH) }
}

/// True if these flags of seccomp(2) ask for a listener.
pub fn has_listener(flags: u32) -> bool {
    u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
}

/// getcwd(2) into `buffer`. Returns the path without its NUL. A directory outside the root reads `(unreachable)/…`.
pub fn getcwd(buffer: &mut [u8]) -> Result<&[u8]> {
    let len = call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len())?;
    let len = usize::try_from(len).unwrap_or(0).saturating_sub(1);
    buffer.get(..len).ok_or(Errno::RANGE)
}

/// execve(2). Returns only after an error.
pub fn execve(path: &CStr, args: &[Ptr], env: &[Cell<Ptr>]) -> Errno {
    // The path is NUL-terminated; the plan's builder ends both vectors in null; Cell<T> has T's layout.
    match call!(libc::SYS_execve, path.as_ptr(), args.as_ptr(), env.as_ptr()) {
        Ok(_) => Errno::INVAL,
        Err(e) => e,
    }
}

/// exit_group(2).
pub fn exit(status: i32) -> ! {
    loop {
        let _ = call!(libc::SYS_exit_group, status);
    }
}

/// mmap(2) of new private memory of `size` bytes. Returns its address.
pub(crate) fn map_memory(size: usize) -> Result<usize> {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let address = call!(libc::SYS_mmap, 0, size, rights, flags, -1, 0)?;
    Ok(usize::from_ne_bytes(address.to_ne_bytes()))
}

/// munmap(2).
///
/// # Safety
/// No reference into the range is used again.
pub(crate) unsafe fn unmap(start: usize, size: usize) -> Result<()> {
    call!(libc::SYS_munmap, start, size).map(drop)
}

/// The signature of the C library's abort handlers (rseq(2)).
const RSEQ_SIGNATURE: u32 = if cfg!(target_arch = "aarch64") { 0xd428_bc00 } else { 0x5305_3053 };

/// rseq(2) (Linux 4.18): unregisters the area of `length` bytes at `area`.
pub(crate) fn unregister_rseq(area: usize, length: u32) -> Result<()> {
    const UNREGISTER: i32 = 1;
    call!(libc::SYS_rseq, area, length, UNREGISTER, RSEQ_SIGNATURE).map(drop)
}

/// rseq(2): registers an area, unless one is registered.
pub(crate) fn register_rseq(area: usize, length: u32) -> Result<()> {
    call!(libc::SYS_rseq, area, length, 0, RSEQ_SIGNATURE).map(drop)
}

/// The plan's channel, in the child.
pub fn channel<'a>(plan: &Plan<'a>) -> BorrowedFd<'a> {
    // SAFETY: the plan lists it among the fds that stay open until execve.
    unsafe { BorrowedFd::borrow_raw(plan.channel) }
}

/// Extends the borrow of an fd to the lifetime of the process.
pub(crate) fn until_exec(fd: BorrowedFd<'_>) -> BorrowedFd<'static> {
    // SAFETY: the plan lists it among the fds that stay open until execve.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// The fd of stdin, stdout or stderr.
pub fn standard_stream(number: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: this crate never closes the fds 0 to 2. If one of them is not open, the kernel answers EBADF.
    (0..=2).contains(&number).then(|| unsafe { BorrowedFd::borrow_raw(number) })
}
