//! The container's terminal, and the standard streams.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, Mode, OFlags},
    io::{Errno, Result as SysResult},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    process::{Gid, Uid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{self, OptionalActions, OutputModes, Winsize},
};

use crate::{
    defence::Defence,
    error::{At, Result},
    path::{self, Target},
    plan::{Plan, Stdio},
    report::Report,
    sys,
    wire::{Message, Step},
};

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Opens a terminal of the devpts at `/dev/pts` of the current root, for an exec.
fn open(plan: &Plan<'_>, report: &Report<'_>) -> Result<OwnedFd> {
    let root = fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at(Step::Console)?;
    open_in(root.as_fd(), plan, report)
}

/// Opens a terminal of the devpts below `root`, sends the master to the parent, and returns the slave.
pub fn open_in(root: BorrowedFd<'_>, plan: &Plan<'_>, report: &Report<'_>) -> Result<OwnedFd> {
    let (master, slave) = open_pair(root).at(Step::Console)?;
    if let Stdio::Terminal { rows, columns, bare_newlines } = plan.stdio {
        if (rows, columns) != (0, 0) {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            termios::tcsetwinsize(&slave, size).at(Step::Console)?;
        }
        if bare_newlines {
            let mut modes = termios::tcgetattr(&slave).at(Step::Console)?;
            modes.output_modes -= OutputModes::ONLCR;
            termios::tcsetattr(&slave, OptionalActions::Now, &modes).at(Step::Console)?;
        }
    }
    report.send(Message::Console, &[master.as_fd()]).at(Step::Channel)?;
    Ok(slave)
}

/// Opens master and slave. The image may have put any file at a path below `/dev` (CVE-2025-52565), so `ptmx` is taken
/// from a directory that is verified to be a devpts, and the slave from the master (`TIOCGPTPEER`, Linux 4.13).
fn open_pair(root: BorrowedFd<'_>) -> SysResult<(OwnedFd, OwnedFd)> {
    let pts = path::open(root, c"/dev/pts", OFlags::PATH | OFlags::DIRECTORY)?;
    if Defence::OwnDevpts.stands() && fs::fstatfs(&pts)?.f_type.cast_unsigned() != DEVPTS_MAGIC {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = fs::openat(&pts, c"ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// Binds the slave over `/dev/console` of the container.
pub fn bind(root: BorrowedFd<'_>, slave: &OwnedFd) -> SysResult<()> {
    let dev = path::open_or_make(root, c"/dev", Target::Directory, None)?;
    let target = path::open_or_make_file(dev.as_fd(), c"console")?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let by_name =
        (!Defence::ConsoleByFd.stands()).then(|| path::open(root, c"/dev/pts/0", OFlags::PATH)).transpose()?;
    let tree = open_tree(by_name.as_ref().unwrap_or(slave), c"", clone)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", &target, c"", empty)
}

/// Makes the terminal at fd 0 the controlling terminal of this session. The process must be the session leader.
pub fn take_control() -> Result<()> {
    let Some(terminal) = sys::standard_stream(0) else { return Ok(()) };
    rustix::process::ioctl_tiocsctty(terminal).at(Step::Stdio)
}

/// Puts the standard streams at 0, 1 and 2: the plan's fds, or the slave of `terminal`. If the plan asks for a
/// terminal and none is open yet, opens one in the current root. With [`crate::plan::Process::chown_stdio`] the
/// payload's user then owns the streams.
pub fn attach(plan: &Plan<'_>, terminal: Option<OwnedFd>, report: &Report<'_>) -> Result<()> {
    match &plan.stdio {
        Stdio::Terminal { .. } => {
            let slave = match terminal {
                Some(slave) => slave,
                None => open(plan, report)?,
            };
            for (index, number) in (0..=2).enumerate() {
                sys::dup_onto(slave.as_fd(), number).at_index(Step::Stdio, index)?;
            }
        }
        Stdio::Fds(fds) => {
            for ((index, fd), number) in fds.iter().enumerate().zip(0..) {
                sys::dup_onto(*fd, number).at_index(Step::Stdio, index)?;
            }
        }
        Stdio::Inherit => {}
    }
    if plan.process.chown_stdio { chown_streams(plan) } else { Ok(()) }
}

/// Gives the streams to the payload's user, so that the payload can open them again through /proc/self/fd. The host's
/// `/dev/null` keeps its owner. On a read-only or foreign file system chown(2) fails, which is no error: the stream
/// works without it. It also fails in a user namespace that does not map the owner; the parent has given pipes to the
/// root of the namespace before.
fn chown_streams(plan: &Plan<'_>) -> Result<()> {
    let uid = Uid::from_raw(plan.process.uid);
    for (index, number) in (0..=2).enumerate() {
        let Some(stream) = sys::standard_stream(number) else { continue };
        let Ok(stat) = fs::fstat(stream) else { continue };
        if stat.st_uid == plan.process.uid || stat.st_rdev == fs::makedev(1, 3) {
            continue;
        }
        match fs::chownat(stream, c"", Some(uid), None::<Gid>, AtFlags::EMPTY_PATH) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::NOSYS) => {}
            Err(e) => return Err(e).at_index(Step::Stdio, index),
        }
    }
    Ok(())
}
