//! Mounts: from config.json to what the child attaches.
//!
//! A bind mount's source is cloned here, detached, with its attributes set: the source is checked before there is a
//! process, and nothing is ever visible with the wrong attributes. File systems that belong to one of the container's
//! namespaces (proc, sysfs, mqueue, devpts, cgroup) are the child's to create.

mod bind;
mod cgroupfs;
mod copyup;
mod idmap;
mod idmap_words;
mod options;

use std::{
    cell::Cell,
    ffi::CStr,
    path::{Component, Path, PathBuf},
};

use berth_init::plan::{Device, FsOption, Mount, Source};
use oci_spec::runtime::Mount as Spec;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

pub use idmap::{clone_mapped, map_inside};
pub use idmap_words::{translate as translate_idmaps, translate_list as translate_idmaps_of};
pub use options::{Options, attr, known as known_options};

use crate::{Context, Error, Result, arena::Arena, cgroup::Cgroup, namespace::Users};
use idmap::IdMaps;

/// What the mounts of one container have in common.
pub struct Scene<'s, 'a> {
    /// The bundle: relative sources start here.
    pub bundle: &'s Path,
    /// `MS_*` of the whole tree; bind mounts start with it, as they would in a tree that has it.
    pub host_propagation: u64,
    /// The container's cgroup, for mounts of type cgroup.
    pub cgroup: &'s Cgroup,
    /// There is a cgroup namespace, so that a cgroup file system shows the container's part only.
    pub cgroup_namespace: bool,
    /// The container's user namespace.
    pub users: &'s Users<'s>,
    /// It has one of its own.
    pub user_namespace: bool,
    /// SELinux context of the file systems that are the container's own.
    pub label: Option<&'a CStr>,
    /// The root file system, for what a tmpfs begins with.
    pub root: BorrowedFd<'s>,
    /// Its absolute path.
    pub rootfs: &'s Path,
    /// A pid namespace that is joined: a procfs shows it, and not that of its maker, who enters it last.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// The container's limit of memory, bytes.
    pub memory: Option<u64>,
    /// A detached tmpfs with the devices, to stand for the mount of a tmpfs at /dev.
    pub dev: Option<OwnedFd>,
}

/// What is to be mounted, in order, with the words for errors: index by index the same length.
pub struct Mounts<'a> {
    /// For the child.
    pub list: &'a [Mount<'a>],
    /// `"proc" to rootfs at "/proc"`.
    pub names: Vec<String>,
}

/// Translates the mounts of a config.json, and `devices` that have to be bound from the host.
///
/// # Errors
/// Names the mount as runc does: `error mounting "src" to rootfs at "/dst": …`.
pub fn plan<'a>(
    arena: &'a Arena,
    mounts: &[Spec],
    devices: &[Device<'a>],
    mut scene: Scene<'_, 'a>,
) -> Result<Mounts<'a>> {
    let list = Vec::with_capacity(mounts.len());
    let mut builder = Builder { arena, list, names: Vec::new(), targets: Vec::new(), idmaps: IdMaps::new(scene.users) };
    for (n, mount) in mounts.iter().enumerate() {
        let target = clean(mount.destination());
        let target = in_root(&target, scene.rootfs).unwrap_or(target);
        let name = name(mount, &target);
        let options = Options::parse(mount.options().as_deref().unwrap_or_default())
            .with_context(|| format!("error mounting {name}"))?;
        let is_dev = target == Path::new("/dev") && options.bind.is_none() && fstype(mount) == "tmpfs";
        let dev = if is_dev { scene.dev.take() } else { None };
        builder.one(mount, &target, &name, options, dev, &scene).map_err(|e| {
            let of_many = e.errno() == Some(libc::EMFILE);
            let e = e.context(format!("error mounting {name}"));
            if of_many {
                e.context(format!("mounts[{n}]: more than there may be open files (RLIMIT_NOFILE)"))
            } else {
                e
            }
        })?;
        builder.targets.push(target);
    }
    for device in devices {
        builder
            .device(device)
            .with_context(|| format!("error creating device node {}", device.path.to_string_lossy()))?;
    }
    Ok(Mounts { list: arena.list(builder.list), names: builder.names })
}

/// True when the child or the parent has to provide `/dev`'s devices: nothing of the host's is bound there.
pub fn needs_devices(mounts: &[Spec]) -> bool {
    !mounts.iter().any(|m| {
        let options = m.options().as_deref().unwrap_or_default();
        clean(m.destination()) == Path::new("/dev")
            && (fstype(m) == "bind" || options.iter().any(|o| o == "bind" || o == "rbind"))
    })
}

/// The options of the tmpfs at /dev, if there is one.
pub fn dev_tmpfs(mounts: &[Spec]) -> Option<&Spec> {
    mounts.iter().find(|m| {
        let options = m.options().as_deref().unwrap_or_default();
        clean(m.destination()) == Path::new("/dev")
            && fstype(m) == "tmpfs"
            && !options.iter().any(|o| o == "bind" || o == "rbind")
    })
}

/// An absolute path without `.`, `..` above the root, or doubled slashes.
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

/// As [`clean`], unless there is a `..` in it: where that leads only the file system knows, which may have a link before it.
pub fn tidy(path: &Path) -> PathBuf {
    if path.components().any(|part| part == Component::ParentDir) { Path::new("/").join(path) } else { clean(path) }
}

/// Where in the root file system a path is that was given as the host sees it.
fn in_root(path: &Path, rootfs: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix(rootfs).ok().filter(|_| rootfs != Path::new("/"))?;
    Some(Path::new("/").join(inside))
}

fn fstype(mount: &Spec) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

/// Words of mount options that map ids.
pub fn is_idmap(word: &str) -> bool {
    matches!(word, "idmap" | "ridmap")
}

/// A cgroup file system.
pub fn is_cgroup(mount: &Spec) -> bool {
    matches!(fstype(mount), "cgroup" | "cgroup2")
}

fn name(mount: &Spec, target: &Path) -> String {
    let source = mount.source().as_deref().map_or_else(|| fstype(mount).into(), Path::to_string_lossy);
    format!("\"{source}\" to rootfs at \"{}\"", target.display())
}

/// Options of a file system, for fsconfig(2): superblock words, then data, then the SELinux context of all that is in it
/// and the name that mountinfo shows.
pub fn fs_options<'a>(
    arena: &'a Arena,
    options: &Options,
    source: &str,
    label: Option<&'a CStr>,
) -> Result<Vec<FsOption<'a>>> {
    let mut out = Vec::new();
    for word in &options.superblock {
        out.push(match *word {
            // ext4 has it by that name; what has not, has the counter always or never.
            "iversion" => FsOption::Hint(c"i_version"),
            word => FsOption::Flag(arena.text(word, "mounts.options")?),
        });
    }
    // A context has commas of its own, for which mount(8) wants it in quotes.
    let is_context = |word: &&String| CONTEXTS.iter().any(|key| word.starts_with(key));
    let (contexts, words): (Vec<_>, Vec<_>) = options.data.iter().partition(is_context);
    for word in
        contexts.iter().map(|w| w.as_str()).chain(words.iter().flat_map(|w| w.split(','))).filter(|w| !w.is_empty())
    {
        out.push(match word.split_once('=') {
            Some((key, value)) => {
                let value = if CONTEXTS.iter().any(|c| c.trim_end_matches('=') == key) {
                    value.trim_matches('"')
                } else {
                    value
                };
                FsOption::Pair(arena.text(key, "mounts.options")?, arena.text(value, "mounts.options")?)
            }
            None => FsOption::Flag(arena.text(word, "mounts.options")?),
        });
    }
    if let Some(label) = label.filter(|_| contexts.is_empty()) {
        out.push(FsOption::Pair(c"context", label));
    }
    out.push(FsOption::Pair(c"source", arena.text(source, "mounts.source")?));
    Ok(out)
}

/// SELinux contexts among the options of a file system (mount(8)).
const CONTEXTS: [&str; 4] = ["context=", "fscontext=", "defcontext=", "rootcontext="];

/// The file system takes a context for what is in it. There is one proc, one sysfs, one cgroup file system for all who
/// see the same of it, with the context that the first mount gave it; mqueue has it from the kernel itself.
fn takes_label(fstype: &str) -> bool {
    !matches!(fstype, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2")
}

/// Options of the tmpfs that hides directories.
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
    /// Where something has been put by now.
    targets: Vec<PathBuf>,
    idmaps: IdMaps<'s>,
}

impl<'a> Builder<'a, '_> {
    fn push(&mut self, target: &'a CStr, source: Source<'a>, propagation: &'a [u64], name: &str) {
        let (ordinary, on_link, renewed, sealed) = (false, false, false, false);
        let open = Cell::default();
        self.list.push(Mount { target, source, ordinary, on_link, propagation, renewed, sealed, open });
        self.names.push(name.to_owned());
    }

    fn one(
        &mut self,
        mount: &Spec,
        target: &Path,
        name: &str,
        mut options: Options,
        dev: Option<OwnedFd>,
        scene: &Scene<'_, 'a>,
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
            if options.set_all | options.clear_all != 0 {
                return Err(Error::unsupported("mount options of a whole tree (rro and the like) with remount"));
            }
            if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
                return Err(Error::invalid("uidMappings: not with remount"));
            }
            let data = arena.text(options.data.join(","), "mounts.options")?;
            self.push(c_target, Source::Remount { flags: options.classic(), data }, propagation, name);
            return Ok(());
        }
        if options.copy_up && kind != "tmpfs" {
            return Err(Error::invalid("tmpcopyup: the mount is not a tmpfs"));
        }
        if options.bind.is_some() || kind == "bind" {
            return self.bind(mount, target, name, &options, scene);
        }
        inside_proc(target, kind == "proc")?;
        match kind {
            "" => return Err(Error::invalid("type: must be specified unless the mount is a bind mount")),
            "cgroup" => return cgroupfs::plan(self, c_target, name, &options, scene),
            _ => {}
        }
        let source = mount.source().as_deref().map_or(kind.into(), Path::to_string_lossy);
        // Targets of other mounts are made in it.
        let sealed = kind == "tmpfs" && options.take_readonly();
        if options.copy_up {
            let tree = self.copied_up(&options, target, &source, scene)?;
            self.push_filled(c_target, arena.fd(tree), propagation, name, sealed);
            return Ok(());
        }
        let mut settings = fs_options(arena, &options, &source, scene.label.filter(|_| takes_label(kind)))?;
        if let Some(namespace) = scene.pid_namespace.filter(|_| kind == "proc") {
            settings.insert(0, FsOption::PidNamespace(namespace));
        }
        let source = Source::Fs {
            fstype: arena.text(kind, "mounts.type")?,
            options: arena.list(settings),
            attributes: attributes(&options)?,
            relabel: scene.label.filter(|_| kind == "mqueue"),
        };
        self.push(c_target, source, propagation, name);
        if let Some(last) = self.list.last_mut() {
            last.ordinary = matches!(kind, "proc" | "sysfs");
            last.sealed = sealed;
        }
        Ok(())
    }

    /// A file system that this process has made and filled.
    fn push_filled(&mut self, target: &'a CStr, fd: BorrowedFd<'a>, propagation: &'a [u64], name: &str, sealed: bool) {
        self.push(target, Source::Tree { fd, directory: true }, propagation, name);
        if let Some(last) = self.list.last_mut() {
            (last.renewed, last.sealed) = (true, sealed);
        }
    }
}

fn attributes(options: &Options) -> Result<u32> {
    u32::try_from(options.set | options.set_all).map_err(|_| Error::invalid("options: out of range"))
}

/// A detached clone of the mount at `path`.
pub fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).with_context(|| format!("open_tree {}", path.display()))
}

/// `linux.rootfsPropagation` as a flag of mount(2); recursive or not, it is the whole root.
///
/// # Errors
/// Another word.
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

/// The propagation of a clone of the host's. One that is to be shared is first given `before`, if anything, which says what
/// it keeps of the host's peer group.
pub fn set_propagation(tree: &OwnedFd, propagation: u64, before: Option<u64>) -> rustix::io::Result<()> {
    use berth_init::sys::mount_setattr;
    if propagation == libc::MS_SHARED
        && let Some(before) = before
    {
        mount_setattr(tree.as_fd(), true, 0, 0, before)?;
    }
    mount_setattr(tree.as_fd(), true, 0, 0, propagation)
}

/// Files of /proc that lxcfs and its kind may cover.
const PROC_COVERS: [&str; 10] = [
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

/// Nothing but a procfs may stand at /proc, and next to nothing inside it: what the runtime and others write there
/// must reach the kernel (CVE-2019-16884).
fn inside_proc(target: &Path, procfs: bool) -> Result<()> {
    let proc = Path::new("/proc");
    if !target.starts_with(proc) || target == proc && procfs {
        return Ok(());
    }
    if PROC_COVERS.iter().any(|allowed| target == Path::new(allowed)) || procfs {
        return Ok(());
    }
    let target = target.display();
    Err(Error::invalid(format!("\"{target}\" cannot be mounted because it is inside /proc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_below_the_root() {
        for (path, clean_path) in
            [("/a//b/./c", "/a/b/c"), ("a", "/a"), ("/../../etc", "/etc"), ("/a/../b", "/b"), ("/", "/"), ("", "/")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(clean_path));
        }
    }

    #[test]
    fn proc_is_for_procfs() {
        assert!(inside_proc(Path::new("/proc"), true).is_ok());
        assert!(inside_proc(Path::new("/proc"), false).is_err());
        assert!(inside_proc(Path::new("/proc/self/attr"), false).is_err());
        assert!(inside_proc(Path::new("/proc/meminfo"), false).is_ok());
        assert!(inside_proc(Path::new("/procfs"), false).is_ok());
    }
}
