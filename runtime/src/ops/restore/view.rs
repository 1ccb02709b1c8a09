//! Compares what restored processes see with config.json: namespaces, mappings and the flags of mounts. Images may be a
//! stranger's.
//!
//! A mount that the images add is not found: only what config.json restricts is looked at.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_init::{
    path,
    sys::{mount_setattr, setns},
};
use oci_spec::runtime::{Mount, Root, Spec};
use rustix::{
    fs::{FileType, Mode, OFlags, StatVfsMountFlags, fstat, fstatfs, fstatvfs, stat},
    io::Errno,
};

use crate::{
    Context, Error, Kind, Result,
    arena::Arena,
    id_maps::Ids,
    leaves::mount::{Options, attr},
    namespace::{self, kind, path_to_join, user},
    sys,
};

/// `TMPFS_MAGIC` (statfs(2)).
const TMPFS: i64 = 0x0102_1994;

/// Checks the namespaces of all restored processes, of which `init` is one, and returns the types of those of init that
/// are not the runtime's own.
///
/// # Errors
/// [`Kind::FailedPrecondition`] with the namespace in which a process is not.
pub fn check_namespaces(spec: &Spec, init: i32, all: &[i32]) -> Result<u32> {
    let own = namespace::differing(&format!("/proc/{init}"))?;
    let differs =
        |what: String| Error::new(Kind::FailedPrecondition, format!("linux.namespaces: the restored process {what}"));
    for namespace in namespace::listed(spec) {
        let kind = namespace.typ();
        match path_to_join(namespace) {
            None if namespace::flag(kind) & own == 0 => {
                return Err(differs(format!("has no {kind} namespace of its own")));
            }
            None => {}
            Some(path) => {
                let theirs = format!("/proc/{init}/ns/{}", namespace::file_name(kind));
                if inode(path)? != inode(Path::new(&theirs))? {
                    return Err(differs(format!("is not in the {kind} namespace {}", path.display())));
                }
            }
        }
    }
    if own & kind::USER != 0 {
        check_mappings(spec, init)?;
    }
    for pid in all.iter().filter(|pid| **pid != init) {
        // A process may have ended since.
        if namespace::differing(&format!("/proc/{pid}")).is_ok_and(|theirs| theirs & own != own) {
            let text = format!("the restored process {pid} is in a namespace of the host, and init is not");
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
    }
    Ok(own)
}

/// CRIU writes the mappings of a new user namespace as the images have them.
fn check_mappings(spec: &Spec, init: i32) -> Result<()> {
    let ids = Ids::from_spec(spec)?;
    if !ids.has_mappings() || user::of_process(init)?.ids.same_as(&ids) {
        return Ok(());
    }
    Err(Error::new(Kind::FailedPrecondition, "linux.uidMappings: the restored user namespace has other mappings"))
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    let found = stat(path).with_context(|| format!("stat {}", path.display()))?;
    Ok((found.st_dev, found.st_ino))
}

/// Makes the root read-only if config.json asks for that. CRIU binds the root, and leaves that flag out.
///
/// # Errors
/// As setns(2) and mount_setattr(2).
pub fn finish_root(spec: &Spec, init: i32) -> Result<()> {
    if spec.root().as_ref().and_then(Root::readonly) != Some(true) {
        return Ok(());
    }
    let namespace = namespace::open(Path::new(&format!("/proc/{init}/ns/mnt")), kind::MOUNT)?;
    sys::run_in_vfork_child(|| {
        // setns(2) enters the root of the namespace.
        setns(namespace.as_fd(), kind::MOUNT).context("join the mount namespace of the container")?;
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        mount_setattr(root.context("open /")?.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0).context("root.readonly")
    })?
}

/// Checks that the mounts of config.json have the flags that it gives them, and that its masked and read-only paths are.
///
/// # Errors
/// [`Kind::FailedPrecondition`] with the path.
pub fn check_mounts(spec: &Spec, init: i32) -> Result<()> {
    let place = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(place.as_str(), flags, Mode::empty()).with_context(|| format!("open {place}"))?;
    if spec.root().as_ref().and_then(Root::readonly) == Some(true) {
        require(root.as_fd(), StatVfsMountFlags::RDONLY, "root.readonly")?;
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (n, mount) in mounts.iter().enumerate() {
        // A later mount covers an earlier one at the same place.
        if mounts.iter().skip(n + 1).any(|later| later.destination() == mount.destination()) {
            continue;
        }
        let Some(there) = find(root.as_fd(), mount.destination())? else { continue };
        if mount.typ().as_deref() != Some("cgroup") {
            require(there.as_fd(), flags_of(mount)?, &mount.destination().display().to_string())?;
        }
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        if let Some(there) = find(root.as_fd(), Path::new(path))? {
            require(there.as_fd(), StatVfsMountFlags::RDONLY, path)?;
        }
    }
    for path in linux.masked_paths().iter().flatten() {
        let Some(there) = find(root.as_fd(), Path::new(path))? else { continue };
        if !is_mask(there.as_fd())? {
            return Err(weaker(path, "is not masked"));
        }
    }
    Ok(())
}

/// Returns the flags that the options of a mount give it. The bits of mount_setattr(2) are those of statvfs(3).
fn flags_of(mount: &Mount) -> Result<StatVfsMountFlags> {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let compared = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    Ok(StatVfsMountFlags::from_bits_truncate((options.set | options.set_recursive) & compared))
}

/// Opens a path inside the root. `None` if nothing is there.
fn find(root: BorrowedFd<'_>, at: &Path) -> Result<Option<OwnedFd>> {
    let arena = Arena::default();
    match path::open(root, arena.path(at, "path")?, OFlags::PATH) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("open {} in the restored container", at.display())),
    }
}

fn require(there: BorrowedFd<'_>, wanted: StatVfsMountFlags, what: &str) -> Result<()> {
    let missing = wanted.difference(fstatvfs(there).with_context(|| format!("statvfs {what}"))?.f_flag);
    if missing.is_empty() { Ok(()) } else { Err(weaker(what, &format!("is mounted without {missing:?}"))) }
}

/// A mask is the null device on a file, and an empty read-only tmpfs on a directory.
fn is_mask(there: BorrowedFd<'_>) -> Result<bool> {
    let found = fstat(there).context("stat a masked path")?;
    let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice {
        return Ok((major, minor) == (1, 3));
    }
    let read_only = fstatvfs(there).context("statvfs a masked path")?.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(read_only && fstatfs(there).context("statfs a masked path")?.f_type == TMPFS)
}

fn weaker(path: &str, how: &str) -> Error {
    Error::new(Kind::FailedPrecondition, format!("the images give more than config.json: {path} {how}"))
}
