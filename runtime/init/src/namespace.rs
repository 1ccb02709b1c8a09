//! Entering namespaces, making those that clone3 could not, and the rare second clone.

use rustix::{
    fd::AsFd,
    fs::{Mode, OFlags},
    io::{self, Errno},
};

use crate::{
    At, Report, Result,
    plan::{Plan, Sysctl},
    sys::{self, Side},
    wire::{Message, Step},
};

/// Joins, then makes, in the order in which each is allowed by the one before it.
///
/// Returns in the process that becomes the payload. With a second clone the first child tells the parent who that is
/// and exits.
pub fn enter(plan: &Plan<'_>, report: &Report<'_>) -> Result<()> {
    let namespaces = &plan.namespaces;
    let mut root_due = namespaces.become_root;
    for (n, join) in namespaces.joins.iter().enumerate() {
        sys::setns(join.fd, join.flags).at_index(Step::JoinNamespace, n)?;
        if root_due && join.flags & CLONE_NEWUSER != 0 {
            become_root()?;
            root_due = false;
        }
    }
    if root_due {
        become_root()?;
    }
    if namespaces.unshare != 0 {
        sys::unshare(namespaces.unshare).at(Step::Unshare)?;
    }
    if namespaces.second_clone {
        second_clone(report)?;
    }
    if namespaces.unshare_cgroup {
        sys::unshare(CLONE_NEWCGROUP).at(Step::Unshare)?;
    }
    Ok(())
}

const CLONE_NEWUSER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
const CLONE_NEWCGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();

/// uid 0 of the namespace. Groups of the host are shed where that is allowed; the payload's own come later.
fn become_root() -> Result<()> {
    match sys::set_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e).at(Step::BecomeRoot),
    }
    sys::set_ids(0, 0).at(Step::BecomeRoot)
}

/// A pid namespace made by unshare is entered by the next child only (pid_namespaces(7)). `CLONE_PARENT` makes that
/// child the parent's own, so that it is waited for like any other.
fn second_clone(report: &Report<'_>) -> Result<()> {
    match sys::clone_again().at(Step::Clone)? {
        Side::Child => Ok(()),
        Side::Parent(pid, pidfd) => {
            report.send(Message::Moved(pid), &[pidfd.as_fd()]);
            sys::exit(0)
        }
    }
}

/// One write, as sysctl(8) does it.
pub fn write_sysctl(sysctl: &Sysctl<'_>) -> io::Result<()> {
    let file = rustix::fs::open(sysctl.path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let written = io::write(&file, sysctl.value)?;
    if written == sysctl.value.len() { Ok(()) } else { Err(Errno::IO) }
}
