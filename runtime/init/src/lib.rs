//! What runs between clone3 and execve.
//!
//! The child of a threaded process may not allocate, take a lock or log: another thread may have held the lock when
//! the address space was copied. So this crate is `no_std` without `alloc`, knows no spec, and carries out a [`Plan`]
//! that the parent made beforehand. Read [`run`] for the order of a container's birth.
#![no_std]
#![warn(missing_docs)]

pub mod console;
pub mod cover;
pub mod device;
pub mod hook;
pub mod identity;
pub mod label;
pub mod mode;
pub mod namespace;
pub mod path;
pub mod payload;
pub mod plan;
pub mod program;
pub mod rootfs;
pub mod scheduling;
pub mod shed;
pub mod sys;
pub mod trap;
pub mod wire;

use core::{cell::Cell, ffi::CStr};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    fs::Mode,
    io::Errno,
    net::{self, RecvFlags, SendFlags, SocketFlags},
};

use hook::Ward;
use plan::{Barrier, Container, Hooks, Plan, Process};
use wire::{Failure, Message, Step};

/// The child's result: what went wrong, for the parent to word.
pub type Result<T> = core::result::Result<T, Failure>;

/// Says where in the plan a system call failed.
pub trait At<T> {
    /// At a step that happens once.
    fn at(self, step: Step) -> Result<T>;
    /// At the `index`th of the plan's list.
    fn at_index(self, step: Step, index: usize) -> Result<T>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T> {
        self.at_index(step, 0)
    }

    fn at_index(self, step: Step, index: usize) -> Result<T> {
        self.map_err(|e| Failure { step, index: u32::try_from(index).unwrap_or(u32::MAX), errno: e.raw_os_error() })
    }
}

/// The child: carries out `plan` and becomes the payload, or reports why not and exits.
pub fn run(plan: &Plan<'_>) -> ! {
    let mut report = Report::new(sys::channel(plan));
    let Err(failure) = be_born(plan, &mut report);
    report.send(Message::Failure(failure), &[]);
    sys::exit(1)
}

/// More CPUs than any kernel is built for (`CONFIG_NR_CPUS`, x86-64); it takes those that there are.
const MAX_CPUS: usize = 8192;

/// The order of a birth, each step before those that would take away what it needs.
fn be_born(plan: &Plan<'_>, report: &mut Report<'_>) -> Result<core::convert::Infallible> {
    // First of all: whoever shares a pid namespace with the payload may not look into a process that still has the
    // runtime's memory and fds (CVE-2016-9962). execve(2) makes it an ordinary process again.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Hide)?;
    // And the fds of the pod's other containers are gone before anything of ours is visible to anybody.
    close_other_fds(plan.preserve, plan.keep)?;
    // Nothing is done outside the cgroup. On v1 the child writes itself to `tasks`: to be moved by another process
    // costs a grace period of all forks of the machine, 10 ms against 0.1.
    for (n, tasks) in plan.cgroups.iter().enumerate() {
        rustix::io::write(tasks, b"0").at_index(Step::Cgroup, n)?;
    }
    // Nor before the ids are mapped.
    wait_for(report.channel, wire::GO).at(Step::Channel)?;
    if plan.all_cpus {
        // As much as may be had: a host that allows none of it has bound the cgroup.
        let _ = sys::set_affinity(&[u64::MAX; MAX_CPUS / 64]);
    }
    // While the host's /proc is still in sight.
    identity::set_oom_score_adj(plan)?;
    let proc = label::host_proc(plan)?;

    // A process of a joined user namespace must be its root before it can make or enter anything else there.
    namespace::enter(plan, report)?;
    report.lent = namespace::open_own(plan);
    if let Some(name) = plan.keyring {
        label::set_key_label(plan, proc.as_ref().map(AsFd::as_fd))?;
        identity::join_keyring(name, plan.container.is_some())?;
    }
    rustix::process::setsid().at(Step::Session)?;

    let mut terminal = None;
    if let Some(container) = &plan.container {
        if container.new_network {
            sys::set_loopback_up().at(Step::Loopback)?;
        }
        let host_root = rootfs::build(container, &mut terminal, plan, report)?;
        // While the host's tree is still there, beside the container's.
        run_create_hooks(container, report)?;
        // Kernel parameters go through the host's /proc, which no image and no volume can have tampered with
        // (CVE-2025-52881); those of the network are looked up by the opener's namespace, and may be those of an
        // interface that a hook has made.
        for (n, sysctl) in container.sysctls.iter().enumerate() {
            namespace::write_sysctl(sysctl).at_index(Step::Sysctl, n)?;
        }
        rootfs::enter(&container.rootfs, host_root)?;
        if let Some(name) = container.hostname {
            rustix::system::sethostname(name).at(Step::Hostname)?;
        }
        if let Some(name) = container.domainname {
            rustix::system::setdomainname(name).at(Step::Domainname)?;
        }
    }
    if let (None, plan::Stdio::Terminal { .. }) = (&terminal, &plan.stdio) {
        terminal = Some(console::open(plan, report)?);
    }
    console::attach(plan, terminal)?;
    let process = &plan.process;
    let mut home = [0; payload::HOME_MAX];
    payload::set_home(process, &mut home)?;

    // From here on rights only shrink. A filter without no_new_privs needs CAP_SYS_ADMIN, so in that case the
    // capabilities go after it; otherwise the filter is the very last thing, and need allow no more than execve.
    let late = process.seccomp.is_some() && !process.no_new_privs;
    if let Some(wanted) = &process.scheduling {
        scheduling::apply(wanted, plan.namespaces.enter_pid)?;
    }
    let entered = payload::try_directory(process)?;
    let labels = label::Labels::set(plan, proc.as_ref().map(AsFd::as_fd))?;
    identity::become_user(process, plan.namespaces.enter_pid)?;
    // A change of ids sets it to what fs.suid_dumpable says, which may be 1 (proc_sys_fs(5)).
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Hide)?;
    payload::change_directory(process, entered)?;
    let executable = payload::find(process)?;
    if !late {
        identity::drop_capabilities(process)?;
    }
    if process.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivs)?;
    }
    labels.verify()?;
    // Its number goes with the others below; nobody must close it once more.
    drop(proc);
    close_spent_fds(plan, report)?;
    sys::cloexec_from(plan.preserve.saturating_add(3)).at(Step::CloseFds)?;
    identity::verify(process, late)?;
    if process.seccomp.is_some_and(|filter| filter.first) {
        confine(process, None)?;
    } else if late {
        identity::keep_filter_right(process)?;
    }

    let tail = Tail {
        process: *process,
        executable,
        start_container: plan.container.as_ref().map_or(Hooks::NONE, |container| container.start_container),
        barrier: plan.barrier,
        enters_pid: plan.namespaces.enter_pid,
        terminal: matches!(plan.stdio, plan::Stdio::Terminal { .. }),
    };
    match &plan.image {
        Some(image) if tail.enters_pid => shed::shed(image, &tail, report, |tail, report| {
            let Err(failure) = finish(tail, report);
            report.send(Message::Failure(failure), &[]);
            sys::exit(1)
        }),
        _ => finish(&tail, report),
    }
}

/// What is still to be done by a process that is the payload in all but its program.
pub struct Tail<'a> {
    process: Process<'a>,
    executable: &'a CStr,
    start_container: Hooks<'a>,
    barrier: Option<Barrier<'a>>,
    enters_pid: bool,
    terminal: bool,
}

/// The end of a birth.
fn finish(tail: &Tail<'_>, report: &mut Report<'_>) -> Result<core::convert::Infallible> {
    let process = &tail.process;
    // Now those that live in the pid namespace may see it. A process that is seen earlier shows them the host's mounts and
    // network, and lends its rights to whoever may trace it.
    if tail.enters_pid {
        namespace::clone_into_pid(report)?;
        rustix::process::setsid().at(Step::Session)?;
        identity::lower_nproc(process)?;
        scheduling::renew(process)?;
    }
    if tail.terminal {
        console::take_control()?;
    }
    let held = tail.barrier.map(|_| sys::hold_signals()).transpose().at(Step::Signals)?;

    // A filter that notifies is loaded once, since it has one listener; at create, where its agent is looked for. Any
    // other one init could not wait for a hook under, so each hook loads it for itself.
    let notifies = process.seccomp.is_some_and(|filter| sys::notifies(filter.flags));
    let early = tail.barrier.is_some() && process.seccomp.is_some_and(|filter| filter.early);
    if early {
        confine(process, Some(report))?;
    }
    report.wait_at_barrier(tail.barrier, held.as_ref().map(AsFd::as_fd))?;
    sys::reset_signals(process.ignored).at(Step::Signals)?;
    if notifies && !early {
        confine(process, Some(report))?;
    }
    // With the rights of the payload, whichever way they come.
    run_hooks(&tail.start_container, (!notifies).then_some(process), None, report)?;
    if !notifies && !process.seccomp.is_some_and(|filter| filter.first) {
        confine(process, None)?;
    }
    payload::execute(process, tail.executable)
}

/// The last restriction: the filter, and the capabilities that were needed for it.
fn confine(process: &Process<'_>, report: Option<&Report<'_>>) -> Result<()> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    let late = !process.no_new_privs;
    if late {
        identity::raise_permitted(process)?;
    }
    if filter.shown {
        // pidfd_getfd(2) asks for what ptrace(2) does, and what hides is for a privileged parent alone.
        sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).at(Step::Listener)?;
    }
    let listener = sys::set_filter(filter.filter, filter.flags).at(Step::Seccomp)?;
    if let (Some(number), Some(report)) = (listener, report) {
        // At once: from here on any other call may wait for an answer that nobody gives.
        report.announce_listener(number).at(Step::Listener)?;
    }
    if filter.shown && filter.readable {
        // As far as the filter lets it.
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    }
    if late {
        identity::drop_capabilities(process)?;
    }
    identity::verify_filter(process, late)
}

/// The parent's hooks, then those of the container's own namespaces. Neither outlives a parent that is gone: there would
/// be nobody to take the container.
fn run_create_hooks(container: &Container<'_>, report: &Report<'_>) -> Result<()> {
    if container.runtime_hooks {
        report.send(Message::Hooks, &[]);
        wait_for(report.channel, wire::HOOKED).at(Step::RuntimeHooks)?;
    }
    // They find what the runtime was given.
    let umask = report.umask.take().filter(|_| !container.create_container.list.is_empty()).map(rustix::process::umask);
    run_hooks(&container.create_container, None, Some(report.channel), report)?;
    umask.map(rustix::process::umask);
    Ok(())
}

/// Runs init's hooks of one point; of one that fails, the output goes with the failure, which ends init.
fn run_hooks(
    hooks: &Hooks<'_>,
    confined: Option<&Process<'_>>,
    watch: Option<BorrowedFd<'_>>,
    report: &Report<'_>,
) -> Result<()> {
    if hooks.list.is_empty() {
        return Ok(());
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    hook::run_all(hooks, &Ward { pid, watch, confined }).map_err(|fault| {
        if let Some([stdout, stderr]) = &fault.output {
            report.send(Message::Failure(fault.failure), &[stdout.as_fd(), stderr.as_fd()]);
        }
        fault.failure
    })
}

/// Closes every fd above the streams and the `preserve`d ones but `keep`, which is ascending: each gap is one
/// close_range(2) (Linux 5.9).
fn close_other_fds(preserve: u32, keep: &[RawFd]) -> Result<()> {
    let mut next = preserve.saturating_add(3);
    for &fd in keep {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if fd < next {
            continue;
        }
        if fd > next {
            sys::close_range(next, fd - 1).at(Step::CloseFds)?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX).at(Step::CloseFds)
}

/// What built the container is of no more use, and a process that waits for its start has no business with directories
/// of the host: only the way back to the runtime stays.
fn close_spent_fds(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    let channel = report.channel.as_raw_fd();
    let other = match plan.barrier {
        Some(Barrier::Listen(socket)) => socket.as_raw_fd(),
        Some(Barrier::Channel) | None => channel,
    };
    let mut keep = [-1; 2 + wire::LENT];
    let lent = report.lent.iter().flatten().map(AsRawFd::as_raw_fd);
    for (slot, fd) in keep.iter_mut().zip([channel, other].into_iter().chain(lent)) {
        *slot = fd;
    }
    keep.sort_unstable();
    close_other_fds(plan.preserve, &keep)
}

/// Reads the one byte that the parent says; anything else, its death included, ends the child.
fn wait_for(channel: BorrowedFd<'_>, word: u8) -> rustix::io::Result<()> {
    if heard(channel)? == word { Ok(()) } else { Err(Errno::CONNRESET) }
}

/// The one byte that the other end says.
fn heard(channel: BorrowedFd<'_>) -> rustix::io::Result<u8> {
    let mut byte = [0u8; 1];
    loop {
        match net::recv(channel, &mut byte[..], RecvFlags::empty()) {
            Ok((1, _)) => return Ok(u8::from_ne_bytes(byte)),
            Ok(_) => return Err(Errno::CONNRESET),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits until there is something to read; one of the `held` signals ends the process as it would end any other.
fn end_or_wait(fd: BorrowedFd<'_>, held: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
    let Some(held) = held else { return Ok(()) };
    let mut fds = [PollFd::from_borrowed_fd(held, PollFlags::IN), PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    while let Err(e) = poll(&mut fds, None) {
        if e != Errno::INTR {
            return Err(e);
        }
    }
    let [signal, _] = fds;
    if signal.revents().contains(PollFlags::IN) {
        sys::exit(128 + sys::held_signal(held)?);
    }
    Ok(())
}

/// The way back to whoever waits for this child: its maker, then whoever starts it.
pub struct Report<'a> {
    channel: BorrowedFd<'a>,
    accepted: Option<OwnedFd>,
    /// See [`Plan::lent`].
    lent: [Option<OwnedFd>; wire::LENT],
    /// The caller's, where the root was built with another.
    umask: Cell<Option<Mode>>,
}

impl<'a> Report<'a> {
    /// To its maker, so far.
    fn new(channel: BorrowedFd<'a>) -> Self {
        Self { channel, accepted: None, lent: [const { None }; wire::LENT], umask: Cell::new(None) }
    }

    /// Sends a message and the fds that belong to it. A reader that is gone is not an error: the barrier will tell.
    pub fn send(&self, message: Message, fds: &[BorrowedFd<'_>]) {
        let to = self.accepted.as_ref().map_or(self.channel, AsFd::as_fd);
        send(to, message, fds);
    }

    /// Has the parent map the ids of `tree`, as mount `n` of the plan asks for: that takes rights over the file system, which
    /// nobody has from inside a user namespace.
    fn have_mapped(&self, tree: BorrowedFd<'_>, n: usize) -> rustix::io::Result<()> {
        self.send(Message::IdMap(u32::try_from(n).unwrap_or(u32::MAX)), &[tree]);
        wait_for(self.channel, wire::MAPPED)
    }

    /// Gives the namespaces to somebody who has asked for them.
    fn lend(&self, to: BorrowedFd<'_>) {
        let mut fds = [to; wire::LENT];
        let mut count = 0;
        for (slot, fd) in fds.iter_mut().zip(self.lent.iter().flatten()) {
            *slot = fd.as_fd();
            count += 1;
        }
        send(to, Message::Ready, fds.get(..count).unwrap_or_default());
    }

    /// Says the number of the filter's listener and waits until somebody has it, by read(2) and write(2) alone.
    fn announce_listener(&self, number: i32) -> rustix::io::Result<()> {
        let to = self.accepted.as_ref().map_or(self.channel, AsFd::as_fd);
        rustix::io::write(to, &Message::Listener(number).encode())?;
        let mut byte = [0u8; 1];
        match rustix::io::read(to, &mut byte) {
            // The last listener must be the agent's: with one of init's own its end would be seen by nobody.
            Ok(1) if byte == [wire::HEARD] => {
                let number = number.unsigned_abs();
                sys::close_range(number, number)
            }
            Ok(_) => Err(Errno::CONNRESET),
            Err(e) => Err(e),
        }
    }

    /// Between `create` and `start`.
    fn wait_at_barrier(&mut self, barrier: Option<Barrier<'_>>, held: Option<BorrowedFd<'_>>) -> Result<()> {
        match barrier {
            None => Ok(()),
            Some(Barrier::Channel) => {
                self.send(Message::Ready, &[]);
                end_or_wait(self.channel, held).at(Step::Barrier)?;
                wait_for(self.channel, wire::START).at(Step::Barrier)
            }
            Some(Barrier::Listen(socket)) => {
                self.send(Message::Ready, &[]);
                // The maker goes away and must not be waited for; whoever starts comes by the socket. One who
                // connects and leaves has started nothing.
                sys::close_range(fd_number(self.channel), fd_number(self.channel)).at(Step::Barrier)?;
                loop {
                    end_or_wait(socket, held).at(Step::Barrier)?;
                    let peer = match net::accept_with(socket, SocketFlags::CLOEXEC) {
                        Ok(peer) => peer,
                        Err(Errno::INTR | Errno::CONNABORTED) => continue,
                        Err(e) => return Err(e).at(Step::Barrier),
                    };
                    match heard(peer.as_fd()) {
                        Ok(wire::START) => {
                            self.accepted = Some(peer);
                            return Ok(());
                        }
                        Ok(wire::NAMESPACES) => self.lend(peer.as_fd()),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// A message with the fds that belong to it, as many as may be [lent](wire::LENT).
fn send(to: BorrowedFd<'_>, message: Message, fds: &[BorrowedFd<'_>]) {
    let bytes = message.encode();
    if fds.is_empty() {
        let _ = net::send(to, &bytes, SendFlags::NOSIGNAL);
        return;
    }
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::LENT))];
    let mut control = net::SendAncillaryBuffer::new(&mut space);
    control.push(net::SendAncillaryMessage::ScmRights(fds));
    let iov = [rustix::io::IoSlice::new(&bytes)];
    let _ = net::sendmsg(to, &iov, &mut control, SendFlags::NOSIGNAL);
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}
