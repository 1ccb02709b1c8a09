//! Namespaces: which clone3 makes, which are entered by path, which come later in the child.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::plan::{Join, Namespaces};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};
use rustix::fs::{Mode, OFlags};

use crate::{Context, Error, Result, arena::Arena};

/// `CLONE_NEW*` bits.
pub mod flag {
    /// Mount.
    pub const MOUNT: u32 = libc::CLONE_NEWNS.cast_unsigned();
    /// Cgroup.
    pub const CGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();
    /// UTS.
    pub const UTS: u32 = libc::CLONE_NEWUTS.cast_unsigned();
    /// IPC.
    pub const IPC: u32 = libc::CLONE_NEWIPC.cast_unsigned();
    /// User.
    pub const USER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
    /// Pid.
    pub const PID: u32 = libc::CLONE_NEWPID.cast_unsigned();
    /// Network.
    pub const NETWORK: u32 = libc::CLONE_NEWNET.cast_unsigned();
}

/// Bit and file below /proc/<pid>/ns; the order in which they are joined: user first, since it gives the right to join
/// the others; mount last, since it changes what paths mean.
const ALL: [(Kind, u32, &str); 7] = [
    (Kind::User, flag::USER, "user"),
    (Kind::Ipc, flag::IPC, "ipc"),
    (Kind::Uts, flag::UTS, "uts"),
    (Kind::Network, flag::NETWORK, "net"),
    (Kind::Pid, flag::PID, "pid"),
    (Kind::Cgroup, flag::CGROUP, "cgroup"),
    (Kind::Mount, flag::MOUNT, "mnt"),
];

/// How a container gets its namespaces.
pub struct Placement<'a> {
    /// For clone3.
    pub clone: u32,
    /// A pid namespace to be entered by the parent's thread around the clone: setns(2) with it acts on children only.
    pub pid: Option<BorrowedFd<'a>>,
    /// For the child.
    pub child: Namespaces<'a>,
    /// All that are not the runtime's own: what an exec has to join.
    pub own: u32,
    /// Made or joined by path: not the host's.
    pub private: u32,
}

impl Placement<'_> {
    /// True when the container has one of its own, or another container's.
    pub fn is_private(&self, kind: Kind) -> bool {
        ALL.iter().any(|(k, bit, _)| *k == kind && self.private & bit != 0)
    }
}

/// Sorts the namespaces of a config.json.
///
/// # Errors
/// A path that is no namespace, or one of another kind, is named.
pub fn plan<'a>(arena: &'a Arena, namespaces: &[LinuxNamespace]) -> Result<Placement<'a>> {
    let mut made = 0;
    let mut joins = Vec::new();
    let mut joined = 0;
    let mut pid = None;
    for (kind, bit, name) in ALL {
        let Some(spec) = namespaces.iter().find(|n| n.typ() == kind) else { continue };
        match spec.path().as_deref().filter(|p| !p.as_os_str().is_empty()) {
            None => made |= bit,
            Some(path) => {
                let fd = open(path, bit)
                    .with_context(|| format!("linux.namespaces: {kind} namespace path {}", path.display()))?;
                if same(&fd, name)? {
                    // The runtime's own: joining a user namespace that one is in is an error (setns(2)).
                    continue;
                }
                joined |= bit;
                match kind {
                    Kind::Pid => pid = Some(arena.fd(fd)),
                    _ => joins.push(Join { fd: arena.fd(fd), flags: bit }),
                }
            }
        }
    }
    let user_joined = joined & flag::USER != 0;
    // New namespaces must belong to the joined user namespace, so they are made after it is entered.
    let (clone, unshare) = if user_joined { (0, made & !flag::CGROUP) } else { (made & !flag::CGROUP, 0) };
    let second_clone = unshare & flag::PID != 0;
    Ok(Placement {
        clone,
        pid,
        child: Namespaces {
            joins: arena.list(joins),
            unshare,
            second_clone,
            unshare_cgroup: made & flag::CGROUP != 0,
            become_root: (made | joined) & flag::USER != 0,
        },
        own: made | joined,
        private: made | joined,
    })
}

/// Opens a namespace file and makes sure that it is one, of the right kind, before anything is made.
fn open(path: &Path, kind: u32) -> Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let is = crate::sys::namespace_kind(&fd).map_err(|_| Error::invalid("not a namespace"))?;
    if is == kind { Ok(fd) } else { Err(Error::invalid("is a namespace of another kind")) }
}

fn same(fd: &OwnedFd, name: &str) -> Result<bool> {
    let theirs = rustix::fs::fstat(fd)?;
    let ours = rustix::fs::stat(format!("/proc/thread-self/ns/{name}")).context("stat own namespace")?;
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}
