//! Supplementary groups of a process.

use std::collections::HashMap;

use oci_spec::runtime::{Process, User};

use crate::{Context, Result, arena::Arena, host::caller};

/// The origin of a payload's supplementary groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// `process.user.additionalGids`, and no others.
    Configured,
    /// The groups of the runtime.
    Inherited,
}

/// Returns the payload's supplementary groups, ascending.
///
/// The kernel's list also contains the primary group if the caller put it there (CVE-2023-25173 was about leaving some
/// out).
///
/// # Errors
/// As getgroups(2).
pub fn groups<'a>(arena: &'a Arena, user: &User, origin: Groups) -> Result<&'a [u32]> {
    let mut groups = match origin {
        Groups::Inherited => own_groups()?,
        Groups::Configured => user.additional_gids().clone().unwrap_or_default(),
    };
    groups.sort_unstable();
    Ok(arena.list(groups))
}

/// Returns the supplementary groups of this process.
///
/// # Errors
/// As getgroups(2).
pub fn own_groups() -> Result<Vec<u32>> {
    let groups = rustix::process::getgroups().context("getgroups")?;
    Ok(groups.into_iter().map(rustix::process::Gid::as_raw).collect())
}

/// Returns true if all processes of the container keep the runtime's supplementary groups and ignore `additionalGids`.
/// crun defined this annotation for podman's `--group-add keep-groups`.
pub fn keeps_groups(annotations: &HashMap<String, String>) -> bool {
    annotations.contains_key(KEEP_GROUPS)
}

/// The name of the annotation of [`keeps_groups`]. Its value does not matter.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Returns true if `process.user.additionalGids` names groups.
pub fn names_groups(process: &Process) -> bool {
    process.user().additional_gids().as_ref().is_some_and(|gids| !gids.is_empty())
}

/// Returns true if the process keeps the runtime's supplementary groups. It does so for an unprivileged caller without
/// `additionalGids`, and where the user namespace denies setgroups(2).
pub fn inherits_groups(process: &Process) -> bool {
    if caller::is_user() { !names_groups(process) } else { caller::denies_setgroups() }
}
