//! Plans mounts: turns `mounts` of config.json into the list that the child attaches.
//!
//! The runtime clones the source of a bind mount detached and sets its attributes. So the source is checked before the
//! clone, and no process ever sees the mount with wrong attributes. File systems that belong to a namespace of the
//! container (proc, sysfs, mqueue, devpts, cgroup) must be created inside it, so the child creates them.

mod bind;
mod cgroupfs;
mod copyup;
pub mod device;
pub mod external;
mod idmap;
mod idmap_options;
mod options;
mod within;

use std::{
    cell::Cell,
    ffi::CStr,
    path::{Component, Path, PathBuf},
};

use berth_init::{
    defence::Defence,
    plan::{Device, FsOption, Mount, Source},
};
use oci_spec::runtime::Mount as Spec;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

pub use idmap::{MountAccess, clone_mapped, map_inside};
pub use idmap_options::{translate as translate_idmaps, translate_list as translate_idmaps_of};
pub use options::{Options, Submounts, attr, known as known_options};
pub use within::covers;

use crate::{Context, Error, Result, arena::Arena, cgroup::Cgroup, namespace::UserNamespace};
use idmap::IdMaps;

/// The facts about a container that its mounts need.
pub struct MountContext<'s, 'a> {
    /// The bundle directory, against which relative sources are resolved.
    pub bundle: &'s Path,
    /// Propagation of the container's tree, as `MS_*`. Bind mounts start with it.
    pub host_propagation: u64,
    /// The container's cgroup, for mounts of type `cgroup`.
    pub cgroup: &'s Cgroup,
    /// The container has a cgroup namespace of its own, so a cgroup mount shows only its part of the hierarchy.
    pub cgroup_namespace: bool,
    /// The container's user namespace.
    pub users: &'s UserNamespace<'s>,
    /// The container has a user namespace of its own.
    pub user_namespace: bool,
    /// SELinux context of the file systems that the container mounts (`linux.mountLabel`).
    pub label: Option<&'a CStr>,
    /// The root file system, from which `tmpcopyup` copies.
    pub root: BorrowedFd<'s>,
    /// The absolute path of the root file system on the host.
    pub rootfs: &'s Path,
    /// A pid namespace that the container joins. A new procfs must show it, although the mounting process enters it
    /// last.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// `linux.resources.memory.limit` in bytes.
    pub memory: Option<u64>,
    /// A detached tmpfs with the device nodes, which replaces the tmpfs mount at `/dev`.
    pub dev: Option<OwnedFd>,
}

/// The mounts in order, and a description of each for error messages. Both lists have the same length.
pub struct Mounts<'a> {
    /// The child's list.
    pub list: &'a [Mount<'a>],
    /// Descriptions such as `"proc" to rootfs at "/proc"`.
    pub names: Vec<String>,
}

/// Plans the mounts of a config.json, and bind mounts of `devices` from the host.
///
/// # Errors
/// Names the mount as runc does: `error mounting "src" to rootfs at "/dst": …`.
pub fn plan<'a>(
    arena: &'a Arena,
    mounts: &[Spec],
    devices: &[Device<'a>],
    mut context: MountContext<'_, 'a>,
) -> Result<Mounts<'a>> {
    let list = Vec::with_capacity(mounts.len());
    let mut builder =
        Builder { arena, list, names: Vec::new(), targets: Vec::new(), idmaps: IdMaps::new(context.users) };
    for (n, mount) in mounts.iter().enumerate() {
        let target = clean(mount.destination());
        let target = path_in_rootfs(&target, context.rootfs).unwrap_or(target);
        let name = describe(mount, &target);
        let options = Options::parse(mount.options().as_deref().unwrap_or_default())
            .with_context(|| format!("error mounting {name}"))?;
        let is_dev = target == Path::new("/dev") && options.bind.is_none() && fstype(mount) == "tmpfs";
        let dev = if is_dev { context.dev.take() } else { None };
        builder.plan_mount(mount, &target, &name, options, dev, &context).map_err(|e| {
            let out_of_fds = e.errno() == Some(libc::EMFILE);
            let e = e.context(format!("error mounting {name}"));
            if out_of_fds {
                e.context(format!("mounts[{n}]: too many mounts for the limit of open files (RLIMIT_NOFILE)"))
            } else {
                e
            }
        })?;
        builder.targets.push(target);
    }
    for device in devices {
        builder
            .bind_device(device)
            .with_context(|| format!("error creating device node {}", device.path.to_string_lossy()))?;
    }
    Ok(Mounts { list: arena.list(builder.list), names: builder.names })
}

/// Returns true if the runtime must create the device nodes, because no mount binds a host directory at `/dev`.
pub fn needs_devices(mounts: &[Spec]) -> bool {
    !mounts.iter().any(|m| {
        let options = m.options().as_deref().unwrap_or_default();
        clean(m.destination()) == Path::new("/dev")
            && (fstype(m) == "bind" || options.iter().any(|o| o == "bind" || o == "rbind"))
    })
}

/// Returns the tmpfs mount at `/dev`, if there is one.
pub fn dev_tmpfs(mounts: &[Spec]) -> Option<&Spec> {
    mounts.iter().find(|m| {
        let options = m.options().as_deref().unwrap_or_default();
        clean(m.destination()) == Path::new("/dev")
            && fstype(m) == "tmpfs"
            && !options.iter().any(|o| o == "bind" || o == "rbind")
    })
}

/// Returns `path` as an absolute path without `.`, `..` and doubled slashes. A `..` at the root stays there.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// Returns [`clean`] of `path`, or the absolute path unchanged if it contains `..`. The component before `..` may be a
/// symbolic link, so only the kernel can resolve it.
pub fn clean_unless_dotdot(path: &Path) -> PathBuf {
    if path.components().any(|part| part == Component::ParentDir) { Path::new("/").join(path) } else { clean(path) }
}

/// Turns a path of the host into a path inside the root file system. Returns `None` if it lies outside.
fn path_in_rootfs(path: &Path, rootfs: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix(rootfs).ok().filter(|_| rootfs != Path::new("/"))?;
    Some(Path::new("/").join(inside))
}

fn fstype(mount: &Spec) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

/// Returns true for the mount options that ask for id mapping.
pub fn is_idmap(option: &str) -> bool {
    matches!(option, "idmap" | "ridmap")
}

/// Returns true if the mount is a cgroup file system.
pub fn is_cgroup(mount: &Spec) -> bool {
    matches!(fstype(mount), "cgroup" | "cgroup2")
}

fn describe(mount: &Spec, target: &Path) -> String {
    let source = mount.source().as_deref().map_or_else(|| fstype(mount).into(), Path::to_string_lossy);
    format!("\"{source}\" to rootfs at \"{}\"", target.display())
}

/// Returns the options of a file system for fsconfig(2): superblock options, then `data`, then the SELinux context
/// `label` and the name that mountinfo shows as the source.
pub fn fs_options<'a>(
    arena: &'a Arena,
    options: &Options,
    source: &str,
    label: Option<&'a CStr>,
) -> Result<Vec<FsOption<'a>>> {
    let mut out = Vec::new();
    for option in &options.superblock {
        out.push(match *option {
            // ext4 and others call it `i_version`. A file system without this option always or never has the
            // counter.
            "iversion" => FsOption::Optional(c"i_version"),
            option => FsOption::Flag(arena.text(option, "mounts.options")?),
        });
    }
    // A SELinux context contains commas. mount(8) therefore requires quotes around it.
    let is_context = |option: &&String| CONTEXTS.iter().any(|key| option.starts_with(key));
    let (contexts, others): (Vec<_>, Vec<_>) = options.data.iter().partition(is_context);
    for option in
        contexts.iter().map(|o| o.as_str()).chain(others.iter().flat_map(|o| o.split(','))).filter(|o| !o.is_empty())
    {
        out.push(match option.split_once('=') {
            Some((key, value)) => {
                let value = if CONTEXTS.iter().any(|c| c.trim_end_matches('=') == key) {
                    value.trim_matches('"')
                } else {
                    value
                };
                FsOption::Pair(arena.text(key, "mounts.options")?, arena.text(value, "mounts.options")?)
            }
            None => FsOption::Flag(arena.text(option, "mounts.options")?),
        });
    }
    if let Some(label) = label.filter(|_| contexts.is_empty()) {
        out.push(FsOption::Pair(c"context", label));
    }
    out.push(FsOption::Pair(c"source", arena.text(source, "mounts.source")?));
    Ok(out)
}

/// True if the options set the mode of a tmpfs's root.
fn has_mode(options: &[FsOption<'_>]) -> bool {
    options.iter().any(|option| matches!(option, FsOption::Pair(key, _) if *key == c"mode"))
}

/// Options of mount(8) that set an SELinux context.
const CONTEXTS: [&str; 4] = ["context=", "fscontext=", "defcontext=", "rootcontext="];

/// Returns true if a mount of the file system may name a context. proc, sysfs and cgroup have one superblock for all
/// mounts of a namespace, which keeps the context of the first mount. The kernel itself labels mqueue.
fn accepts_context(fstype: &str) -> bool {
    !matches!(fstype, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2")
}

/// Returns the options of the empty tmpfs that masks directories (`linux.maskedPaths`).
pub fn mask_options<'a>(arena: &'a Arena, label: Option<&'a CStr>) -> &'a [FsOption<'a>] {
    let mut options =
        vec![FsOption::Flag(c"ro"), FsOption::Pair(c"nr_blocks", c"1"), FsOption::Pair(c"nr_inodes", c"1")];
    options.extend(label.map(|label| FsOption::Pair(c"context", label)));
    arena.list(options)
}

struct Builder<'a, 's> {
    arena: &'a Arena,
    list: Vec<Mount<'a>>,
    names: Vec<String>,
    /// Targets of the mounts that are planned so far.
    targets: Vec<PathBuf>,
    idmaps: IdMaps<'s>,
}

impl<'a> Builder<'a, '_> {
    fn push(&mut self, target: &'a CStr, source: Source<'a>, propagation: &'a [u64], name: &str) {
        let (plain_directory, onto_link, reclone, readonly_at_end) = (false, false, false, false);
        let (kept, attached) = (Cell::default(), Cell::default());
        self.list.push(Mount {
            target,
            source,
            plain_directory,
            onto_link,
            propagation,
            reclone,
            readonly_at_end,
            kept,
            attached,
        });
        self.names.push(name.to_owned());
    }

    fn plan_mount(
        &mut self,
        mount: &Spec,
        target: &Path,
        name: &str,
        mut options: Options,
        dev: Option<OwnedFd>,
        context: &MountContext<'_, 'a>,
    ) -> Result<()> {
        if target == Path::new("/") {
            return Err(Error::invalid("mounting into / is prohibited"));
        }
        let arena = self.arena;
        let c_target = arena.path(target, "mounts.destination")?;
        let propagation = arena.list(options.propagation.clone());
        if let Some(fd) = dev {
            self.push_filled(c_target, arena.fd(fd), propagation, name, options.take_readonly());
            return Ok(());
        }
        let kind = fstype(mount);
        if options.remount {
            let of = within::at(&self.list, target);
            self.push(c_target, remount(arena, mount, &options, of)?, propagation, name);
            return Ok(());
        }
        if options.copy_up && kind != "tmpfs" {
            return Err(Error::invalid("tmpcopyup: the mount is not a tmpfs"));
        }
        if options.bind.is_some() || kind == "bind" {
            return self.bind(mount, target, name, &options, context);
        }
        check_proc_target(target, kind == "proc")?;
        if kind.is_empty() {
            return Err(Error::invalid("type: must be specified unless the mount is a bind mount"));
        }
        if kind == "cgroup" {
            return cgroupfs::plan(self, c_target, name, &options, context);
        }
        let source = mount.source().as_deref().map_or(kind.into(), Path::to_string_lossy);
        // The tmpfs becomes read-only last, because targets of later mounts are created in it.
        let readonly_at_end = kind == "tmpfs" && options.take_readonly();
        if options.copy_up {
            let tree = self.copy_up(&options, target, &source, context)?;
            self.push_filled(c_target, arena.fd(tree), propagation, name, readonly_at_end);
            return Ok(());
        }
        let mut settings = fs_options(arena, &options, &source, context.label.filter(|_| accepts_context(kind)))?;
        if let Some(namespace) = context.pid_namespace.filter(|_| kind == "proc") {
            settings.insert(0, FsOption::PidNamespace(namespace));
        }
        let source = Source::Fs {
            fstype: arena.text(kind, "mounts.type")?,
            target_mode: kind == "tmpfs" && !has_mode(&settings),
            options: arena.list(settings),
            attributes: attributes(&options)?,
            relabel: context.label.filter(|_| kind == "mqueue"),
        };
        self.push(c_target, source, propagation, name);
        if let Some(last) = self.list.last_mut() {
            last.plain_directory = matches!(kind, "proc" | "sysfs");
            last.readonly_at_end = readonly_at_end;
        }
        Ok(())
    }

    /// Adds a file system that this process has created and filled.
    fn push_filled(
        &mut self,
        target: &'a CStr,
        fd: BorrowedFd<'a>,
        propagation: &'a [u64],
        name: &str,
        readonly_at_end: bool,
    ) {
        self.push(target, Source::Tree { fd, directory: true }, propagation, name);
        if let Some(last) = self.list.last_mut() {
            (last.reclone, last.readonly_at_end) = (true, readonly_at_end);
        }
    }
}

/// Returns the source that changes the flags of a mount that is there: that of the plan with index `of`, or another.
fn remount<'a>(arena: &'a Arena, mount: &Spec, options: &Options, of: Option<usize>) -> Result<Source<'a>> {
    if options.set_recursive | options.clear_recursive != 0 {
        return Err(Error::unsupported("recursive mount options (rro and the like) with remount"));
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Error::invalid("uidMappings: not with remount"));
    }
    let data = arena.text(options.data.join(","), "mounts.options")?;
    Ok(Source::Remount { of, flags: options.ms_flags(), data })
}

fn attributes(options: &Options) -> Result<u32> {
    u32::try_from(options.set | options.set_recursive).map_err(|_| Error::invalid("options: out of range"))
}

/// Clones the mount at `path` as a detached mount (open_tree(2)).
///
/// # Errors
/// Names the path.
pub fn clone_tree(path: &Path, submounts: Submounts) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if submounts.included() {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).with_context(|| format!("open_tree {}", path.display()))
}

/// Clones the mount of an open file, with the file as its root, as a detached mount.
pub fn clone_file(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(file, "", flags).context("open_tree")
}

/// Returns `linux.rootfsPropagation` as a flag of mount(2). The flag always applies to the whole root, with or without
/// `r` in front.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] for an unknown word.
pub fn root_propagation(word: Option<&str>) -> Result<Option<u64>> {
    match word.unwrap_or_default() {
        "" => Ok(None),
        "private" | "rprivate" => Ok(Some(libc::MS_PRIVATE)),
        "slave" | "rslave" => Ok(Some(libc::MS_SLAVE)),
        "shared" | "rshared" => Ok(Some(libc::MS_SHARED)),
        "unbindable" | "runbindable" => Ok(Some(libc::MS_UNBINDABLE)),
        other => Err(Error::invalid(format!("linux.rootfsPropagation: {other:?} is not valid"))),
    }
}

/// Sets the propagation of `tree`, a detached clone of host mounts.
///
/// If it is to be shared, `before` is set first: `MS_PRIVATE` leaves the host's peer group, `MS_SLAVE` keeps receiving
/// its events.
pub fn set_propagation(tree: &OwnedFd, propagation: u64, before: Option<u64>) -> rustix::io::Result<()> {
    use berth_init::sys::mount_setattr;
    if propagation == libc::MS_SHARED
        && let Some(before) = before
    {
        mount_setattr(tree.as_fd(), true, 0, 0, before)?;
    }
    mount_setattr(tree.as_fd(), true, 0, 0, propagation)
}

/// Files of /proc that lxcfs and similar services may cover; runc has the same list.
const COVERABLE_PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Refuses a mount at /proc that is not procfs, and any mount inside /proc except those of [`COVERABLE_PROC_FILES`].
/// Writes of the runtime below /proc must reach the kernel (CVE-2019-16884).
fn check_proc_target(target: &Path, procfs: bool) -> Result<()> {
    let proc = Path::new("/proc");
    if !target.starts_with(proc) || target == proc && procfs || !Defence::NoMountInProc.stands() {
        return Ok(());
    }
    if COVERABLE_PROC_FILES.iter().any(|allowed| target == Path::new(allowed)) || procfs {
        return Ok(());
    }
    let target = target.display();
    Err(Error::invalid(format!("\"{target}\" cannot be mounted because it is inside /proc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_keeps_paths_below_the_root() {
        for (path, clean_path) in
            [("/a//b/./c", "/a/b/c"), ("a", "/a"), ("/../../etc", "/etc"), ("/a/../b", "/b"), ("/", "/"), ("", "/")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(clean_path));
        }
    }

    #[test]
    fn only_procfs_may_be_mounted_at_proc() {
        assert!(check_proc_target(Path::new("/proc"), true).is_ok());
        assert!(check_proc_target(Path::new("/proc"), false).is_err());
        assert!(check_proc_target(Path::new("/proc/self/attr"), false).is_err());
        assert!(check_proc_target(Path::new("/proc/meminfo"), false).is_ok());
        assert!(check_proc_target(Path::new("/procfs"), false).is_ok());
    }
}
