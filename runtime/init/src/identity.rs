//! What the payload may do: ids, groups, capabilities; and the proof, read back from the kernel.

use core::ffi::CStr;

use rustix::{
    fs::{self, Mode, OFlags},
    io::{self, Errno},
    process::{Resource, Rlimit},
};

use crate::{
    error::{At, Result, refusal},
    plan::{Capabilities, Plan, Process},
    sys,
    wire::Step,
};

/// The highest capability that a mask can hold.
const CAP_MAX: u64 = 63;
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// keyctl(2): the keyring's owner may search it.
const KEY_USR_SEARCH: u32 = 0x0008_0000;

/// The restrictions that [`verify`] reads back, as the index of [`Step::NotRestricted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Restriction {
    /// Real, effective and saved ids.
    Ids = 0,
    /// Supplementary groups.
    Groups,
    /// A capability set holds more than planned.
    Capabilities,
    /// The bounding or ambient set holds more than planned.
    CapabilityBounds,
    /// `no_new_privs` is not set.
    NoNewPrivs,
    /// No filter is active.
    Seccomp,
}

/// Clears the dumpable flag (`PR_SET_DUMPABLE`): /proc/PID of the process then belongs to root of the host, and ptrace(2)
/// takes CAP_SYS_PTRACE in the initial user namespace.
pub(crate) fn clear_dumpable() -> Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Dumpable).map(drop)
}

/// Through the host's /proc, before any namespace is entered.
pub fn set_oom_score_adj(plan: &Plan<'_>) -> Result<()> {
    let Some(value) = plan.oom_score_adj else { return Ok(()) };
    write(c"/proc/thread-self/oom_score_adj", value).at(Step::OomScoreAdj)
}

fn write(path: &CStr, value: &[u8]) -> io::Result<()> {
    let file = fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::write(file, value).map(drop)
}

/// A session keyring of the container's own, so that the host's keys are not searched. init lets the execs to come
/// search it; they join it by name.
pub fn join_keyring(name: &CStr, init: bool) -> Result<()> {
    match sys::join_session_keyring(name) {
        Ok(serial) if init => sys::add_key_permissions(serial, KEY_USR_SEARCH).at(Step::Keyring),
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(e) => Err(e).at(Step::Keyring),
    }
}

/// Limits, bounding set, groups and ids. Permitted capabilities are kept for what still has to be done; the
/// effective ones are already the payload's, so that directories and files are looked up with its rights.
/// With `enters_pid` a clone is still to come, for which there must be room below the limit of processes:
/// [`lower_nproc`] follows it.
pub fn become_user(process: &Process<'_>, enters_pid: bool) -> Result<()> {
    for (n, limit) in process.rlimits.iter().enumerate() {
        if !(enters_pid && is_lowered_nproc(limit)) {
            set_limit(limit).at_index(Step::Rlimit, n)?;
        }
    }
    drop_bounding(process.capabilities.bounding)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(Step::User)?;
    if !process.keep_groups {
        match sys::set_groups(process.groups) {
            // A user namespace may deny it; that no group is held without need is verified at the end.
            Err(Errno::PERM) if process.groups.is_empty() => {}
            other => other.at(Step::Groups)?,
        }
    }
    let before = sys::get_capabilities().at(Step::Capabilities)?;
    sys::set_ids(process.uid, process.gid).at(Step::User)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).at(Step::User)?;
    let effective = process.capabilities.effective & before.permitted;
    sys::set_capabilities(&Capabilities { effective, ..before }).at(Step::Capabilities)?;
    if let Some(umask) = process.umask {
        rustix::process::umask(Mode::from_raw_mode(umask));
    }
    Ok(())
}

/// Sets the limit of processes that [`become_user`] left out. Lowering a limit takes no right.
pub fn lower_nproc(process: &Process<'_>) -> Result<()> {
    for (n, limit) in process.rlimits.iter().enumerate().filter(|(_, limit)| is_lowered_nproc(limit)) {
        set_limit(limit).at_index(Step::Rlimit, n)?;
    }
    Ok(())
}

fn is_lowered_nproc(limit: &crate::plan::Rlimit) -> bool {
    limit.resource == libc::RLIMIT_NPROC
        && rustix::process::getrlimit(Resource::Nproc).maximum.is_none_or(|hard| limit.hard <= hard)
}

/// setrlimit(2).
pub(crate) fn set_limit(limit: &crate::plan::Rlimit) -> io::Result<()> {
    let resource = RESOURCES.get(usize::try_from(limit.resource).unwrap_or(usize::MAX)).ok_or(Errno::INVAL)?;
    let bound = |v: u64| (v != u64::MAX).then_some(v);
    rustix::process::setrlimit(*resource, Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) })
}

/// By number, getrlimit(2).
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// `EINVAL` marks the end of what this kernel knows. Without CAP_SETPCAP nothing can be dropped, which is no fault for
/// what is not there.
fn drop_bounding(keep: u64) -> Result<()> {
    for cap in (0..=CAP_MAX).filter(|cap| keep & 1 << cap == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, cap, 0) {
            Ok(_) => {}
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) if sys::prctl(libc::PR_CAPBSET_READ, cap, 0) == Ok(0) => {}
            Err(e) => return Err(e).at(Step::BoundingSet),
        }
    }
    Ok(())
}

/// The right to load a filter without no_new_privs. What the runtime itself lacks is not asked for.
pub fn raise_filter_capability(process: &Process<'_>) -> Result<()> {
    let held = sys::get_capabilities().at(Step::Capabilities)?;
    let effective = (process.capabilities.effective | CAP_SYS_ADMIN) & held.permitted;
    sys::set_capabilities(&Capabilities { effective, ..held }).at(Step::Capabilities)
}

/// Gives up every permitted capability but the payload's and the one that loads a filter, for a process that loads it
/// only after others can see it.
pub fn keep_filter_capability(process: &Process<'_>) -> Result<()> {
    let held = sys::get_capabilities().at(Step::Capabilities)?;
    let permitted = held.permitted & (process.capabilities.permitted | CAP_SYS_ADMIN);
    let inheritable = held.inheritable & process.capabilities.inheritable;
    let effective = held.effective & permitted;
    sys::set_capabilities(&Capabilities { permitted, effective, inheritable, ..held }).at(Step::Capabilities)
}

/// The payload's capability sets. What the runtime itself lacks cannot be given; the parent has warned of it.
pub fn drop_capabilities(process: &Process<'_>) -> Result<()> {
    let held = sys::get_capabilities().at(Step::Capabilities)?.permitted;
    let wanted = &process.capabilities;
    let permitted = wanted.permitted & held;
    sys::set_capabilities(&Capabilities {
        permitted,
        effective: wanted.effective & permitted,
        inheritable: wanted.inheritable & held,
        ..*wanted
    })
    .at(Step::Capabilities)?;
    match sys::prctl(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0) {
        Ok(_) | Err(Errno::INVAL) => {}
        Err(e) => return Err(e).at(Step::Capabilities),
    }
    for cap in (0..=CAP_MAX).filter(|cap| wanted.ambient & 1 << cap != 0) {
        match sys::prctl(libc::PR_CAP_AMBIENT, AMBIENT_RAISE, cap) {
            Ok(_) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(e) => return Err(e).at(Step::Capabilities),
        }
    }
    Ok(())
}

const AMBIENT_IS_SET: u64 = 1;
const AMBIENT_RAISE: u64 = 2;
const AMBIENT_CLEAR_ALL: u64 = 4;

/// Asks the kernel what this process is now, and refuses to go on when anything is weaker than planned. Comes before
/// the filter, which might answer in the kernel's stead. `late` says that capabilities are dropped only after it.
pub fn verify(process: &Process<'_>, late: bool) -> Result<()> {
    if !sys::ids_are(process.uid, process.gid).at(Step::NotRestricted)? {
        return weaker(Restriction::Ids);
    }
    verify_groups(process)?;
    let wanted = &process.capabilities;
    for cap in (0..=CAP_MAX).filter(|cap| wanted.bounding & 1 << cap == 0) {
        match sys::prctl(libc::PR_CAPBSET_READ, cap, 0) {
            Ok(0) => {}
            Ok(_) => return weaker(Restriction::CapabilityBounds),
            Err(_) => break,
        }
    }
    // What is not both permitted and inheritable is not ambient (capabilities(7)): mostly that leaves none to ask for.
    let held = sys::get_capabilities().at(Step::NotRestricted)?;
    let suspects = held.permitted & held.inheritable & !wanted.ambient;
    for cap in (0..=CAP_MAX).filter(|cap| suspects & 1 << cap != 0) {
        if matches!(sys::prctl(libc::PR_CAP_AMBIENT, AMBIENT_IS_SET, cap), Ok(1)) {
            return weaker(Restriction::CapabilityBounds);
        }
    }
    if process.no_new_privs && sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0).at(Step::NotRestricted)? != 1 {
        return weaker(Restriction::NoNewPrivs);
    }
    if late { Ok(()) } else { verify_capabilities(wanted, held) }
}

/// No group is held that is not planned. Of those that stay with the process the kernel may show other numbers by now, of
/// another user namespace, but not more of them.
fn verify_groups(process: &Process<'_>) -> Result<()> {
    let held = match sys::get_groups(process.groups_buffer) {
        // More than are planned.
        Err(Errno::INVAL) => return weaker(Restriction::Groups),
        count => process.groups_buffer.get(..count.at(Step::NotRestricted)?).unwrap_or_default(),
    };
    let planned = |group: u32| process.groups.binary_search(&group).is_ok();
    if held.len() > process.groups.len() || !process.keep_groups && !held.iter().all(|group| planned(group.get())) {
        return weaker(Restriction::Groups);
    }
    Ok(())
}

/// The last look, under the filter. Where the filter denies the question, the denial shows that it is there; where
/// it would kill for it, the parent has said so (`state_readable`) and seccomp(2) has vouched for itself by answering 0.
pub fn verify_filter(process: &Process<'_>, late: bool) -> Result<()> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    if filter.state_readable && matches!(sys::prctl(libc::PR_GET_SECCOMP, 0, 0), Ok(mode) if mode != 2) {
        return weaker(Restriction::Seccomp);
    }
    match sys::get_capabilities() {
        Ok(held) if late => verify_capabilities(&process.capabilities, held),
        _ => Ok(()),
    }
}

fn verify_capabilities(wanted: &Capabilities, held: Capabilities) -> Result<()> {
    let more = |held: u64, wanted: u64| held & !wanted != 0;
    if more(held.effective, wanted.effective)
        || more(held.permitted, wanted.permitted)
        || more(held.inheritable, wanted.inheritable)
    {
        return weaker(Restriction::Capabilities);
    }
    Ok(())
}

fn weaker<T>(restriction: Restriction) -> Result<T> {
    Err(refusal(Step::NotRestricted, restriction as usize))
}
