//! The supplementary groups of a process.

use std::collections::HashMap;

use oci_spec::runtime::{Process, User};

use crate::{Context, Result, arena::Arena, host::caller};

/// The supplementary groups of the payload, ascending: its additional ones and nothing else, or those of the runtime where
/// it is to `keep` them. The kernel's own answer also counts the primary group where a caller put it there (CVE-2023-25173
/// is about leaving some out).
///
/// # Errors
/// As getgroups(2).
pub fn groups<'a>(arena: &'a Arena, user: &User, keep: bool) -> Result<&'a [u32]> {
    let mut groups = match keep {
        true => own_groups()?,
        false => user.additional_gids().clone().unwrap_or_default(),
    };
    groups.sort_unstable();
    Ok(arena.list(groups))
}

/// The supplementary groups of this process.
///
/// # Errors
/// As getgroups(2).
pub fn own_groups() -> Result<Vec<u32>> {
    let groups = rustix::process::getgroups().context("getgroups")?;
    Ok(groups.into_iter().map(rustix::process::Gid::as_raw).collect())
}

/// Whether the supplementary groups of the runtime stay with all processes of a container with these annotations, and its
/// `additionalGids` are passed over: crun's word, for podman's `--group-add keep-groups`.
pub fn keeps_groups(annotations: &HashMap<String, String>) -> bool {
    annotations.contains_key(KEEP_GROUPS)
}

/// The annotation of [`keeps_groups`], whatever its value.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// `process.user.additionalGids` names groups.
pub fn names_groups(process: &Process) -> bool {
    process.user().additional_gids().as_ref().is_some_and(|gids| !gids.is_empty())
}

/// Whether the supplementary groups of the runtime stay with the process: those of an ordinary user who names no others,
/// and where setgroups(2) is denied.
pub fn inherits_groups(process: &Process) -> bool {
    if caller::is_user() { !names_groups(process) } else { caller::denies_setgroups() }
}
