//! The limit of open files of the runtime itself (`RLIMIT_NOFILE`), and the one that it was given.

use std::sync::OnceLock;

use berth_init::plan::Rlimit;

use crate::sys;

/// Up to so many mounts, and fds for the payload, fit into any limit that a runtime gets to work with.
const ORDINARY: usize = 64;

/// What this process was given, once its own limit is another.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Has this process open as many files as its hard limit lets it: until the clone a container costs an fd for each of
/// its mounts. What it was given until then is kept for payloads and hooks. For a process with one thread; later calls
/// change nothing.
pub fn raise_own() {
    let Ok((soft, hard)) = sys::limit(0, libc::RLIMIT_NOFILE, None) else { return };
    if soft < hard && sys::limit(0, libc::RLIMIT_NOFILE, Some((hard, hard))).is_ok() {
        let _ = GIVEN.set(Rlimit { resource: libc::RLIMIT_NOFILE, soft, hard });
    }
}

/// [`raise_own`], if so many `files` ask for it.
pub fn make_room(files: usize) {
    if files > ORDINARY {
        raise_own();
    }
}

/// The limit of open files that this process was given, where it has another by now.
pub fn given() -> Option<Rlimit> {
    GIVEN.get().copied()
}
