//! The code that runs in the new process between clone3(2) and execve(2).
//!
//! The child of a process with threads may not allocate, take a lock or log: another thread may have held the lock when
//! clone3 copied the address space. The crate is therefore `no_std` without `alloc`. It does not know the OCI spec and it
//! decides nothing: the parent computes a [`Plan`] before the clone, and this crate carries the plan out.
//!
//! Read this file first. [`run`] is the order of a container's creation, and each module holds one subject of it.
#![no_std]
#![warn(missing_docs)]

pub mod barrier;
pub mod console;
mod cover;
pub mod defence;
pub mod device;
mod digits;
pub mod error;
mod fds;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hook;
mod hook_tree;
pub mod identity;
pub mod label;
pub mod mode;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod payload;
pub mod plan;
mod procfs;
pub mod program;
pub mod report;
pub mod rootfs;
pub mod scheduling;
pub mod seccomp;
pub mod shed;
pub mod sys;
pub mod trap;
pub mod wire;

use core::{convert::Infallible, ffi::CStr};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use defence::Defence;
use error::{At, Result};
use payload::Remaining;
use plan::{Container, Hooks, Plan, SeccompWhen, Stdio};
use report::Report;
use wire::Step;

/// Carries out `plan` in the new process, and executes the payload. After a failure it sends
/// [`wire::Message::Failure`] to the parent and exits with 1.
pub fn run(plan: &Plan<'_>) -> ! {
    let mut report = Report::new(sys::channel(plan));
    let Err(failure) = set_up(plan, &mut report);
    report.fail(failure)
}

/// The order of the setup. Each phase precedes the phases that take away what it needs.
fn set_up(plan: &Plan<'_>, report: &mut Report<'_>) -> Result<Infallible> {
    isolate(plan, report)?;
    let proc = use_host_proc(plan)?;
    enter_namespaces(plan, proc.as_ref().map(AsFd::as_fd), report)?;
    let terminal = match &plan.container {
        Some(container) => build_container(container, plan, report)?,
        None => None,
    };
    let proc = if Defence::HostProc.stands() { proc } else { label::host_proc(plan)? };
    console::attach(plan, terminal, report)?;
    let mut home = [0; payload::HOME_MAX];
    payload::set_home(&plan.process, &mut home)?;
    let executable = restrict(plan, proc, report)?;

    let remaining = Remaining {
        process: plan.process,
        executable,
        start_container: plan.container.as_ref().map_or(Hooks::NONE, |container| container.start_container),
        barrier: plan.barrier,
        enters_pid: plan.namespaces.enters_pid_last(),
        terminal: matches!(plan.stdio, Stdio::Terminal { .. }),
    };
    match &plan.image {
        // Processes of the joined pid namespace must not find the runtime's memory in this one.
        Some(image) if remaining.enters_pid => shed::keep_only(image, &remaining, report, finish_or_fail),
        _ => finish(&remaining, report),
    }
}

/// Separates the process from the runtime, and waits until the parent has placed it.
fn isolate(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    // This comes first. The process still has the runtime's memory and fds, and another process that shares a pid
    // namespace with the payload could read them (CVE-2016-9962). execve(2) makes the payload dumpable again.
    identity::clear_dumpable()?;
    // The shim has fds of the pod's other containers. They are closed before any container can see this process.
    fds::close_all_but(plan.preserve_fds, plan.keep_fds)?;
    // All work is charged to the cgroup. On v1 the process writes itself to `tasks`: a move by another process waits for
    // a grace period of every fork on the machine, which takes 10 ms instead of 0.1 ms.
    for (n, tasks) in plan.cgroup_tasks.iter().enumerate().filter(|_| Defence::OwnCgroup.stands()) {
        rustix::io::write(tasks, b"0").at_index(Step::Cgroup, n)?;
    }
    // The parent sends GO when the ids of a new user namespace are mapped.
    report.wait_for(wire::GO).at(Step::Channel)
}

/// Makes the settings that need the host's /proc, and returns that /proc if a label needs it later.
fn use_host_proc(plan: &Plan<'_>) -> Result<Option<OwnedFd>> {
    if plan.all_cpus {
        scheduling::use_all_cpus();
    }
    identity::set_oom_score_adj(plan)?;
    label::host_proc(plan)
}

/// Enters the plan's namespaces, a session keyring and a session of its own.
fn enter_namespaces(plan: &Plan<'_>, proc: Option<BorrowedFd<'_>>, report: &mut Report<'_>) -> Result<()> {
    // A process that joins a user namespace must become its root before it can create or enter anything there.
    namespace::enter(plan, report)?;
    report.namespaces = namespace::open_own(plan);
    if let Some(name) = plan.keyring {
        label::set_keyring_label(plan, proc)?;
        identity::join_keyring(name, plan.container.is_some())?;
    }
    rustix::process::setsid().at(Step::Session)?;
    Ok(())
}

/// Builds the container around the process: network, root file system, hooks, kernel parameters, names. Returns the
/// terminal's slave if the plan asks for a terminal in the new root.
fn build_container(container: &Container<'_>, plan: &Plan<'_>, report: &Report<'_>) -> Result<Option<OwnedFd>> {
    if container.new_network {
        sys::set_loopback_up().at(Step::Loopback)?;
    }
    let mut terminal = None;
    let host = rootfs::build(container, &mut terminal, plan, report)?;
    // These hooks need both trees: the host's is still the root, and the container's is attached in it.
    hook::run_before_pivot(container, host.as_ref(), report)?;
    // Kernel parameters are written through the host's /proc: no image and no volume can redirect the write
    // (CVE-2025-52881). The kernel looks up `net.*` by the network namespace of the process that opens the file. A
    // parameter may belong to an interface that a hook has created, so the hooks come first.
    if Defence::HostProc.stands() {
        namespace::write_sysctls(container.sysctls)?;
    }
    rootfs::enter(&container.rootfs, host)?;
    if !Defence::HostProc.stands() {
        namespace::write_sysctls(container.sysctls)?;
    }
    if let Some(name) = container.hostname {
        rustix::system::sethostname(name).at(Step::Hostname)?;
    }
    if let Some(name) = container.domainname {
        rustix::system::setdomainname(name).at(Step::Domainname)?;
    }
    Ok(terminal)
}

/// Takes the payload's identity, and gives up every right that the remaining steps do not need. Returns the path of the
/// executable.
fn restrict<'a>(plan: &Plan<'a>, proc: Option<OwnedFd>, report: &Report<'_>) -> Result<&'a CStr> {
    let process = &plan.process;
    let enters_pid = plan.namespaces.enters_pid_last();
    if let Some(scheduling) = &process.scheduling {
        scheduling::apply(scheduling, enters_pid)?;
    }
    let in_directory = payload::try_directory(process)?;
    let labels = label::Labels::set(plan, proc.as_ref().map(AsFd::as_fd))?;
    identity::become_user(process, enters_pid)?;
    // A change of ids resets the flag to fs.suid_dumpable, which may be 1 (proc_sys_fs(5)).
    identity::clear_dumpable()?;
    payload::change_directory(process, in_directory)?;
    let executable = payload::find(process)?;
    // If the filter needs a capability, the capabilities are dropped right after it. Otherwise the filter is the last
    // restriction, and it has to allow no call but execve.
    let capabilities_after_filter = seccomp::needs_capability(process);
    if !capabilities_after_filter {
        identity::drop_capabilities(process)?;
    }
    if process.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivs)?;
    }
    labels.verify()?;
    // The next call closes this fd by its number, so no owner of the fd may be left.
    drop(proc);
    fds::close_setup_fds(plan, report)?;
    sys::cloexec_from(plan.preserve_fds.saturating_add(3)).at(Step::CloseFds)?;
    identity::verify(process, capabilities_after_filter)?;
    seccomp::load_at(SeccompWhen::BeforeVisible, process, report)?;
    if capabilities_after_filter && !seccomp::is_loaded_at(SeccompWhen::BeforeVisible, process) {
        identity::keep_filter_capability(process)?;
    }
    Ok(executable)
}

/// The last steps of a process that has the payload's rights, up to execve.
fn finish(remaining: &Remaining<'_>, report: &mut Report<'_>) -> Result<Infallible> {
    let process = &remaining.process;
    // Processes of a joined pid namespace can see this process only from here on. If it were visible earlier, they would
    // see the host's mounts and network in /proc, and could take over its rights with ptrace(2).
    if remaining.enters_pid {
        namespace::clone_into_pid(report)?;
        rustix::process::setsid().at(Step::Session)?;
        identity::lower_nproc(process)?;
        scheduling::reapply(process)?;
    }
    if remaining.terminal {
        console::take_control()?;
    }
    let signals = remaining.barrier.map(|_| sys::block_signals()).transpose().at(Step::Signals)?;
    seccomp::load_at(SeccompWhen::BeforeBarrier, process, report)?;
    barrier::wait(remaining.barrier, signals.as_ref().map(AsFd::as_fd), report)?;
    sys::reset_signals(process.ignored_signals).at(Step::Signals)?;
    seccomp::load_at(SeccompWhen::AfterBarrier, process, report)?;
    hook::run_before_exec(&remaining.start_container, process, report)?;
    seccomp::load_at(SeccompWhen::BeforeExec, process, report)?;
    payload::execute(process, remaining.executable)
}

/// [`finish`] for a process whose stack has been replaced, and which cannot return to [`run`].
fn finish_or_fail(remaining: &Remaining<'static>, report: &mut Report<'static>) -> ! {
    let Err(failure) = finish(remaining, report);
    report.fail(failure)
}
