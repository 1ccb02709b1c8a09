//! The payload's ids, groups, capabilities and resource limits, and their verification: the kernel is asked for the
//! result of each.

use core::ffi::CStr;

use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
    process::{Resource, Rlimit},
};

use crate::{
    defence::Defence,
    error::{At, Result, refusal},
    plan::{Capabilities, Plan, Process},
    procfs, sys,
    wire::Step,
};

/// The highest capability that a mask can hold.
const CAP_MAX: u64 = 63;
/// The mask of CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// `KEY_USR_SEARCH` of keyctl(2): the owner of the keyring may search it.
const KEY_USR_SEARCH: u32 = 0x0008_0000;

/// The restrictions that [`verify`] and [`verify_filter`] read back. The value is the index of
/// [`Step::NotRestricted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Restriction {
    /// The real, effective and saved ids.
    Ids = 0,
    /// The supplementary groups.
    Groups,
    /// The effective, permitted and inheritable capability sets.
    Capabilities,
    /// The bounding and ambient capability sets.
    CapabilityBounds,
    /// The `no_new_privs` flag.
    NoNewPrivs,
    /// The seccomp filter.
    Seccomp,
}

impl Restriction {
    const ALL: [Self; 6] =
        [Self::Ids, Self::Groups, Self::Capabilities, Self::CapabilityBounds, Self::NoNewPrivs, Self::Seccomp];

    /// The restriction that a [`Step::NotRestricted`] means by its index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|restriction| *restriction as u32 == index)
    }
}

/// Clears the dumpable flag (`PR_SET_DUMPABLE`): root of the initial user namespace then owns /proc/PID, and ptrace(2)
/// of the process takes CAP_SYS_PTRACE there.
pub(crate) fn clear_dumpable() -> Result<()> {
    if !Defence::NotDumpable.stands() {
        return Ok(());
    }
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Dumpable).map(drop)
}

/// Writes oom_score_adj through the host's /proc, so before a namespace is entered.
pub fn set_oom_score_adj(plan: &Plan<'_>) -> Result<()> {
    let Some(value) = plan.oom_score_adj else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = procfs::open(c"/proc/thread-self/oom_score_adj", flags, Step::OomScoreAdj, 0)?;
    io::write(&file, value).at(Step::OomScoreAdj).map(drop)
}

/// Creates or joins the container's session keyring, so that the payload cannot search the keys of the host. `init`
/// allows the owner to search it, and an exec then joins it by name. A kernel without keyrings (`ENOSYS`) is no error.
pub fn join_keyring(name: &CStr, init: bool) -> Result<()> {
    match sys::join_session_keyring(name) {
        Ok(serial) if init => sys::add_key_permissions(serial, KEY_USR_SEARCH).at(Step::Keyring),
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(e) => Err(e).at(Step::Keyring),
    }
}

/// Sets resource limits, bounding set, groups and ids. The permitted capabilities stay for the remaining steps. The
/// effective capabilities are the payload's, so that the kernel looks paths up with the payload's rights.
///
/// With `enters_pid` a clone follows, which needs room below the limit of processes: [`lower_nproc`] sets that limit
/// afterwards.
pub fn become_user(process: &Process<'_>, enters_pid: bool) -> Result<()> {
    for (n, limit) in process.rlimits.iter().enumerate() {
        if !(enters_pid && is_lowered_nproc(limit)) {
            set_limit(limit).at_index(Step::Rlimit, n)?;
        }
    }
    drop_bounding(process.capabilities.bounding)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(Step::User)?;
    if !process.keep_groups && Defence::ExactGroups.stands() {
        match sys::set_groups(process.groups) {
            // A user namespace may deny setgroups(2) (user_namespaces(7)). [`verify`] fails if a group is left.
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

/// Lowers the limit of processes, which [`become_user`] has left out. Lowering a limit needs no capability.
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
///
/// # Errors
/// `EINVAL` for an unknown resource; as setrlimit(2).
pub(crate) fn set_limit(limit: &crate::plan::Rlimit) -> io::Result<()> {
    let resource = RESOURCES.get(usize::try_from(limit.resource).unwrap_or(usize::MAX)).ok_or(Errno::INVAL)?;
    let bound = |v: u64| (v != u64::MAX).then_some(v);
    rustix::process::setrlimit(*resource, Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) })
}

/// The resources of getrlimit(2), by number.
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

/// Drops all capabilities but `keep` from the bounding set. `EINVAL` marks the last capability of this kernel.
/// `EPERM`, without CAP_SETPCAP, is no error for a capability that is not in the set.
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

/// Makes CAP_SYS_ADMIN effective, which seccomp(2) needs without no_new_privs. A capability that the runtime itself
/// lacks is left out.
pub fn raise_filter_capability(process: &Process<'_>) -> Result<()> {
    let held = sys::get_capabilities().at(Step::Capabilities)?;
    let effective = (process.capabilities.effective | CAP_SYS_ADMIN) & held.permitted;
    sys::set_capabilities(&Capabilities { effective, ..held }).at(Step::Capabilities)
}

/// Drops every permitted capability but the payload's and CAP_SYS_ADMIN, for a process that loads its filter when
/// other processes can see it already.
pub fn keep_filter_capability(process: &Process<'_>) -> Result<()> {
    let held = sys::get_capabilities().at(Step::Capabilities)?;
    let permitted = held.permitted & (process.capabilities.permitted | CAP_SYS_ADMIN);
    let inheritable = held.inheritable & process.capabilities.inheritable;
    let effective = held.effective & permitted;
    sys::set_capabilities(&Capabilities { permitted, effective, inheritable, ..held }).at(Step::Capabilities)
}

/// Sets the payload's capability sets. A capability that the runtime itself lacks is left out; the parent has warned
/// of it.
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

/// Operations of `PR_CAP_AMBIENT` (prctl(2)).
const AMBIENT_IS_SET: u64 = 1;
const AMBIENT_RAISE: u64 = 2;
const AMBIENT_CLEAR_ALL: u64 = 4;

/// Reads the identity and the restrictions of this process back, and fails if one of them is weaker than planned. It
/// comes before the filter, which could answer in place of the kernel. With `capabilities_after_filter` the capability
/// sets are verified by [`verify_filter`].
pub fn verify(process: &Process<'_>, capabilities_after_filter: bool) -> Result<()> {
    if !Defence::ReadBack.stands() {
        return Ok(());
    }
    if !sys::ids_are(process.uid, process.gid).at(Step::VerifyRestrictions)? {
        return refuse(Restriction::Ids);
    }
    verify_groups(process)?;
    let wanted = &process.capabilities;
    for cap in (0..=CAP_MAX).filter(|cap| wanted.bounding & 1 << cap == 0) {
        match sys::prctl(libc::PR_CAPBSET_READ, cap, 0) {
            Ok(0) => {}
            Ok(_) => return refuse(Restriction::CapabilityBounds),
            Err(_) => break,
        }
    }
    // Only a capability that is both permitted and inheritable can be ambient (capabilities(7)). That usually leaves
    // none to ask for.
    let held = sys::get_capabilities().at(Step::VerifyRestrictions)?;
    let suspects = held.permitted & held.inheritable & !wanted.ambient;
    for cap in (0..=CAP_MAX).filter(|cap| suspects & 1 << cap != 0) {
        if matches!(sys::prctl(libc::PR_CAP_AMBIENT, AMBIENT_IS_SET, cap), Ok(1)) {
            return refuse(Restriction::CapabilityBounds);
        }
    }
    if process.no_new_privs && sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0).at(Step::VerifyRestrictions)? != 1 {
        return refuse(Restriction::NoNewPrivs);
    }
    if capabilities_after_filter { Ok(()) } else { verify_capabilities(wanted, held) }
}

/// Fails if the process has a group that is not planned. Groups that the process keeps may read back as other numbers
/// in another user namespace, but there must not be more of them.
fn verify_groups(process: &Process<'_>) -> Result<()> {
    let held = match sys::get_groups(process.groups_buffer) {
        // The buffer has one slot more than the planned groups, so the process has more groups than that.
        Err(Errno::INVAL) => return refuse(Restriction::Groups),
        count => process.groups_buffer.get(..count.at(Step::VerifyRestrictions)?).unwrap_or_default(),
    };
    let planned = |group: u32| process.groups.binary_search(&group).is_ok();
    if held.len() > process.groups.len() || !process.keep_groups && !held.iter().all(|group| planned(group.get())) {
        return refuse(Restriction::Groups);
    }
    Ok(())
}

/// Verifies under the filter that the filter is loaded, and with `capabilities_after_filter` the capability sets. A
/// filter that denies the question is loaded. If the filter would kill for the question
/// ([`crate::plan::Seccomp::state_readable`]), the result 0 of seccomp(2) is the proof.
pub fn verify_filter(process: &Process<'_>, capabilities_after_filter: bool) -> Result<()> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    if filter.state_readable && matches!(sys::prctl(libc::PR_GET_SECCOMP, 0, 0), Ok(mode) if mode != 2) {
        return refuse(Restriction::Seccomp);
    }
    if capabilities_after_filter && let Ok(held) = sys::get_capabilities() {
        return verify_capabilities(&process.capabilities, held);
    }
    Ok(())
}

/// Fails if a set holds a capability that is not planned.
fn verify_capabilities(wanted: &Capabilities, held: Capabilities) -> Result<()> {
    let more = |held: u64, wanted: u64| held & !wanted != 0;
    if more(held.effective, wanted.effective)
        || more(held.permitted, wanted.permitted)
        || more(held.inheritable, wanted.inheritable)
    {
        return refuse(Restriction::Capabilities);
    }
    Ok(())
}

fn refuse<T>(restriction: Restriction) -> Result<T> {
    Err(refusal(Step::NotRestricted, restriction as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restriction_is_found_by_its_index() {
        for (index, restriction) in (0u32..).zip(Restriction::ALL) {
            assert_eq!(Restriction::from_index(index), Some(restriction));
        }
        assert_eq!(Restriction::from_index(6), None);
    }
}
