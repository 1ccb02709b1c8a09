//! Protection of the runtime's own process.

use berth_init::{defence::Defence, sys::prctl};

use crate::{Context, Result, host::caller};

/// prctl(2) option of Linux 6.3.
const PR_SET_MDWE: libc::c_int = 65;
/// Memory that was not executable when it was mapped cannot become executable.
const PR_MDWE_REFUSE_EXEC_GAIN: u64 = 1;
/// A child and an executed program do not inherit the protection (Linux 6.6).
const PR_MDWE_NO_INHERIT: u64 = 2;

/// Protects the memory of this process:
/// - For root, clears `PR_SET_DUMPABLE`. The process then leaves no core dump, also where `kernel.core_pattern` is a
///   pipe, which ignores `RLIMIT_CORE`; and only root of its user namespace may read its files in /proc. A child keeps
///   that until its execve(2). For another user, /proc/PID and its id maps would belong to root, and newuidmap(1) would
///   refuse the process.
/// - Since Linux 6.6, no memory becomes executable (`PR_SET_MDWE`). Children and payloads do not inherit that.
///
/// # Errors
/// The dumpable flag cannot be cleared.
pub fn protect() -> Result<()> {
    if !caller::is_user() && Defence::NotDumpable.stands() {
        prctl(libc::PR_SET_DUMPABLE, 0, 0).context("become non-dumpable")?;
    }
    // An older kernel has no such protection, and one from 6.3 to 6.5 only one that the payload would inherit.
    let _ = prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT, 0);
    Ok(())
}
