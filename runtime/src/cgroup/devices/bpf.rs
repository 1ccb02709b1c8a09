//! bpf(2) for device programs; neither rustix nor nix has it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::filter::Insn;

// linux/bpf.h
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The name of berth's programs (BPF_OBJ_NAME_LEN); bpftool(8) shows it.
const NAME: [u8; 16] = *b"berth_devices\0\0\0";

/// The number of retries of a load after EAGAIN: the verifier gives up when a signal is pending.
const LOAD_TRIES: usize = 30;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The part that BPF_PROG_ATTACH and BPF_PROG_DETACH read.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The part that BPF_PROG_QUERY reads and writes, up to the last field: Linux 6.17 to 7.1 write `revision` even beyond the
/// end of a smaller struct.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part that BPF_PROG_GET_FD_BY_ID reads.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The part that BPF_OBJ_GET_INFO_BY_FD reads.
#[repr(C)]
#[derive(Default)]
struct InfoOf {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct Info {
    /// type, id, tag, four lengths and addresses of code, load time, uid, maps.
    before: [u64; 8],
    name: [u8; 16],
}

/// Loads `program` with the type BPF_PROG_TYPE_CGROUP_DEVICE.
///
/// # Errors
/// As bpf(2); EINVAL if the verifier refuses the program.
pub(super) fn load_device_program(program: &[Insn]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        prog_name: NAME,
        ..Load::default()
    };
    let mut tries = 0;
    loop {
        // SAFETY: `insns` and `license` point to memory that outlives the call, `insn_cnt` is the number of
        // instructions there and `Insn` is laid out as struct bpf_insn; the kernel only reads them.
        match unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) } {
            Err(Errno::AGAIN) if tries < LOAD_TRIES => tries += 1,
            done => return done,
        }
    }
}

/// Attaches `program` to the cgroup `dir`, in the place of `replaced` or in addition to others.
///
/// # Errors
/// As bpf(2).
pub(super) fn attach_device_program(dir: &OwnedFd, program: &OwnedFd, replaced: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut attr = attach(dir, program)?;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    if let Some(old) = replaced {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = raw(old)?;
    }
    // SAFETY: the attr holds only fds that are open for as long as the borrows.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(|_| ())
}

/// Detaches `program` from the cgroup `dir`.
///
/// # Errors
/// As bpf(2).
pub(super) fn detach_device_program(dir: &OwnedFd, program: &OwnedFd) -> Result<(), Errno> {
    let mut attr = attach(dir, program)?;
    // SAFETY: the attr holds only fds that are open for as long as the borrows.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(|_| ())
}

/// Writes the ids of the programs attached to the cgroup `dir` into `ids` and returns their number.
///
/// # Errors
/// As bpf(2); ENOSPC if `ids` is too short.
pub(super) fn query_device_programs(dir: &OwnedFd, ids: &mut [u32]) -> Result<usize, Errno> {
    let mut attr = Query {
        target_fd: raw(dir)?,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: u32::try_from(ids.len()).map_err(|_| Errno::TOOBIG)?,
        ..Query::default()
    };
    // SAFETY: `prog_ids` points to `prog_cnt` writable u32 that outlive the call; the kernel writes no more than that.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    usize::try_from(attr.prog_cnt).map_err(|_| Errno::TOOBIG)
}

/// Opens the program with this id.
///
/// # Errors
/// As bpf(2).
pub(super) fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the attr holds only a number.
    unsafe { bpf_fd(BPF_PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }) }
}

/// Whether berth loaded `program`, by its name.
///
/// # Errors
/// As bpf(2).
pub(super) fn is_own_program(program: &OwnedFd) -> Result<bool, Errno> {
    let mut info = Info::default();
    let mut attr = InfoOf {
        fd: raw(program)?,
        info_len: u32::try_from(size_of::<Info>()).map_err(|_| Errno::TOOBIG)?,
        info: std::ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    // SAFETY: `info` points to `info_len` writable bytes that outlive the call; the kernel writes no more than that, and
    // reads of it only addresses and lengths, which are zero here: nothing is copied to them.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.name == NAME)
}

fn attach(dir: &OwnedFd, program: &OwnedFd) -> Result<Attach, Errno> {
    let (target_fd, attach_bpf_fd) = (raw(dir)?, raw(program)?);
    Ok(Attach { target_fd, attach_bpf_fd, attach_type: BPF_CGROUP_DEVICE, ..Attach::default() })
}

fn raw(fd: &OwnedFd) -> Result<u32, Errno> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)
}

/// bpf(2) with a command that returns a new fd.
///
/// # Safety
/// As [`bpf`].
unsafe fn bpf_fd<T>(command: i32, attr: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: these commands return a new fd (with O_CLOEXEC) that has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
/// `attr` is the beginning of `union bpf_attr` for `command`, and each address in it is valid for the accesses that the
/// command makes.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> Result<i64, Errno> {
    // SAFETY: `attr` is writable memory of the size given; the rest is the caller's promise. bpf(2) takes the missing end of
    // the union as zero.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done >= 0 { Ok(done) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
