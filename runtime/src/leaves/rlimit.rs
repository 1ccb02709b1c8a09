//! Resource limits: turns names into numbers, and raises hard limits that the child may not raise.

use berth_init::plan::Rlimit;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::{host::open_files, sys};

/// Returns the limits of a process. If config.json has no limit of open files, the process gets the caller's. It never
/// gets the limit that the runtime has raised for itself.
pub fn plan(limits: &[PosixRlimit]) -> Vec<Rlimit> {
    let planned = limits.iter().map(|l| Rlimit { resource: number(l.typ()), soft: l.soft(), hard: l.hard() });
    let named = limits.iter().any(|l| number(l.typ()) == libc::RLIMIT_NOFILE);
    planned.chain(open_files::inherited_nofile().filter(|_| !named)).collect()
}

/// Raises the hard limits of a process that will be in a user namespace, where the kernel refuses it. The process sets
/// the soft limits itself. Errors are ignored: the process then fails to set its limits, and reports that.
pub fn raise_hard_limits(pid: i32, limits: &[Rlimit]) {
    for limit in limits {
        let resource = limit.resource;
        let Ok((soft, hard)) = sys::limit(pid, resource, None) else { continue };
        if limit.hard > hard {
            let _ = sys::limit(pid, resource, Some((soft, limit.hard)));
        }
    }
}

/// Returns `RLIMIT_*` of getrlimit(2).
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
