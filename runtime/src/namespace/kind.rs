//! `CLONE_NEW*` flags of the namespace types (clone(2)).

/// Mount namespace.
pub const MOUNT: u32 = libc::CLONE_NEWNS.cast_unsigned();
/// Cgroup namespace.
pub const CGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();
/// UTS namespace.
pub const UTS: u32 = libc::CLONE_NEWUTS.cast_unsigned();
/// IPC namespace.
pub const IPC: u32 = libc::CLONE_NEWIPC.cast_unsigned();
/// User namespace.
pub const USER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
/// Pid namespace.
pub const PID: u32 = libc::CLONE_NEWPID.cast_unsigned();
/// Time namespace (Linux 5.6).
pub const TIME: u32 = 0x80;
/// Network namespace.
pub const NETWORK: u32 = libc::CLONE_NEWNET.cast_unsigned();
