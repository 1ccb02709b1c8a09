//! The kinds of namespaces, as `CLONE_NEW*` flags (clone(2)).

/// Mount.
pub const MOUNT: u32 = libc::CLONE_NEWNS.cast_unsigned();
/// Cgroup.
pub const CGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();
/// UTS.
pub const UTS: u32 = libc::CLONE_NEWUTS.cast_unsigned();
/// IPC.
pub const IPC: u32 = libc::CLONE_NEWIPC.cast_unsigned();
/// User.
pub const USER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
/// Pid.
pub const PID: u32 = libc::CLONE_NEWPID.cast_unsigned();
/// Time (Linux 5.6).
pub const TIME: u32 = 0x80;
/// Network.
pub const NETWORK: u32 = libc::CLONE_NEWNET.cast_unsigned();
