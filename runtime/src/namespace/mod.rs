//! Plans namespaces: clone3(2) creates some, the child joins some by path, and the child unshares others later.

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
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind, Spec};
use rustix::fs::{Mode, OFlags};

use self::enter::UsernsHelper;
use crate::{Context, Error, Result, arena::Arena, id_maps::Ids};

/// Type, flag, and file name below /proc/<pid>/ns, in the order in which they are joined.
///
/// The user namespace is last: from inside it, a process may not join namespaces of the host. The mount namespace comes
/// before it, because it changes the meaning of paths.
pub const ALL: [(Kind, u32, &str); 8] = [
    (Kind::Time, kind::TIME, "time"),
    (Kind::Ipc, kind::IPC, "ipc"),
    (Kind::Uts, kind::UTS, "uts"),
    (Kind::Network, kind::NETWORK, "net"),
    (Kind::Pid, kind::PID, "pid"),
    (Kind::Cgroup, kind::CGROUP, "cgroup"),
    (Kind::Mount, kind::MOUNT, "mnt"),
    (Kind::User, kind::USER, "user"),
];

/// Returns the paths of the calling process's own namespaces of these types, in the order in which they are joined.
///
/// # Errors
/// None for any config.json.
pub fn own_files(arena: &Arena, kinds: u32) -> Result<&[&CStr]> {
    let mut files = Vec::new();
    for (kind, _, name) in ALL.iter().filter(|(_, flag, _)| kinds & flag != 0) {
        // A joined pid namespace is entered last. Until then only the children are in it.
        let name = if *kind == Kind::Pid { "pid_for_children" } else { name };
        files.push(arena.text(format!("/proc/thread-self/ns/{name}"), "linux.namespaces")?);
    }
    Ok(arena.list(files))
}

/// Opens the namespaces of the types `kinds` below a process's directory in /proc. Returns each with its flag, in the
/// order in which they are joined.
///
/// # Errors
/// As open(2), with the path.
pub fn of_process(directory: &str, kinds: u32) -> Result<Vec<(u32, OwnedFd)>> {
    let open = |(_, kind, name): &(Kind, u32, &str)| {
        let path = format!("{directory}/ns/{name}");
        let fd = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        fd.map(|fd| (*kind, fd)).with_context(|| format!("open {path}"))
    };
    ALL.iter().filter(|(_, kind, _)| kinds & kind != 0).map(open).collect()
}

/// Returns the `CLONE_NEW*` flag of a type.
pub fn flag(kind: Kind) -> u32 {
    ALL.iter().find_map(|(k, flag, _)| (*k == kind).then_some(*flag)).unwrap_or_default()
}

/// Returns the name of a type below /proc/<pid>/ns.
pub fn file_name(kind: Kind) -> &'static str {
    ALL.iter().find_map(|(k, _, name)| (*k == kind).then_some(*name)).unwrap_or_default()
}

/// Returns the types of the namespaces of a process that are not the calling thread's own. `directory` is the process
/// in /proc.
///
/// # Errors
/// As stat(2), with the path.
pub fn differing(directory: &str) -> Result<u32> {
    let mut kinds = 0;
    for (_, kind, name) in ALL {
        let inode = |directory: &str| {
            let path = format!("{directory}/ns/{name}");
            rustix::fs::stat(path.as_str()).map(|stat| stat.st_ino).with_context(|| format!("stat {path}"))
        };
        // A kernel without a type of namespace has no file for it.
        match (inode(directory), inode("/proc/thread-self")) {
            (Ok(theirs), Ok(own)) => kinds |= if theirs == own { 0 } else { kind },
            (Err(_), Err(_)) => {}
            (theirs, own) => theirs.and(own).map(drop)?,
        }
    }
    Ok(kinds)
}

/// The namespaces of a container, sorted by the way the container gets them.
pub struct NamespacePlan<'a> {
    /// `CLONE_NEW*` flags for clone3(2).
    pub clone: u32,
    /// The child's part.
    pub child: Namespaces<'a>,
    /// A time namespace must be created before the clone.
    pub time: bool,
    /// `CLONE_NEW*` flags of all namespaces that are not the runtime's own. An exec must join them.
    pub own: u32,
    /// The part of `own` that is created; the rest is joined by path.
    pub made: u32,
    /// The container's user namespace.
    pub users: UserNamespace<'a>,
}

/// The container's user namespace, if it has one of its own.
#[derive(Default)]
pub struct UserNamespace<'a> {
    /// The namespace's mappings, empty for a container in the runtime's user namespace.
    pub ids: Ids,
    /// The namespace, unless clone3(2) will create it.
    pub fd: Option<BorrowedFd<'a>>,
    /// The namespace denies setgroups(2).
    pub denies_setgroups: bool,
}

impl NamespacePlan<'_> {
    /// Returns true if the container does not share the runtime's namespace of this type.
    pub fn is_private(&self, kind: Kind) -> bool {
        ALL.iter().any(|(k, bit, _)| *k == kind && self.own & bit != 0)
    }
}

/// Returns the namespaces that a config.json lists.
pub fn listed(spec: &Spec) -> impl Iterator<Item = &LinuxNamespace> {
    spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten())
}

/// Returns the path of a namespace that is to be joined. An empty path counts as none, as in runc.
pub fn path_to_join(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Sorts the namespaces of a config.json.
///
/// `ids` are the spec's mappings: for a new user namespace, or to be compared with those of a joined one. With `inside`
/// this process is already in the container's user namespace.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] for a path that is no namespace or one of another type, with the path, and for
/// mappings that differ from those of the joined user namespace.
pub fn plan<'a>(
    arena: &'a Arena,
    namespaces: &[LinuxNamespace],
    ids: &Ids,
    inside: Option<&UsernsHelper>,
) -> Result<NamespacePlan<'a>> {
    let Sorted { mut joins, made, joined, mut users } = sort(arena, namespaces, ids, inside)?;
    if made & kind::USER != 0 {
        ids.check_complete()?;
        users.ids = ids.clone();
        if !joins.is_empty() {
            // Host namespaces can be joined only from outside of the new user namespace, so it must exist before the
            // child.
            let fd = arena.fd(user::create(ids).context("linux")?);
            joins.push(Join { fd, flags: kind::USER, path: None });
            users.fd = Some(fd);
        }
    }
    let time = made & kind::TIME != 0;
    let here = made & !(kind::CGROUP | kind::TIME);
    // New namespaces must belong to the joined user namespace, so the child unshares them after it has entered it. The
    // creator of an ipc namespace owns the root of its mqueue file system. That must be the container's root.
    let unshare = match (users.fd, made & kind::USER != 0) {
        (Some(_), _) => here & !kind::USER,
        (None, true) => made & kind::IPC,
        (None, false) => 0,
    };
    let clone = if users.fd.is_some() { 0 } else { here & !unshare };
    Ok(NamespacePlan {
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

/// The namespaces of a config.json, sorted.
#[derive(Default)]
struct Sorted<'a> {
    /// The namespaces to join, in the order of the calls.
    joins: Vec<Join<'a>>,
    /// The flags of new namespaces.
    made: u32,
    /// The flags of joined namespaces, with those that this process is in already.
    joined: u32,
    users: UserNamespace<'a>,
}

/// Sorts the namespaces into new and joined ones, and opens those to join.
fn sort<'a>(
    arena: &'a Arena,
    namespaces: &[LinuxNamespace],
    ids: &Ids,
    inside: Option<&UsernsHelper>,
) -> Result<Sorted<'a>> {
    let mut sorted = Sorted::default();
    for (kind, bit, name) in ALL {
        let Some(spec) = namespaces.iter().find(|n| n.typ() == kind) else { continue };
        if let Some(inside) = inside.filter(|_| kind == Kind::User) {
            check_mappings_agree(ids, inside.ids())?;
            sorted.joined |= bit;
            sorted.users.ids = inside.ids().seen_from_inside();
            continue;
        }
        let Some(path) = self::path_to_join(spec) else {
            sorted.made |= bit;
            continue;
        };
        let what = || format!("linux.namespaces: {kind} namespace path {}", path.display());
        let fd = open(path, bit).with_context(what)?;
        if is_own(&fd, name)? {
            // The path is the runtime's own namespace. setns(2) into the own user namespace is an error.
            if kind == Kind::User {
                check_mappings_agree(ids, &user::own()?.ids)?;
            }
            continue;
        }
        sorted.joined |= bit;
        let fd = arena.fd(fd);
        sorted.joins.push(Join { fd, flags: bit, path: Some(arena.path(path, "linux.namespaces.path")?) });
        if kind == Kind::User {
            let found = user::read(fd).with_context(what)?;
            check_mappings_agree(ids, &found.ids)?;
            found.ids.check_complete().with_context(what)?;
            sorted.users = UserNamespace { ids: found.ids, fd: Some(fd), denies_setgroups: !found.setgroups };
        }
    }
    Ok(sorted)
}

/// Compares the spec's mappings with those of a joined user namespace. containerd and CRI-O give both a path and
/// mappings.
fn check_mappings_agree(given: &Ids, actual: &Ids) -> Result<()> {
    if !given.has_mappings() || given.same_as(actual) {
        return Ok(());
    }
    Err(Error::invalid(
        "linux.uidMappings: user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one",
    ))
}

/// Opens a namespace file, and checks that it is a namespace of the right type.
///
/// # Errors
/// As open(2); [`crate::Kind::InvalidArgument`] for another type or no namespace at all.
pub fn open(path: &Path, kind: u32) -> Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let is = crate::sys::namespace_kind(&fd).map_err(|_| Error::invalid("not a namespace"))?;
    if is == kind { Ok(fd) } else { Err(Error::invalid("is a namespace of another type")) }
}

/// Returns true if the namespace file is the runtime's own namespace.
///
/// # Errors
/// As stat(2).
pub fn is_own(fd: &OwnedFd, name: &str) -> Result<bool> {
    let theirs = rustix::fs::fstat(fd)?;
    let ours = rustix::fs::stat(format!("/proc/thread-self/ns/{name}")).context("stat own namespace")?;
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}
