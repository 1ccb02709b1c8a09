//! Facts about the caller of the runtime, asked once: the effective user id and the user namespace.
//!
//! An ordinary user ([`is_user`]) can make mounts and namespaces only from inside a user namespace of the user's own, which
//! every container of such a user must have; [`crate::namespace::enter`] goes there.

use std::sync::OnceLock;

/// Who the runtime is, by the effective user id. Asked once, before anything is entered where it would be another.
pub fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| rustix::process::geteuid().as_raw())
}

/// It is not root, not even of a user namespace.
pub fn is_user() -> bool {
    uid() != 0
}

/// Whether this is another user namespace than the first. Asked once, before any other is entered.
pub fn in_user_namespace() -> bool {
    /// Of the first user namespace since Linux 3.8 (proc_ns.h, `PROC_USER_INIT_INO`).
    const FIRST: u64 = 0xefff_fffd;
    static INSIDE: OnceLock<bool> = OnceLock::new();
    *INSIDE.get_or_init(|| rustix::fs::stat("/proc/self/ns/user").is_ok_and(|ns| ns.st_ino != FIRST))
}

/// Whether this process is root of a user namespace that denies setgroups(2).
pub fn denies_setgroups() -> bool {
    in_user_namespace() && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim_end() == "deny")
}
