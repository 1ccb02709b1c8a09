//! Finds the mount of the plan that a path lies in. The child then acts on the mount and not on the directories above it.

use std::{collections::HashSet, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use berth_init::plan::{Cover, Mount, Source, Within};

use super::{clean, clean_unless_dotdot};
use crate::{Result, arena::Arena};

/// Plans to cover each of `paths` once (`linux.maskedPaths`, `linux.readonlyPaths`).
///
/// # Errors
/// Names the field.
pub fn covers<'a>(
    arena: &'a Arena,
    mounts: &[Mount<'a>],
    paths: Option<&[String]>,
    field: &str,
) -> Result<&'a [Cover<'a>]> {
    let mut paths: Vec<_> = paths.iter().copied().flatten().map(|path| clean_unless_dotdot(Path::new(path))).collect();
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    let cover = |path: &Path| Ok(Cover { path: arena.path(path, field)?, within: within(arena, mounts, path)? });
    let covers: Result<Vec<_>> = paths.iter().map(|path| cover(path)).collect();
    Ok(arena.list(covers?))
}

/// Finds the mount of the plan that a path lies in, and has it kept.
fn within<'a>(arena: &'a Arena, mounts: &[Mount<'a>], path: &Path) -> Result<Option<Within<'a>>> {
    let Some((n, mount, rest)) = find(mounts, path) else { return Ok(None) };
    mount.kept.set(true);
    Ok(Some(Within { mount: n, rest: arena.path(rest, "mounts.destination")? }))
}

/// Returns the index of the mount of the plan that is at `target`, and has it kept.
pub(super) fn at(mounts: &[Mount<'_>], target: &Path) -> Option<usize> {
    let (n, mount, _) = find(mounts, target).filter(|(_, _, rest)| rest.as_os_str().is_empty())?;
    mount.kept.set(true);
    Some(n)
}

/// Returns the last mount whose target is the path or above it, and the rest of the path. A mount after it does not
/// cover it, unless a symbolic link leads there. Only the kernel can resolve a path with `..`.
fn find<'m, 'a, 'p>(mounts: &'m [Mount<'a>], path: &'p Path) -> Option<(usize, &'m Mount<'a>, &'p Path)> {
    let below = |(n, mount): (usize, &'m Mount<'a>)| {
        let rest = path.strip_prefix(OsStr::from_bytes(mount.target.to_bytes())).ok()?;
        let is_mount = !matches!(mount.source, Source::Link { .. } | Source::Remount { .. });
        is_mount.then_some((n, mount, rest))
    };
    if clean(path) == path { mounts.iter().enumerate().rev().find_map(below) } else { None }
}
