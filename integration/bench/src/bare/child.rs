//! The child between clone and execve: the least number of system calls that makes the container of the recipe.
//!
//! The process is a copy of one without threads, and still follows the rule of the product: it does not allocate.
//! Targets are relative to the new root, which is the working directory. Sources are paths of the host, valid until the
//! pivot.

use super::{
    recipe::{Process, Recipe, Rlimit},
    sys,
};
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, Result},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, mount_remount, unmount,
    },
    thread::{self, Gid, Uid},
};
use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The place at which a child failed, for the error message. A step of the root adds its number to [`Place::Root`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// It enters a v1 cgroup.
    Cgroup = 1,
    /// It joins or makes a namespace.
    Namespace,
    /// It writes oom_score_adj.
    OomScore,
    /// It joins the session keyring.
    Keyring,
    /// It writes a kernel parameter.
    Sysctl,
    /// It leaves the host's mount tree.
    Enter,
    /// It replaces the standard streams.
    Streams,
    /// It sets ids, limits or capabilities.
    Identity,
    /// It loads the filter.
    Seccomp,
    /// It calls execve(2).
    Execute,
    /// It makes the step of this number, counted from here.
    Root = 100,
}

trait At<T> {
    fn at(self, place: Place) -> std::result::Result<T, (u32, Errno)>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: Place) -> std::result::Result<T, (u32, Errno)> {
        self.map_err(|e| (place as u32, e))
    }
}

type Outcome<T> = std::result::Result<T, (u32, Errno)>;

/// The role of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It executes the payload.
    Payload,
    /// It stays, for execs to join.
    Keeper,
}

/// The descriptors that a child uses.
pub struct Given<'a> {
    /// The v1 `tasks` files, to which the child writes itself.
    pub tasks: &'a [OwnedFd],
    /// /dev/null.
    pub null: BorrowedFd<'a>,
}

/// Makes the container and becomes its process.
pub fn run(recipe: &Recipe, given: &Given<'_>, role: Role, mailbox: &sys::Mailbox) {
    match init(recipe, given, role) {
        Ok(()) => {
            mailbox.set_ready();
            sys::pause()
        }
        Err((place, errno)) => {
            mailbox.put(place, errno);
        }
    }
}

/// Joins the container of `keeper` and becomes a process of it.
pub fn exec(recipe: &Recipe, given: &Given<'_>, keeper: BorrowedFd<'_>, mailbox: &sys::Mailbox) {
    if let Err((place, errno)) = join(recipe, given, keeper) {
        mailbox.put(place, errno);
    }
}

fn init(recipe: &Recipe, given: &Given<'_>, role: Role) -> Outcome<()> {
    if role == Role::Keeper {
        // The keeper must not outlive its parent.
        sys::prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs())).at(Place::Identity)?;
    }
    enter_cgroups(given)?;
    prepare(recipe, true)?;
    for (namespace, kind) in &recipe.joins {
        sys::join(namespace.as_fd(), kind.flag()).at(Place::Namespace)?;
    }
    if recipe.cgroup_namespace {
        // The root of a cgroup namespace is the cgroup of the process that makes it, so the process enters its cgroup
        // first.
        sys::unshare(sys::Namespace::Cgroup).at(Place::Namespace)?;
    }
    rustix::process::setsid().at(Place::Namespace)?;
    for (path, value) in &recipe.sysctls {
        write(path, value).at(Place::Sysctl)?;
    }
    root(recipe)?;
    if let Some(name) = &recipe.hostname {
        rustix::system::sethostname(name).at(Place::Namespace)?;
    }
    become_payload(recipe, given, role)
}

fn join(recipe: &Recipe, given: &Given<'_>, keeper: BorrowedFd<'_>) -> Outcome<()> {
    enter_cgroups(given)?;
    prepare(recipe, false)?;
    sys::join(keeper, recipe.own_namespaces).at(Place::Namespace)?;
    rustix::process::setsid().at(Place::Namespace)?;
    become_payload(recipe, given, Role::Payload)
}

fn enter_cgroups(given: &Given<'_>) -> Outcome<()> {
    for tasks in given.tasks {
        rustix::io::write(tasks, b"0").at(Place::Cgroup)?;
    }
    Ok(())
}

fn prepare(recipe: &Recipe, init: bool) -> Outcome<()> {
    if let Some(score) = &recipe.process.oom_score_adj {
        write(c"/proc/self/oom_score_adj", score).at(Place::OomScore)?;
    }
    sys::join_keyring(&recipe.keyring, init).at(Place::Keyring)
}

fn write(path: &CStr, value: &[u8]) -> Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, value).map(drop)
}

fn root(recipe: &Recipe) -> Outcome<()> {
    // mknod(2) gets exact modes. All other modes here are those that a umask of 022 leaves.
    rustix::process::umask(Mode::empty());
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(c"/", slave).at(Place::Enter)?;
    mount_bind_recursive(recipe.rootfs.as_c_str(), recipe.rootfs.as_c_str()).at(Place::Enter)?;
    rustix::process::chdir(recipe.rootfs.as_c_str()).at(Place::Enter)?;
    for (number, step) in (Place::Root as u32..).zip(&recipe.steps) {
        step.take().map_err(|e| (number, e))?;
    }
    // With "." as both arguments the old root is mounted over the new one and unmounted from there (pivot_root(2),
    // NOTES).
    rustix::process::pivot_root(c".", c".").at(Place::Enter)?;
    unmount(c".", UnmountFlags::DETACH).at(Place::Enter)?;
    if recipe.readonly {
        mount_remount(c"/", MountFlags::BIND | MountFlags::RDONLY, c"").at(Place::Enter)?;
    }
    Ok(())
}

/// Returns only for a keeper.
fn become_payload(recipe: &Recipe, given: &Given<'_>, role: Role) -> Outcome<()> {
    let process = &recipe.process;
    for number in 0..3 {
        sys::dup_onto(given.null, number).at(Place::Streams)?;
    }
    sys::close_others_at_exec().at(Place::Streams)?;
    sys::default_sigpipe().at(Place::Streams)?;
    rustix::process::chdir(process.cwd.as_c_str()).at(Place::Enter)?;
    identity(process).at(Place::Identity)?;
    if process.no_new_privs {
        capabilities(process).at(Place::Identity)?;
        thread::set_no_new_privs(true).at(Place::Identity)?;
        filter(process).at(Place::Seccomp)?;
    } else {
        // Without no_new_privs loading the filter needs CAP_SYS_ADMIN.
        filter(process).at(Place::Seccomp)?;
        capabilities(process).at(Place::Identity)?;
    }
    if role == Role::Keeper {
        return Ok(());
    }
    Err(sys::execve(&process.executable, &process.args, &process.env)).at(Place::Execute)
}

fn identity(process: &Process) -> Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for Rlimit { resource, limit } in &process.rlimits {
        rustix::process::setrlimit(*resource, *limit)?;
    }
    for &capability in &process.drop_bounding {
        sys::prctl(libc::PR_CAPBSET_DROP, capability)?;
    }
    if process.uid != 0 {
        thread::set_keep_capabilities(true)?;
    }
    thread::set_thread_groups(&process.groups)?;
    let gid = Gid::from_raw(process.gid);
    thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(process.uid);
    thread::set_thread_res_uid(uid, uid, uid)
}

fn capabilities(process: &Process) -> Result<()> {
    sys::set_capabilities(process.effective, process.permitted)
}

fn filter(process: &Process) -> Result<()> {
    match &process.filter {
        Some(filter) => sys::set_filter(filter.instructions(), filter.flags()),
        None => Ok(()),
    }
}

/// Formats the place of a failed child.
pub fn place(recipe: &Recipe, place: u32) -> String {
    let names = [
        "",
        "enter a cgroup",
        "namespaces",
        "oom_score_adj",
        "session keyring",
        "sysctl",
        "enter the root",
        "standard streams",
        "identity",
        "seccomp",
        "execve",
    ];
    let index = usize::try_from(place).unwrap_or(usize::MAX);
    match names.get(index) {
        Some(name) => (*name).to_owned(),
        None => format!("{:?}", recipe.steps.get(index - Place::Root as usize)),
    }
}
