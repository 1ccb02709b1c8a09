//! The process of `exec`: the process of config.json as the flags change it, or the one of `--process`.

mod ids;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use berth_runtime::{
    Error, Result,
    bundle::{Bundle, load_process},
};
use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Process};

use self::ids::ids;
use super::ExecArgs;

/// Returns the process to execute.
///
/// # Errors
/// Fails if a flag, a file or a field is malformed. The error names it.
pub fn find(bundle: &Path, args: &ExecArgs) -> Result<Process> {
    if let Some(path) = &args.process {
        return load_process(path);
    }
    let mut spec = Bundle::load(bundle)?.spec;
    let mut process =
        spec.process_mut().take().ok_or_else(|| Error::invalid("config.json: process property must not be empty"))?;
    apply(&mut process, args)?;
    Ok(process)
}

/// Changes the process of config.json as the flags and operands say.
fn apply(process: &mut Process, args: &ExecArgs) -> Result<()> {
    if args.command.is_empty() {
        return Err(Error::invalid("exec args cannot be empty"));
    }
    process.set_args(Some(args.command.clone()));
    if let Some(cwd) = &args.cwd {
        if !cwd.starts_with('/') {
            return Err(Error::invalid(format!("--cwd {cwd}: Cwd must be an absolute path")));
        }
        process.set_cwd(PathBuf::from(cwd));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    add_capabilities(process, &args.cap);
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    // `process.terminal` of config.json is about the container's own process.
    process.set_terminal(Some(args.tty));
    if let Some(on) = args.no_new_privs {
        process.set_no_new_privileges(Some(on));
    }
    set_user(process, args)
}

/// Adds capabilities to the bounding, effective and permitted set. An ambient capability has to be inheritable as well
/// (capabilities(7)), and no flag sets those, so the ambient set grows only if config.json has inheritable capabilities.
fn add_capabilities(process: &mut Process, names: &[String]) {
    let mut sets = None;
    for name in names {
        let Ok(capability) = serde_json::from_value::<Capability>(name.as_str().into()) else {
            log::warn!("ignoring unknown or unavailable capabilities: [{name}]");
            continue;
        };
        let sets = sets.get_or_insert_with(|| match process.capabilities() {
            Some(sets) => sets.clone(),
            None => LinuxCapabilitiesBuilder::default().build().unwrap_or_default(),
        });
        let with = |set: &Option<HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    if sets.is_some() {
        process.set_capabilities(sets);
    }
}

fn set_user(process: &mut Process, args: &ExecArgs) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = &args.user {
        let (uid, gid) = ids(text)?;
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for &gid in &args.additional_gids {
        let invalid = || Error::invalid(format!("additional-gids must be a positive number {gid}"));
        groups.push(u32::try_from(gid).ok().filter(|gid| *gid != u32::MAX).ok_or_else(invalid)?);
    }
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

#[cfg(test)]
mod tests;
