//! The runtime's own limit of open files (`RLIMIT_NOFILE`), and the limit that its caller gave it.

use std::sync::OnceLock;

use berth_init::plan::Rlimit;

use crate::sys;

/// Number of mounts and payload fds that fits in any usual limit of open files.
const FDS_WITHOUT_RAISE: usize = 64;

/// The caller's limit, set when this process raises its own.
static INHERITED_NOFILE: OnceLock<Rlimit> = OnceLock::new();

/// Raises this process's soft limit to its hard limit: until the clone each mount of a container costs an fd.
///
/// Keeps the caller's limit for payloads and hooks. Later calls change nothing. The process must have one thread.
pub fn raise_own() {
    let Ok((soft, hard)) = sys::limit(0, libc::RLIMIT_NOFILE, None) else { return };
    if soft < hard && sys::limit(0, libc::RLIMIT_NOFILE, Some((hard, hard))).is_ok() {
        let _ = INHERITED_NOFILE.set(Rlimit { resource: libc::RLIMIT_NOFILE, soft, hard });
    }
}

/// Lowers this process's soft limit to its caller's again, for a program that it executes in its place.
pub fn lower_own() {
    if let Some(Rlimit { resource, soft, hard }) = inherited_nofile() {
        let _ = sys::limit(0, resource, Some((soft, hard)));
    }
}

/// Calls [`raise_own`] if a container needs more `files` than fit in any usual limit.
pub fn raise_own_for(files: usize) {
    if files > FDS_WITHOUT_RAISE {
        raise_own();
    }
}

/// Returns the caller's limit of open files, if this process has raised its own.
pub fn inherited_nofile() -> Option<Rlimit> {
    INHERITED_NOFILE.get().copied()
}
