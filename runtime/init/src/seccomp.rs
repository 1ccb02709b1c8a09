//! Loading the payload's seccomp filter, and the capabilities that loading it needs.
//!
//! The parent has compiled the filter, and has decided when it is loaded ([`SeccompWhen`]). After the filter is loaded,
//! each further system call of this process is subject to it.

use crate::{
    error::{At, Result},
    identity,
    plan::{Process, SeccompWhen},
    report::Report,
    sys,
    wire::Step,
};

/// Loads the filter if the plan says that it is loaded at this point.
pub(crate) fn load_at(when: SeccompWhen, process: &Process<'_>, report: &Report<'_>) -> Result<()> {
    if is_loaded_at(when, process) { load(process, Some(report)) } else { Ok(()) }
}

/// True if the plan has a filter and loads it at this point.
pub(crate) fn is_loaded_at(when: SeccompWhen, process: &Process<'_>) -> bool {
    process.seccomp.is_some_and(|filter| filter.when == when)
}

/// True if loading the filter takes CAP_SYS_ADMIN, because the payload does not set no_new_privs (seccomp(2)). The
/// capabilities are then dropped after the filter is loaded.
pub(crate) fn needs_capability(process: &Process<'_>) -> bool {
    process.seccomp.is_some() && !process.no_new_privs
}

/// Loads the filter, drops the capabilities that were kept for it, and verifies both. If the filter has a listener, its
/// agent gets the listener through `report`. Does nothing if the plan has no filter.
pub(crate) fn load(process: &Process<'_>, report: Option<&Report<'_>>) -> Result<()> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    let capabilities_after = needs_capability(process);
    if capabilities_after {
        identity::raise_filter_capability(process)?;
    }
    if filter.dumpable_for_agent {
        // pidfd_getfd(2) makes the check of ptrace(2): an unprivileged parent cannot take an fd of a process that is not
        // dumpable.
        sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).at(Step::SeccompAgent)?;
    }
    let listener = sys::set_filter(filter.filter, filter.flags).at(Step::Seccomp)?;
    if let (Some(number), Some(report)) = (listener, report) {
        // This comes before any other call: until the agent has the listener, a call that notifies blocks.
        report.announce_listener(number).at(Step::SeccompAgent)?;
    }
    if filter.dumpable_for_agent && filter.state_readable {
        // The filter may deny the call. The process stays dumpable then, with no more rights than the payload.
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    }
    if capabilities_after {
        identity::drop_capabilities(process)?;
    }
    identity::verify_filter(process, capabilities_after)
}
