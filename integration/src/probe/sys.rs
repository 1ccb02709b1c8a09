//! The system calls of the probe: thin wrappers, with all unsafe code of the probe. The report has their results as
//! they are.
#![allow(unsafe_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

use std::ffi::{CStr, CString};

/// Returns the errno of the last failed call.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Makes any system call by number. Returns the result, or minus errno, as the kernel does.
pub fn raw(nr: i64, a: [i64; 6]) -> i64 {
    // SAFETY: the probe is a test program that exists to make arbitrary calls; pointers among the arguments are to
    // strings that the caller keeps alive (act::syscall).
    let r = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if r == -1 { -i64::from(errno()) } else { r }
}

/// Makes a system call with integers only. Missing arguments are zero.
pub fn call(nr: libc::c_long, args: &[i64]) -> i64 {
    let mut a = [0; 6];
    for (reservation, value) in a.iter_mut().zip(args) {
        *reservation = *value;
    }
    raw(nr, a)
}

/// Maps a number at the start of a file, shared with the file, for ever.
///
/// # Errors
/// As ftruncate(2) and mmap(2).
pub fn map_shared(file: &std::fs::File) -> std::io::Result<&'static std::sync::atomic::AtomicU64> {
    use std::os::fd::AsRawFd;
    file.set_len(4096)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the address, and the mapping is never removed. It is page-aligned, and its 4096 bytes
    // hold a number.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(std::sync::atomic::AtomicU64::from_ptr(at.cast()))
    }
}

/// Returns the umask. umask(2) can only set it, so it is set and restored.
pub fn umask() -> u32 {
    // SAFETY: umask(2) cannot fail and takes no pointer.
    unsafe {
        let mask = libc::umask(0);
        libc::umask(mask);
        mask
    }
}

/// Returns the three ids of `getresuid` or of `getresgid`.
pub fn resids(group: bool) -> [u32; 3] {
    let mut ids = [0u32; 3];
    let [r, e, s] = &mut ids;
    // SAFETY: three valid pointers to u32, which is uid_t and gid_t on Linux.
    unsafe {
        if group {
            libc::getresgid(r, e, s)
        } else {
            libc::getresuid(r, e, s)
        };
    }
    ids
}

/// Returns the supplementary groups in the order of the kernel.
pub fn groups() -> Vec<u32> {
    let mut list = vec![0u32; 65536];
    // SAFETY: the buffer has room for NGROUPS_MAX entries, and its length is passed.
    let n = unsafe { libc::getgroups(list.len() as i32, list.as_mut_ptr()) };
    list.truncate(usize::try_from(n).unwrap_or(0));
    list
}

/// Returns the effective, permitted and inheritable capabilities as bit masks, by capget(2) version 3.
pub fn capget() -> Result<[u64; 3], i32> {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 of the interface reads an 8-byte header and writes two 12-byte structures.
    let r = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if r != 0 {
        return Err(errno());
    }
    let wide = |n: usize| u64::from(data[n]) | u64::from(data[n + 3]) << 32;
    Ok([wide(0), wide(1), wide(2)])
}

/// Calls prctl(2) with integers.
pub fn prctl(option: i32, a: u64, b: u64) -> i64 {
    call(libc::SYS_prctl, &[i64::from(option), a as i64, b as i64])
}

/// Returns the soft and hard limit of resource number `n`.
pub fn rlimit(n: u32) -> Result<[u64; 2], i32> {
    let mut r = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer to a rlimit structure.
    if unsafe { libc::getrlimit(n, &mut r) } != 0 { Err(errno()) } else { Ok([r.rlim_cur, r.rlim_max]) }
}

/// Returns the host name, domain name, release and machine of uname(2).
pub fn uname() -> [String; 4] {
    // SAFETY: all-zero bytes are a valid utsname, and uname(2) fills it with terminated strings.
    let u = unsafe {
        let mut u: libc::utsname = std::mem::zeroed();
        libc::uname(&mut u);
        u
    };
    // SAFETY: each field is a terminated string inside `u`, which lives until the end of the function.
    let text = |f: &[libc::c_char]| unsafe { CStr::from_ptr(f.as_ptr()) }.to_string_lossy().into_owned();
    [text(&u.nodename), text(&u.domainname), text(&u.release), text(&u.machine)]
}

/// Returns the rows and columns of the terminal on `fd`.
pub fn winsize(fd: i32) -> Option<[u16; 2]> {
    // SAFETY: all-zero bytes are a valid winsize, and TIOCGWINSZ writes one.
    unsafe {
        let mut w: libc::winsize = std::mem::zeroed();
        (libc::ioctl(fd, libc::TIOCGWINSZ, &mut w) == 0).then_some([w.ws_row, w.ws_col])
    }
}

/// Returns whether `fd` is a terminal.
pub fn isatty(fd: i32) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::isatty(fd) == 1 }
}

/// Returns the foreground process group of the terminal on `fd`, or minus errno.
pub fn foreground(fd: i32) -> i64 {
    // SAFETY: no pointers.
    match unsafe { libc::tcgetpgrp(fd) } {
        -1 => -i64::from(errno()),
        pgrp => i64::from(pgrp),
    }
}

/// Returns the descriptor flags (F_GETFD) and status flags (F_GETFL) of `fd` if it is open.
pub fn fd_flags(fd: i32) -> Option<[i32; 2]> {
    // SAFETY: no pointers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFD);
        (flags >= 0).then(|| [flags, libc::fcntl(fd, libc::F_GETFL)])
    }
}

/// Calls stat on a path without following links. Returns errno on failure.
pub fn lstat(path: &str) -> Result<libc::stat, i32> {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    // SAFETY: all-zero bytes are a valid stat structure; the path is terminated.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        if libc::lstat(path.as_ptr(), &mut st) == 0 { Ok(st) } else { Err(errno()) }
    }
}

/// Calls stat on an open descriptor. Returns errno on failure.
pub fn fstat(fd: i32) -> Result<libc::stat, i32> {
    // SAFETY: all-zero bytes are a valid stat structure.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut st) == 0 { Ok(st) } else { Err(errno()) }
    }
}

/// Opens and closes `path`. Returns 0 or errno.
pub fn try_open(path: &str, flags: i32) -> i32 {
    let Ok(path) = CString::new(path) else { return libc::EINVAL };
    // SAFETY: a terminated path; the descriptor is ours alone.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600);
        if fd < 0 {
            return errno();
        }
        libc::close(fd);
    }
    0
}

/// Returns the blocked, ignored and caught signals, as lists of numbers.
pub fn signals() -> [Vec<i32>; 3] {
    let (mut blocked, mut ignored, mut caught) = (vec![], vec![], vec![]);
    // SAFETY: all-zero bytes are a valid signal set and action; the calls only read the process's state.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        for signal in 1..=64 {
            if libc::sigismember(&set, signal) == 1 {
                blocked.push(signal);
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
                continue;
            }
            match action.sa_sigaction {
                libc::SIG_DFL => {}
                libc::SIG_IGN => ignored.push(signal),
                _ => caught.push(signal),
            }
        }
    }
    [blocked, ignored, caught]
}

/// Waits for any signal that can be caught and returns its number. SIGCHLD only causes a reap.
pub fn wait_signal() -> i32 {
    let set = block_signals();
    // SAFETY: sigwait writes one int.
    unsafe {
        loop {
            let mut signal = 0;
            libc::sigwait(&set, &mut signal);
            if signal != libc::SIGCHLD {
                return signal;
            }
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
        }
    }
}

/// Blocks every signal that can be blocked and returns the set.
pub fn block_signals() -> libc::sigset_t {
    // SAFETY: all-zero bytes are a valid signal set; both calls read and write only it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

/// Calls fork(2): returns 0 in the child, the pid in the parent, -1 on failure.
pub fn fork() -> i32 {
    // SAFETY: the probe has one thread, so the child may do anything.
    unsafe { libc::fork() }
}

/// Makes a child with the given pid that sleeps until it is killed (clone3(2) with `set_tid`, Linux 5.5). Returns errno
/// on failure.
pub fn sleeper(pid: i32) -> Result<(), i32> {
    let mut args = [0u64; 11];
    // struct clone_args: exit_signal is the fifth word, set_tid and set_tid_size the ninth and tenth.
    args[4] = libc::SIGCHLD as u64;
    args[8] = std::ptr::from_ref(&pid).addr() as u64;
    args[9] = 1;
    // SAFETY: the structure and what it points to live through the call; the child shares no memory, and only makes system
    // calls that are async-signal-safe.
    unsafe {
        match libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) {
            -1 => Err(errno()),
            0 => loop {
                libc::pause();
            },
            _ => Ok(()),
        }
    }
}

/// Ends the process at once.
pub fn exit(status: i32) -> ! {
    // SAFETY: no pointers; nothing of ours is buffered.
    unsafe { libc::_exit(status) }
}

/// Ends this thread alone.
pub fn end_thread() -> ! {
    call(libc::SYS_exit, &[0]);
    unreachable!("exit(2) returned")
}

/// Waits for every child and reaps it.
pub fn reap() {
    // SAFETY: a null status pointer is allowed.
    unsafe { while libc::waitpid(-1, std::ptr::null_mut(), 0) > 0 {} }
}

/// Replaces the process. Returns errno on failure.
pub fn exec(args: &[String]) -> i32 {
    let owned: Vec<CString> = args.iter().filter_map(|a| CString::new(a.as_str()).ok()).collect();
    let mut pointers: Vec<*const libc::c_char> = owned.iter().map(|a| a.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let Some(path) = owned.first() else { return libc::EINVAL };
    // SAFETY: a terminated path and a null-terminated array of terminated strings that outlive the call.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    errno()
}

/// Allocates `bytes` of memory in pieces of one mebibyte, touches each page, and keeps them.
pub fn eat(bytes: u64) -> i32 {
    const PIECE: usize = 1 << 20;
    for _ in 0..bytes.div_ceil(PIECE as u64) {
        // SAFETY: a new private anonymous mapping, written within its length.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let p = libc::mmap(std::ptr::null_mut(), PIECE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if p == libc::MAP_FAILED {
                return errno();
            }
            std::ptr::write_bytes(p.cast::<u8>(), 1, PIECE);
        }
    }
    0
}

/// Returns the serial number of the session keyring (or minus errno), its description, and its security label.
pub fn session_keyring() -> (i64, String, String) {
    const GET_ID: i64 = 0;
    const DESCRIBE: i64 = 6;
    const GET_SECURITY: i64 = 17;
    const SESSION: i64 = -3;
    let id = call(libc::SYS_keyctl, &[GET_ID, SESSION, 0]);
    let [description, label] = [DESCRIBE, GET_SECURITY].map(|operation| {
        let mut text = vec![0u8; 256];
        let n = call(libc::SYS_keyctl, &[operation, SESSION, text.as_mut_ptr() as i64, text.len() as i64]);
        text.truncate(usize::try_from(n).unwrap_or(0).min(256));
        String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
    });
    (id, description, label)
}
