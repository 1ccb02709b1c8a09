//! Namespaces: which clone3 makes, which are entered by path, which come later in the child.

pub mod enter;
pub mod kind;
pub mod thread;
pub mod time;
pub mod user;

use std::{
    ffi::CStr,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::plan::{Join, Namespaces};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};
use rustix::fs::{Mode, OFlags};

use self::enter::UsernsHelper;
use crate::{Context, Error, Result, arena::Arena, id_maps::Ids};

/// Bit and file below /proc/<pid>/ns; the order in which they are joined: user last, since those that belong to the host
/// cannot be joined from inside; mount last but for that, since it changes what paths mean.
const ALL: [(Kind, u32, &str); 8] = [
    (Kind::Time, kind::TIME, "time"),
    (Kind::Ipc, kind::IPC, "ipc"),
    (Kind::Uts, kind::UTS, "uts"),
    (Kind::Network, kind::NETWORK, "net"),
    (Kind::Pid, kind::PID, "pid"),
    (Kind::Cgroup, kind::CGROUP, "cgroup"),
    (Kind::Mount, kind::MOUNT, "mnt"),
    (Kind::User, kind::USER, "user"),
];

/// Where a process finds its own namespaces of these kinds, in the order in which they are joined.
///
/// # Errors
/// None that a config.json could cause.
pub fn own_files(arena: &Arena, kinds: u32) -> Result<&[&CStr]> {
    let mut files = Vec::new();
    for (kind, _, name) in ALL.iter().filter(|(_, flag, _)| kinds & flag != 0) {
        // One that is joined is entered at the end, and is that of the children until then.
        let name = if *kind == Kind::Pid { "pid_for_children" } else { name };
        files.push(arena.text(format!("/proc/thread-self/ns/{name}"), "linux.namespaces")?);
    }
    Ok(arena.list(files))
}

/// The namespaces of these kinds below a directory of a process in /proc, each with its kind, in the order in which they
/// are joined.
///
/// # Errors
/// Those of open(2).
pub fn of_process(directory: &str, kinds: u32) -> Result<Vec<(u32, OwnedFd)>> {
    let open = |(_, kind, name): &(Kind, u32, &str)| {
        let path = format!("{directory}/ns/{name}");
        let fd = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        fd.map(|fd| (*kind, fd)).with_context(|| format!("open {path}"))
    };
    ALL.iter().filter(|(_, kind, _)| kinds & kind != 0).map(open).collect()
}

/// How a container gets its namespaces.
pub struct Placement<'a> {
    /// For clone3.
    pub clone: u32,
    /// For the child.
    pub child: Namespaces<'a>,
    /// There is a time namespace to be made around the clone.
    pub time: bool,
    /// Made or joined by path: not the host's, and what an exec has to join.
    pub own: u32,
    /// Made; the others of `own` are joined.
    pub made: u32,
    /// The container's user namespace.
    pub users: Users<'a>,
}

/// The container's user namespace, if it has one of its own.
#[derive(Default)]
pub struct Users<'a> {
    /// Its mappings; none without one.
    pub ids: Ids,
    /// The namespace, unless clone3 will make it.
    pub fd: Option<BorrowedFd<'a>>,
    /// setgroups(2) is denied in it.
    pub no_groups: bool,
}

impl Placement<'_> {
    /// True when the container has one of its own, or another container's.
    pub fn is_private(&self, kind: Kind) -> bool {
        ALL.iter().any(|(k, bit, _)| *k == kind && self.own & bit != 0)
    }
}

/// The path of a namespace that is to be joined; an empty one is none.
pub fn joined(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Sorts the namespaces of a config.json. `ids` are its mappings, for a user namespace that is new, and to be compared
/// with those of one that is joined. With `inside` this process is in the user namespace already.
///
/// # Errors
/// A path that is no namespace, or one of another kind, is named; mappings that are not those of the user namespace.
pub fn plan<'a>(
    arena: &'a Arena,
    namespaces: &[LinuxNamespace],
    ids: &Ids,
    inside: Option<&UsernsHelper>,
) -> Result<Placement<'a>> {
    let mut made = 0;
    let mut joins = Vec::new();
    let mut joined = 0;
    let mut users = Users::default();
    for (kind, bit, name) in ALL {
        let Some(spec) = namespaces.iter().find(|n| n.typ() == kind) else { continue };
        if let Some(inside) = inside.filter(|_| kind == Kind::User) {
            agree(ids, inside.ids())?;
            joined |= bit;
            users.ids = inside.ids().seen_from_inside();
            continue;
        }
        let Some(path) = self::joined(spec) else {
            made |= bit;
            continue;
        };
        let what = || format!("linux.namespaces: {kind} namespace path {}", path.display());
        let fd = open(path, bit).with_context(what)?;
        if same(&fd, name)? {
            // The runtime's own: joining a user namespace that one is in is an error (setns(2)).
            if kind == Kind::User {
                agree(ids, &user::own()?.ids)?;
            }
            continue;
        }
        joined |= bit;
        let fd = arena.fd(fd);
        joins.push(Join { fd, flags: bit });
        if kind == Kind::User {
            let found = user::read(fd).with_context(what)?;
            agree(ids, &found.ids)?;
            found.ids.check_complete().with_context(what)?;
            users = Users { ids: found.ids, fd: Some(fd), no_groups: !found.setgroups };
        }
    }
    if made & kind::USER != 0 {
        ids.check_complete()?;
        users.ids = ids.clone();
        if !joins.is_empty() {
            // Those that belong to the host can be joined from outside only, so it must be there before the child is.
            let fd = arena.fd(user::make(ids).context("linux")?);
            joins.push(Join { fd, flags: kind::USER });
            users.fd = Some(fd);
        }
    }
    let time = made & kind::TIME != 0;
    let here = made & !(kind::CGROUP | kind::TIME);
    // New namespaces must belong to the joined user namespace, so they are made after it is entered. And whoever makes an
    // ipc namespace owns the root of its mqueue file system: the container's root, not the host's.
    let unshare = match (users.fd, made & kind::USER != 0) {
        (Some(_), _) => here & !kind::USER,
        (None, true) => made & kind::IPC,
        (None, false) => 0,
    };
    let clone = if users.fd.is_some() { 0 } else { here & !unshare };
    Ok(Placement {
        clone,
        child: Namespaces {
            joins: arena.list(joins),
            unshare,
            second_clone: unshare & kind::PID != 0,
            unshare_cgroup: made & kind::CGROUP != 0,
            become_root: inside.is_none() && (made | joined) & kind::USER != 0,
            enter_pid: joined & kind::PID != 0,
        },
        time,
        own: made | joined,
        made,
        users,
    })
}

/// containerd and CRI-O give both the path and the mappings, which must then be the same.
fn agree(given: &Ids, actual: &Ids) -> Result<()> {
    if !given.mapped() || given.same_as(actual) {
        return Ok(());
    }
    Err(Error::invalid(
        "linux.uidMappings: user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one",
    ))
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
