//! Mounts of type cgroup: one file system on a unified host, a directory of hierarchies on a v1 host.

use std::{ffi::CStr, path::Path};

use berth_init::plan::{FsOption, Source};

use super::{Builder, Options, Scene, attr, bind::set_attributes, clone_tree};
use crate::{Context, Result, cgroup};

/// Flags of everything in such a mount, as every runtime mounts it.
const FLAGS: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Adds what shows the container its cgroups at `target`.
pub(super) fn plan<'a>(
    builder: &mut Builder<'a, '_>,
    target: &CStr,
    name: &str,
    options: &Options,
    scene: &Scene<'_, 'a>,
) -> Result<()> {
    let host = cgroup::host()?;
    // Without a cgroup namespace it is the host's hierarchy that shows, and files of it that root of a user namespace
    // might own (CVE-2023-25809).
    let readonly = if scene.user_namespace && !scene.cgroup_namespace { attr::RDONLY } else { 0 };
    let target = target.to_str().map_err(|_| crate::Error::invalid("destination: not UTF-8"))?;
    if host.unified() {
        unified(builder, host, target, name, options, scene, readonly)
    } else {
        let readonly = readonly | options.set & attr::RDONLY;
        hierarchies(builder, host, target, name, options, scene, readonly)
    }
}

fn unified<'a>(
    builder: &mut Builder<'a, '_>,
    host: &cgroup::Host,
    target: &str,
    name: &str,
    options: &Options,
    scene: &Scene<'_, 'a>,
    readonly: u64,
) -> Result<()> {
    let arena = builder.arena;
    // A cgroup that systemd makes is not there yet; then it is the whole hierarchy, which a new mount would show as well.
    let own = scene.cgroup.path_in("").filter(|_| scene.cgroup.comes_first());
    let whole = host.mounts().iter().find(|m| m.is_v2()).map(|m| m.point.as_path());
    let source = if readonly != 0
        && let Some(path) = own.or(whole)
    {
        // A user namespace cannot mount what belongs to the host's cgroup namespace.
        let tree = clone_tree(path, false)?;
        let bind = Options { bind: Some(false), set: FLAGS | readonly, ..Options::default() };
        set_attributes(&tree, &bind, scene).context("mount_setattr")?;
        Source::Tree { fd: arena.fd(tree), directory: true }
    } else {
        let mut fs = vec![FsOption::Pair(c"source", c"cgroup")];
        for word in &options.data {
            fs.push(FsOption::Flag(arena.text(word, "mounts.options")?));
        }
        let attributes = super::attributes(options)? | u32::try_from(readonly).unwrap_or_default();
        Source::Fs { fstype: c"cgroup2", options: arena.list(fs), attributes, relabel: None }
    };
    let propagation = arena.list(options.propagation.clone());
    builder.push(arena.text(target, "mounts.destination")?, source, propagation, name);
    Ok(())
}

/// A small tmpfs with a directory a hierarchy: mounted anew below a cgroup namespace, which roots it at the
/// container's cgroup, else a bind mount of that cgroup; and links for the names of merged controllers.
fn hierarchies<'a>(
    builder: &mut Builder<'a, '_>,
    host: &cgroup::Host,
    target: &str,
    name: &str,
    options: &Options,
    scene: &Scene<'_, 'a>,
    readonly: u64,
) -> Result<()> {
    let arena = builder.arena;
    let place =
        |below: &str| arena.text(Path::new(target).join(below).as_os_str().as_encoded_bytes(), "mounts.destination");
    let narrow = |bits: u64| u32::try_from(bits).map_err(|_| crate::Error::invalid("options: out of range"));

    let mut fs = vec![FsOption::Pair(c"mode", c"755"), FsOption::Pair(c"source", c"tmpfs")];
    fs.extend(scene.label.map(|label| FsOption::Pair(c"context", label)));
    let tmpfs = Source::Fs { fstype: c"tmpfs", options: arena.list(fs), attributes: narrow(FLAGS)?, relabel: None };
    builder.push(place("")?, tmpfs, arena.list(options.propagation.clone()), name);
    if let Some(last) = builder.list.last_mut() {
        last.sealed = readonly != 0;
    }
    for mount in host.mounts().iter().filter(|m| !m.is_v2()) {
        let Some(dir) = mount.point.file_name().and_then(|n| n.to_str()) else { continue };
        let source = if scene.cgroup_namespace {
            let mut fs = Vec::new();
            for controller in &mount.controllers {
                match controller.split_once('=') {
                    // A named hierarchy has no controller.
                    Some((key, value)) => {
                        fs.push(FsOption::Flag(c"none"));
                        fs.push(FsOption::Pair(arena.text(key, "mounts")?, arena.text(value, "mounts")?));
                    }
                    None => fs.push(FsOption::Flag(arena.text(controller, "mounts")?)),
                }
            }
            fs.push(FsOption::Pair(c"source", c"cgroup"));
            Source::Fs {
                fstype: c"cgroup",
                options: arena.list(fs),
                attributes: narrow(FLAGS | readonly)?,
                relabel: None,
            }
        } else {
            let controller = mount.controllers.first().map_or("", String::as_str);
            let path = match scene.cgroup.path_in(controller) {
                Some(path) => path.to_path_buf(),
                // A container that could have none there is in its maker's.
                None if scene.cgroup.is_rootless() => mount.own_dir(),
                None => continue,
            };
            let tree = clone_tree(&path, false)?;
            let bind = Options { bind: Some(false), set: FLAGS | readonly, ..Options::default() };
            set_attributes(&tree, &bind, scene).context("mount_setattr")?;
            Source::Tree { fd: arena.fd(tree), directory: true }
        };
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
