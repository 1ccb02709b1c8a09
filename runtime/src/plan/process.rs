//! Plans the payload: turns a `process` object into the child's steps from the barrier to execve(2).

use std::{cell::Cell, os::unix::ffi::OsStrExt, path::Path};

use berth_init::{
    barrier::{AT_BARRIER, AT_PID_CLONE},
    plan::{Capabilities, Process as Plan, Ptr, Seccomp, SeccompWhen},
    sys::{SECOND_CLONE_FLAGS, has_listener},
};
use oci_spec::runtime::Process;

use crate::{
    Result,
    arena::Arena,
    host::{caller, signals},
    leaves::{
        lsm, rlimit,
        scheduling::{self, Payload, Settings as Scheduling},
        seccomp::Filter,
        user,
    },
};

/// Settings for a process that does not have its own. For init they are fixed; an exec gets the container's.
#[derive(Clone, Copy)]
pub struct Defaults<'d> {
    /// Capability masks.
    pub capabilities: Capabilities,
    /// Umask; `None` keeps the runtime's.
    pub umask: Option<u32>,
    /// AppArmor profile.
    pub apparmor: Option<&'d str>,
    /// SELinux label.
    pub selinux: Option<&'d str>,
    /// The process is an init, which waits at the barrier between create and start.
    pub waits_for_start: bool,
    /// An annotation asks to keep the runtime's supplementary groups ([`user::keeps_groups`]).
    pub keep_groups: bool,
    /// Scheduler, I/O priority, CPU affinity, memory policy, execution domain.
    pub scheduling: &'d Scheduling,
}

/// Plans a checked process.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field that the kernel or this host cannot honour.
pub fn plan<'a>(
    arena: &'a Arena,
    process: &Process,
    defaults: Defaults<'_>,
    filter: Option<&'a Filter>,
) -> Result<Plan<'a>> {
    let payload = if defaults.waits_for_start { Payload::Init } else { Payload::Exec };
    let scheduling = scheduling::plan(arena, defaults.scheduling, payload)?;
    let args = process.args().as_deref().unwrap_or_default();
    let env = dedup(process.env().as_deref().unwrap_or_default());
    let home = !env.iter().any(|v| v.strip_prefix("HOME=").is_some_and(|h| !h.is_empty()));
    let keep_groups = defaults.keep_groups || user::inherits_groups(process);
    let origin = if keep_groups { user::Groups::Inherited } else { user::Groups::Configured };
    let groups = user::groups(arena, process.user(), origin)?;
    let (executables, searched) = executables(arena, args.first().map_or("", String::as_str), &env)?;
    Ok(Plan {
        args: vector(arena, args.iter().map(String::as_str), "process.args", 1)?,
        env: cells(arena, vector(arena, env.into_iter().filter(|v| *v != "HOME="), "process.env", 2)?),
        find_home: home,
        executables,
        from_path: searched,
        cwd: arena.path(process.cwd(), "process.cwd")?,
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups,
        keep_groups,
        groups_buffer: arena.list(vec![Cell::new(0); groups.len() + 1]),
        umask: process.user().umask().or(defaults.umask),
        capabilities: match process.capabilities() {
            Some(sets) => crate::leaves::caps::plan(Some(sets)),
            None => defaults.capabilities,
        },
        rlimits: arena.list(rlimit::plan(process.rlimits().as_deref().unwrap_or_default())),
        ignored_signals: signals::ignored(),
        no_new_privs: process.no_new_privileges() == Some(true),
        labels: lsm::plan(arena, process, defaults.apparmor, defaults.selinux)?,
        seccomp: filter.map(|filter| seccomp(filter, process, defaults.waits_for_start)),
        scheduling,
        chown_stdio: true,
    })
}

/// Plans the filter, and decides when init loads it.
fn seccomp<'a>(filter: &'a Filter, process: &Process, waits_for_start: bool) -> Seccomp<'a> {
    log::debug!("seccomp filter flags: {}", filter.flags());
    let listener = has_listener(filter.flags());
    let allows_barrier = AT_BARRIER.iter().all(|nr| allows(filter, *nr, 0));
    let allows_pid_clone =
        || AT_PID_CLONE.iter().all(|nr| allows(filter, *nr, 0)) && allows(filter, libc::SYS_clone, SECOND_CLONE_FLAGS);
    let when = match (listener, allows_barrier) {
        (true, true) if waits_for_start => SeccompWhen::BeforeBarrier,
        (true, _) => SeccompWhen::AfterBarrier,
        (false, true) if process.no_new_privileges() != Some(true) && allows_pid_clone() => SeccompWhen::BeforeVisible,
        (false, _) => SeccompWhen::BeforeExec,
    };
    Seccomp {
        filter: filter.instructions(),
        flags: filter.flags(),
        when,
        state_readable: state_readable(filter),
        dumpable_for_agent: listener && caller::is_user(),
    }
}

/// Keeps the last value of each variable, at the place of the last, as runc does.
fn dedup(env: &[String]) -> Vec<&str> {
    let name = |v: &str| v.split('=').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<&str> = env.iter().rev().filter(|v| seen.insert(name(v))).map(String::as_str).collect();
    out.reverse();
    out
}

/// Returns a vector for execve(2), with `nulls` null pointers at its end.
fn vector<'a, 's>(
    arena: &'a Arena,
    texts: impl Iterator<Item = &'s str>,
    field: &str,
    nulls: usize,
) -> Result<&'a [Ptr]> {
    let mut pointers = Vec::new();
    for text in texts {
        pointers.push(arena.text(text, field)?.as_ptr());
    }
    pointers.extend(std::iter::repeat_n(std::ptr::null(), nulls));
    Ok(arena.list(pointers))
}

fn cells<'a>(arena: &'a Arena, pointers: &[Ptr]) -> &'a [Cell<Ptr>] {
    arena.list(pointers.iter().copied().map(Cell::new).collect())
}

/// Returns the paths to try in order, and whether they come from `PATH`.
///
/// As in execvp(3), a relative directory of `PATH` starts at the process's working directory, and an empty one is that
/// directory. Go's os/exec refuses both (exec.ErrDot).
fn executables<'a>(arena: &'a Arena, name: &str, env: &[&str]) -> Result<(&'a [&'a std::ffi::CStr], bool)> {
    if name.contains('/') {
        return Ok((arena.list(vec![arena.text(name, "process.args[0]")?]), false));
    }
    let path = env.iter().find_map(|v| v.strip_prefix("PATH=")).filter(|_| !name.is_empty());
    let mut out = Vec::new();
    for dir in path.iter().flat_map(|path| path.split(':')) {
        let dir = if dir.is_empty() { "." } else { dir };
        out.push(arena.text(Path::new(dir).join(name).as_os_str().as_bytes(), "process.args[0]")?);
    }
    Ok((arena.list(out), true))
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Returns true if the filter allows this call with `first` as its first argument.
fn allows(filter: &Filter, nr: libc::c_long, first: u64) -> bool {
    let Ok(nr) = i32::try_from(nr) else { return false };
    let action = filter.verdict(ARCH, nr, [first, 0, 0, 0, 0, 0]) & libc::SECCOMP_RET_ACTION_FULL;
    [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG].contains(&action)
}

/// Returns true if the filter does not kill for prctl(2) `PR_GET_SECCOMP` and capget(2).
fn state_readable(filter: &Filter) -> bool {
    let Ok(nr) = i32::try_from(libc::SYS_prctl) else { return false };
    let question = [u64::from(libc::PR_GET_SECCOMP.cast_unsigned()), 0, 0, 0, 0, 0];
    let Ok(caps) = i32::try_from(libc::SYS_capget) else { return false };
    let spares = |verdict: u32| {
        let action = verdict & libc::SECCOMP_RET_ACTION_FULL;
        [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_LOG].contains(&action)
    };
    spares(filter.verdict(ARCH, nr, question)) && spares(filter.verdict(ARCH, caps, [0; 6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(env: &[&str]) -> Vec<String> {
        env.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn last_value_of_a_variable_wins() {
        assert_eq!(dedup(&owned(&["A=1", "B=2", "A=3"])), ["B=2", "A=3"]);
    }

    #[test]
    fn path_is_searched_as_by_execvp() {
        let arena = Arena::default();
        let (list, searched) = executables(&arena, "sh", &["PATH=/a::b:.:/c/:"]).unwrap();
        assert!(searched);
        assert_eq!(list, [c"/a/sh", c"./sh", c"b/sh", c"./sh", c"/c/sh", c"./sh"]);
        assert_eq!(executables(&arena, "sh", &["PATH="]).unwrap(), (&[c"./sh"][..], true));
        assert_eq!(executables(&arena, "./sh", &[]).unwrap(), (&[c"./sh"][..], false));
        assert!(executables(&arena, "sh", &[]).unwrap().0.is_empty());
        assert!(executables(&arena, "", &["PATH=/bin"]).unwrap().0.is_empty());
    }
}
