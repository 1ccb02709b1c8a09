//! Facts about the caller of the runtime, read once: the effective user id and the user namespace.
//!
//! An unprivileged caller ([`is_user`]) may create mounts and namespaces only inside a user namespace. Therefore each
//! of its containers must have one, which [`crate::namespace::enter`] enters.

use std::sync::OnceLock;

/// Returns the effective user id. Reads it once, before the process enters a namespace where it has another id.
pub fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| rustix::process::geteuid().as_raw())
}

/// Returns true if the caller is root neither of the host nor of a user namespace.
pub fn is_user() -> bool {
    uid() != 0
}

/// Returns true if the process is not in the initial user namespace. Reads it once, before the process enters another
/// one.
pub fn in_user_namespace() -> bool {
    /// Inode number of the initial user namespace since Linux 3.8 (`PROC_USER_INIT_INO`, proc_ns.h).
    const INITIAL: u64 = 0xefff_fffd;
    static INSIDE: OnceLock<bool> = OnceLock::new();
    *INSIDE.get_or_init(|| rustix::fs::stat("/proc/self/ns/user").is_ok_and(|ns| ns.st_ino != INITIAL))
}

/// Returns true if the process is in a user namespace that denies setgroups(2).
pub fn denies_setgroups() -> bool {
    in_user_namespace() && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim_end() == "deny")
}
