//! Joining namespaces, creating those that clone3 could not create, and the second clone.

use core::{ffi::CStr, mem::MaybeUninit};

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io::{self, Errno},
    mount::FsOpenFlags,
    net::{self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType},
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::{
    error::{At, Result},
    fds, identity,
    plan::{Plan, Sysctl},
    procfs,
    report::{self, Report, wait_for},
    sys::{self, Side},
    wire::{ADOPTED, GO, LEN, MAX_NAMESPACES, Message, RETRY, Step},
};

/// Joins the plan's namespaces, then creates the others, in the order that the kernel allows.
///
/// The user namespace is the last join, because a namespace of the host can be joined only before it (setns(2)). A
/// namespace that belongs to the user namespace is refused before it and joined after it.
///
/// A new pid namespace is entered here by a second clone. A joined one has other processes in it, and is entered at
/// the end ([`clone_into_pid`]); until then only hooks, the children of this process, are in it.
pub fn enter(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    let namespaces = &plan.namespaces;
    if namespaces.become_root && !plan.process.keep_groups {
        drop_groups()?;
    }
    let user_join = namespaces.joins.iter().position(|join| join.flags & CLONE_NEWUSER != 0);
    let mut deferred = 0u32;
    for (n, join) in namespaces.joins.iter().enumerate() {
        match sys::setns(join.fd, join.flags) {
            Err(Errno::PERM) if user_join.is_some_and(|user| n < user) => deferred |= 1 << n,
            other => other.at_index(Step::JoinNamespace, n)?,
        }
    }
    if namespaces.become_root {
        become_root()?;
    }
    for (n, join) in namespaces.joins.iter().enumerate().filter(|(n, _)| deferred & 1 << n != 0) {
        sys::setns(join.fd, join.flags).at_index(Step::JoinNamespace, n)?;
    }
    if namespaces.unshare != 0 {
        sys::unshare(namespaces.unshare).at(Step::Unshare)?;
    }
    if namespaces.enters_pid_first() {
        clone_into_pid(report)?;
    }
    if namespaces.unshare_cgroup {
        sys::unshare(CLONE_NEWCGROUP).at(Step::Unshare)?;
    }
    Ok(())
}

/// Opens the namespaces of this process. The process may open its own files although it is not dumpable. A namespace
/// that cannot be opened is left out, and the exec that asks for it fails.
pub fn open_own(plan: &Plan<'_>) -> [Option<OwnedFd>; MAX_NAMESPACES] {
    let mut own = [const { None }; MAX_NAMESPACES];
    for (path, slot) in plan.namespace_files.iter().zip(&mut own) {
        *slot = rustix::fs::open(*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    }
    own
}

const CLONE_NEWUSER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
const CLONE_NEWCGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();

/// Drops the host's groups before a user namespace is joined that may deny setgroups(2). The payload's groups are set
/// later, and [`crate::identity::verify`] fails if a group is left.
fn drop_groups() -> Result<()> {
    match sys::set_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e).at(Step::BecomeRoot),
    }
}

/// Becomes uid 0 and gid 0 of the user namespace.
fn become_root() -> Result<()> {
    sys::set_ids(0, 0).at(Step::BecomeRoot)?;
    // A change of ids resets the flag to fs.suid_dumpable, and the namespace may have other processes.
    identity::clear_dumpable()
}

/// The child that keeps a user namespace alive, so that the parent can use it: it was cloned into a new one, or joins
/// `join`. It sends [`Message::InUserNamespace`] and lives until the parent closes the channel.
pub fn hold_user_namespace(channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> ! {
    let report = Report::new(channel);
    let entered = match enter_user_namespace(channel, join) {
        Ok(()) => report.send(Message::InUserNamespace, &[]),
        Err(failure) => report.fail(failure),
    };
    if entered.is_err() {
        // The parent waits for the message, or for this end.
        sys::exit(1);
    }
    let _ = wait_for(channel, GO);
    sys::exit(0)
}

fn enter_user_namespace(channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> Result<()> {
    if join.is_some() {
        // The root of a joined namespace must not trace this process. A new namespace has no other process, and the
        // maps of a process that is not dumpable cannot be written by an unprivileged parent (proc(5)).
        identity::clear_dumpable()?;
    }
    let number = channel.as_raw_fd();
    let other = join.map_or(number, |fd| fd.as_raw_fd());
    fds::close_all_but(0, &[number.min(other), number.max(other)])?;
    if let Some(fd) = join {
        sys::setns(fd, CLONE_NEWUSER).at(Step::JoinNamespace)?;
        identity::clear_dumpable()?;
    }
    Ok(())
}

/// Clones the process that becomes the payload: only children enter a pid namespace that was joined or created
/// (pid_namespaces(7)). With `CLONE_PARENT` the new process is a child of the parent, which waits for it as for any
/// other. Returns in the new process, once the parent has adopted it; this process exits.
///
/// # Errors
/// As clone(2). The first `EAGAIN` is sent to the parent, which moves this process out of a cgroup that has reached
/// `pids.max`: an exec must work in such a cgroup.
pub fn clone_into_pid(report: &Report<'_>) -> Result<()> {
    let cloned = match sys::second_clone() {
        Err(Errno::AGAIN) => {
            report.send(Message::CgroupFull, &[]).at(Step::Channel)?;
            report.wait_for(RETRY).at(Step::Channel)?;
            sys::second_clone()
        }
        other => other,
    };
    match cloned.at(Step::Clone)? {
        Side::Child => report.wait_for(ADOPTED).at(Step::Channel),
        Side::Parent(pid, pidfd) => {
            // Without the message the parent gives up, and the new process finds its channel closed.
            report.send(Message::Cloned(pid), &[pidfd.as_fd()]).at(Step::Channel)?;
            sys::exit(0)
        }
    }
}

/// Opens a file system context (fsopen(2)) that belongs to the pid namespace of this process's children. A child opens
/// it and exits. The processes of that namespace see the child for that moment.
///
/// # Errors
/// As fsopen(2); `EIO` if the child exits without an answer.
pub fn context_of_children(fstype: &CStr) -> io::Result<OwnedFd> {
    let (ours, childs) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pidfd = match sys::clone_hook()? {
        Side::Child => {
            let opened = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)
                .and_then(|_| rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC));
            if let Ok(context) = opened {
                // The parent reports a child that ends without an answer.
                let _ = report::send(childs.as_fd(), Message::FsContext, &[context.as_fd()]);
            }
            sys::exit(0)
        }
        Side::Parent(_, pidfd) => pidfd,
    };
    drop(childs);
    // The child does not wait for anything. If another process has stopped it, it is killed.
    if !sys::wait_readable(pidfd.as_fd(), None, Some(10))? {
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0u8; LEN];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    net::recvmsg(&ours, &mut [io::IoSliceMut::new(&mut buffer)], &mut control, flags)?;
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {}
    let context = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    context.ok_or(Errno::IO)
}

/// Writes the kernel parameters.
pub fn write_sysctls(sysctls: &[Sysctl<'_>]) -> Result<()> {
    sysctls.iter().enumerate().try_for_each(|(n, sysctl)| write_sysctl(sysctl, n))
}

/// Writes kernel parameter number `n` with one write(2), as sysctl(8) does.
fn write_sysctl(sysctl: &Sysctl<'_>, n: usize) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = procfs::open(sysctl.path, flags, Step::Sysctl, n)?;
    let written = io::write(&file, sysctl.value).at_index(Step::Sysctl, n)?;
    if written == sysctl.value.len() { Ok(()) } else { Err(Errno::IO).at_index(Step::Sysctl, n) }
}
