//! Resource limits: names to numbers, those that only the parent can raise, and the runtime's own of open files.

use std::sync::OnceLock;

use berth_init::plan::Rlimit;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::sys;

/// Up to so many mounts, and fds for the payload, fit into any limit that a runtime gets to work with.
const ORDINARY: usize = 64;

/// What this process was given, once its own limit is another.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Translates the limits of a process. Of open files it has what config.json says, or else what this process was given,
/// and never what the runtime has taken for itself.
pub fn plan(limits: &[PosixRlimit]) -> Vec<Rlimit> {
    let planned = limits.iter().map(|l| Rlimit { resource: number(l.typ()), soft: l.soft(), hard: l.hard() });
    let named = limits.iter().any(|l| number(l.typ()) == libc::RLIMIT_NOFILE);
    planned.chain(given().filter(|_| !named)).collect()
}

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

/// Raises the hard limits of a process that will be in a user namespace, where it has no right to do so; the soft ones
/// stay for the process itself to set. What cannot be raised the process will find so.
pub fn raise(pid: i32, limits: &[Rlimit]) {
    for limit in limits {
        let resource = limit.resource;
        let Ok((soft, hard)) = sys::limit(pid, resource, None) else { continue };
        if limit.hard > hard {
            let _ = sys::limit(pid, resource, Some((soft, limit.hard)));
        }
    }
}

/// getrlimit(2).
fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
