//! Mounts of type `cgroup`: one cgroup2 file system on a cgroup v2 host, a directory of hierarchies on a v1 host.

use std::{ffi::CStr, path::Path};

use berth_init::{
    defence::Defence,
    plan::{FsOption, Source},
};

use super::{Builder, MountContext, Options, Submounts, attr, bind::set_attributes, clone_tree};
use crate::{Context, Result, arena::Arena, cgroup};

/// Attributes of all cgroup mounts; runc and crun set the same.
const FLAGS: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Adds the mounts that show the container's cgroups at `target`.
pub(super) fn plan<'a>(
    builder: &mut Builder<'a, '_>,
    target: &CStr,
    name: &str,
    options: &Options,
    context: &MountContext<'_, 'a>,
) -> Result<()> {
    let host = cgroup::host()?;
    // Without a cgroup namespace the mount shows the host's hierarchy. Root of a user namespace may own files there and
    // must not write to them (CVE-2023-25809).
    let foreign = context.user_namespace && !context.cgroup_namespace;
    let readonly = if foreign && Defence::CgroupReadonly.stands() { attr::RDONLY } else { 0 };
    let target = target.to_str().map_err(|_| crate::Error::invalid("destination: not UTF-8"))?;
    if host.unified() {
        unified(builder, host, target, name, options, context, readonly)
    } else {
        let readonly = readonly | options.set & attr::RDONLY;
        hierarchies(builder, host, target, name, options, context, readonly)
    }
}

fn unified<'a>(
    builder: &mut Builder<'a, '_>,
    host: &cgroup::Host,
    target: &str,
    name: &str,
    options: &Options,
    context: &MountContext<'_, 'a>,
    readonly: u64,
) -> Result<()> {
    let arena = builder.arena;
    // With the systemd driver the container's cgroup does not exist yet. Then the whole hierarchy is bound; a new mount
    // would show the same.
    let own = context.cgroup.path_in("").filter(|_| context.cgroup.exists_before_init());
    let whole = host.mounts().iter().find(|m| m.is_v2()).map(|m| m.point.as_path());
    let source = if readonly != 0
        && let Some(path) = own.or(whole)
    {
        // The kernel refuses a user namespace a new mount of the host's cgroup namespace, so this is a bind mount.
        let tree = clone_tree(path, Submounts::Exclude)?;
        let bind = Options { bind: Some(Submounts::Exclude), set: FLAGS | readonly, ..Options::default() };
        set_attributes(&tree, &bind, context).context("mount_setattr")?;
        Source::Tree { fd: arena.fd(tree), directory: true }
    } else {
        let mut fs = vec![FsOption::Pair(c"source", c"cgroup")];
        for option in &options.data {
            fs.push(FsOption::Flag(arena.text(option, "mounts.options")?));
        }
        let attributes = super::attributes(options)? | u32::try_from(readonly).unwrap_or_default();
        Source::Fs { fstype: c"cgroup2", options: arena.list(fs), attributes, relabel: None, target_mode: false }
    };
    let propagation = arena.list(options.propagation.clone());
    builder.push(arena.text(target, "mounts.destination")?, source, propagation, name);
    Ok(())
}

/// Adds a tmpfs with one directory per v1 hierarchy, and a symbolic link for each controller of a merged hierarchy.
///
/// With a cgroup namespace each hierarchy is a new mount, which the kernel roots at the container's cgroup. Without one
/// it is a bind mount of that cgroup.
fn hierarchies<'a>(
    builder: &mut Builder<'a, '_>,
    host: &cgroup::Host,
    target: &str,
    name: &str,
    options: &Options,
    context: &MountContext<'_, 'a>,
    readonly: u64,
) -> Result<()> {
    let arena = builder.arena;
    let place =
        |below: &str| arena.text(Path::new(target).join(below).as_os_str().as_encoded_bytes(), "mounts.destination");
    let narrow = |bits: u64| u32::try_from(bits).map_err(|_| crate::Error::invalid("options: out of range"));

    let mut fs = vec![FsOption::Pair(c"mode", c"755"), FsOption::Pair(c"source", c"tmpfs")];
    fs.extend(context.label.map(|label| FsOption::Pair(c"context", label)));
    let (fs, attributes) = (arena.list(fs), narrow(FLAGS)?);
    let tmpfs = Source::Fs { fstype: c"tmpfs", options: fs, attributes, relabel: None, target_mode: false };
    builder.push(place("")?, tmpfs, arena.list(options.propagation.clone()), name);
    if let Some(last) = builder.list.last_mut() {
        last.readonly_at_end = readonly != 0;
    }
    for mount in host.mounts().iter().filter(|m| !m.is_v2()) {
        let Some(dir) = mount.point.file_name().and_then(|n| n.to_str()) else { continue };
        let flags = FLAGS | readonly;
        let source = if context.cgroup_namespace {
            Some(new_hierarchy(arena, mount, narrow(flags)?)?)
        } else {
            bound_hierarchy(arena, mount, flags, context)?
        };
        let Some(source) = source else { continue };
        builder.push(place(dir)?, source, &[], name);
        if mount.controllers.len() > 1 {
            for controller in &mount.controllers {
                let link = Source::Link { to: arena.text(dir, "mounts")? };
                builder.push(place(controller)?, link, &[], name);
            }
        }
    }
    Ok(())
}

/// Returns a new mount of a v1 hierarchy.
fn new_hierarchy<'a>(arena: &'a Arena, mount: &cgroup::Mount, attributes: u32) -> Result<Source<'a>> {
    let mut fs = Vec::new();
    for controller in &mount.controllers {
        match controller.split_once('=') {
            // `name=systemd`: a named hierarchy has no controller.
            Some((key, value)) => {
                fs.push(FsOption::Flag(c"none"));
                fs.push(FsOption::Pair(arena.text(key, "mounts")?, arena.text(value, "mounts")?));
            }
            None => fs.push(FsOption::Flag(arena.text(controller, "mounts")?)),
        }
    }
    fs.push(FsOption::Pair(c"source", c"cgroup"));
    Ok(Source::Fs { fstype: c"cgroup", options: arena.list(fs), attributes, relabel: None, target_mode: false })
}

/// Returns a bind mount of the container's cgroup in a v1 hierarchy, if it has one there.
fn bound_hierarchy<'a>(
    arena: &'a Arena,
    mount: &cgroup::Mount,
    flags: u64,
    context: &MountContext<'_, 'a>,
) -> Result<Option<Source<'a>>> {
    let controller = mount.controllers.first().map_or("", String::as_str);
    let path = match context.cgroup.path_in(controller) {
        Some(path) => path.to_path_buf(),
        // A rootless container without a cgroup in this hierarchy stays in the runtime's.
        None if context.cgroup.is_rootless() => mount.own_dir(),
        None => return Ok(None),
    };
    let tree = clone_tree(&path, Submounts::Exclude)?;
    let bind = Options { bind: Some(Submounts::Exclude), set: flags, ..Options::default() };
    set_attributes(&tree, &bind, context).context("mount_setattr")?;
    Ok(Some(Source::Tree { fd: arena.fd(tree), directory: true }))
}
