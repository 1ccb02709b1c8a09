//! Entering namespaces, making those that clone3 could not, and the rare second clone.

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
    report::{self, Report, wait_for},
    sys::{self, Side},
    wire::{ADOPTED, GO, LEN, MAX_NAMESPACES, Message, RETRY, Step},
};

/// Joins, then makes, in the order in which each is allowed by the one before it.
///
/// The user namespace is the last of the joins, since a namespace that belongs to the host can be joined only from
/// there (setns(2)); what belongs to a user namespace alone, and was refused before, follows it.
///
/// A pid namespace that is new is entered here, by a second clone; one that is joined, and has others in it, is entered
/// at the end ([`clone_into_pid`]). Until then only the children of this process, hooks, are born in it.
pub fn enter(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    let namespaces = &plan.namespaces;
    if namespaces.become_root && !plan.process.keep_groups {
        shed_groups()?;
    }
    let user = namespaces.joins.iter().position(|join| join.flags & CLONE_NEWUSER != 0);
    let mut refused = 0u32;
    for (n, join) in namespaces.joins.iter().enumerate() {
        match sys::setns(join.fd, join.flags) {
            Err(Errno::PERM) if user.is_some_and(|user| n < user) => refused |= 1 << n,
            other => other.at_index(Step::JoinNamespace, n)?,
        }
    }
    if namespaces.become_root {
        become_root()?;
    }
    for (n, join) in namespaces.joins.iter().enumerate().filter(|(n, _)| refused & 1 << n != 0) {
        sys::setns(join.fd, join.flags).at_index(Step::JoinNamespace, n)?;
    }
    if namespaces.unshare != 0 {
        sys::unshare(namespaces.unshare).at(Step::Unshare)?;
    }
    if namespaces.second_clone {
        clone_into_pid(report)?;
    }
    if namespaces.unshare_cgroup {
        sys::unshare(CLONE_NEWCGROUP).at(Step::Unshare)?;
    }
    Ok(())
}

/// The namespaces that this process is in now, which it may look at though it hides. Where it cannot, there is none to
/// give, and whoever asks will see that.
pub fn open_own(plan: &Plan<'_>) -> [Option<OwnedFd>; MAX_NAMESPACES] {
    let mut own = [const { None }; MAX_NAMESPACES];
    for (path, slot) in plan.namespace_files.iter().zip(&mut own) {
        *slot = rustix::fs::open(*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    }
    own
}

const CLONE_NEWUSER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
const CLONE_NEWCGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();

/// Groups of the host go before a user namespace is joined, which may deny setgroups(2); the payload's own come later,
/// and none too many is held then ([`crate::identity::verify`]).
fn shed_groups() -> Result<()> {
    match sys::set_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e).at(Step::BecomeRoot),
    }
}

/// uid 0 of the namespace.
fn become_root() -> Result<()> {
    sys::set_ids(0, 0).at(Step::BecomeRoot)?;
    // A change of ids sets it to what fs.suid_dumpable says, and others may live in that namespace.
    identity::clear_dumpable()
}

/// A process that is there for its user namespace alone: born in one that is new, or entering `join`. It says
/// `Ready` and lives until the other end of the channel is closed.
pub fn hold_user_namespace(channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> ! {
    let report = Report::new(channel);
    match enter_and_hide(channel, join) {
        Ok(()) => report.send(Message::InUserNamespace, &[]),
        Err(failure) => report.send(Message::Failure(failure), &[]),
    }
    let _ = wait_for(channel, GO);
    sys::exit(0)
}

fn enter_and_hide(channel: BorrowedFd<'_>, join: Option<BorrowedFd<'_>>) -> Result<()> {
    if join.is_some() {
        // Root of the namespace may not look into it. A new one has nobody else, and the maps of a process that hides are
        // no ordinary user's to write (proc(5)).
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

/// Clones the process that becomes the payload: a pid namespace that was joined or made is entered by children only
/// (pid_namespaces(7)). `CLONE_PARENT` makes the new process the parent's own child, so that it is waited for like any
/// other. Returns in the new process, once the parent has adopted it; this one ends.
///
/// # Errors
/// As clone(2). The first `EAGAIN` is put to the parent, who can take this process out of a cgroup that has as many
/// processes as it may have: an exec has to work there.
pub fn clone_into_pid(report: &Report<'_>) -> Result<()> {
    let made = match sys::second_clone() {
        Err(Errno::AGAIN) => {
            report.send(Message::CgroupFull, &[]);
            report.wait_for(RETRY).at(Step::Channel)?;
            sys::second_clone()
        }
        other => other,
    };
    match made.at(Step::Clone)? {
        Side::Child => report.wait_for(ADOPTED).at(Step::Channel),
        Side::Parent(pid, pidfd) => {
            report.send(Message::Cloned(pid), &[pidfd.as_fd()]);
            sys::exit(0)
        }
    }
}

/// A context of a file system (fsopen(2)) that belongs to the pid namespace of this process's children: a child opens
/// it and ends. Those that live in that namespace see the child for that moment.
///
/// # Errors
/// As fsopen(2); `EIO` when the child ended without a word.
pub fn context_of_children(fstype: &CStr) -> io::Result<OwnedFd> {
    let (ours, theirs) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pidfd = match sys::clone_hook()? {
        Side::Child => {
            let opened = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)
                .and_then(|_| rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC));
            if let Ok(context) = opened {
                report::send(theirs.as_fd(), Message::FsContext, &[context.as_fd()]);
            }
            sys::exit(0)
        }
        Side::Parent(_, pidfd) => pidfd,
    };
    drop(theirs);
    // It has nothing to wait for; one that is stopped by others is ended.
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

/// One write, as sysctl(8) does it.
pub fn write_sysctl(sysctl: &Sysctl<'_>) -> io::Result<()> {
    let file = rustix::fs::open(sysctl.path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let written = io::write(&file, sysctl.value)?;
    if written == sysctl.value.len() { Ok(()) } else { Err(Errno::IO) }
}
