//! What a config.json must be before anything is made from it, field by field.
//!
//! Types and closed sets are the parser's; here is what they cannot say.

use std::{collections::HashSet, path::Path};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use crate::{Error, Result, hooks, net_devices, notify, rdt, scheduling, timens, user::Ids};

/// A whole config.json.
pub fn spec(spec: &Spec) -> Result<()> {
    if spec.version().is_empty() {
        return Err(Error::invalid("ociVersion: must not be empty"));
    }
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root: must be specified"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path: must not be empty"));
    }
    if let Some(p) = spec.process() {
        process(p)?;
    }
    for (n, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return Err(Error::invalid(format!("mounts[{n}].destination: must not be empty")));
        }
    }
    spec.hooks().as_ref().map_or(Ok(()), hooks::check)?;
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux: must be specified"))?;
    namespaces(spec, linux)?;
    id_mappings(spec, linux)?;
    timens::check(linux)?;
    net_devices::check(linux)?;
    linux.seccomp().as_ref().map_or(Ok(()), notify::check)?;
    scheduling::check_container(linux.memory_policy().as_ref())?;
    linux.intel_rdt().as_ref().map_or(Ok(()), |rdt| rdt::check(rdt, rdt::root()?.as_deref()))
}

/// A process, of a config.json or an exec.
pub fn process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("process.args: args must not be empty"));
    }
    absolute(process.cwd(), "process.cwd")?;
    for (n, variable) in process.env().iter().flatten().enumerate() {
        match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => {}
            _ => return Err(Error::invalid(format!("process.env[{n}]: invalid environment variable {variable:?}"))),
        }
    }
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return Err(Error::invalid(format!("process.rlimits: duplicated {}", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(format!("process.rlimits: {} soft limit is above the hard one", limit.typ())));
        }
    }
    if let Some(groups) = process.user().additional_gids()
        && groups.len() > berth_init::identity::MAX_GROUPS - 1
    {
        return Err(Error::invalid("process.user.additionalGids: too many groups"));
    }
    if process.user().umask().is_some_and(|mask| mask > 0o7777) {
        return Err(Error::invalid("process.user.umask: out of range"));
    }
    scheduling::check(process)
}

fn absolute(path: &Path, field: &str) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field}: Cwd property must not be empty")));
    }
    if path.is_absolute() { Ok(()) } else { Err(Error::invalid(format!("{field}: Cwd must be an absolute path"))) }
}

fn namespaces(spec: &Spec, linux: &Linux) -> Result<()> {
    let mut seen = Vec::new();
    for (n, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(Error::invalid(format!("linux.namespaces[{n}]: malformed spec: duplicated ns {kind:?}")));
        }
        seen.push(kind);
        if let Some(path) = namespace.path()
            && !path.as_os_str().is_empty()
            && !path.is_absolute()
        {
            return Err(Error::invalid(format!("linux.namespaces[{n}].path: must be absolute: {}", path.display())));
        }
    }
    let has = |kind| seen.contains(&kind);
    let needs = |wanted: bool, kind, field: &str, why: &str| {
        if wanted && !has(kind) { Err(Error::invalid(format!("{field}: {why}"))) } else { Ok(()) }
    };
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    needs(
        is_set(spec.hostname()),
        LinuxNamespaceType::Uts,
        "hostname",
        "unable to set hostname without a private UTS namespace",
    )?;
    needs(
        is_set(spec.domainname()),
        LinuxNamespaceType::Uts,
        "domainname",
        "unable to set domainname without a private UTS namespace",
    )?;
    let mapped = linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty())
        || linux.gid_mappings().as_ref().is_some_and(|m| !m.is_empty());
    needs(
        mapped,
        LinuxNamespaceType::User,
        "linux.uidMappings",
        "user namespace mappings specified, but user namespace not enabled in the config",
    )?;
    shared_mounts(spec, linux)
}

/// Nothing is mounted in a namespace that is somebody else's, and nothing hidden in one that is the host's.
fn shared_mounts(spec: &Spec, linux: &Linux) -> Result<()> {
    let mut namespaces = linux.namespaces().iter().flatten();
    let joined = match namespaces.find(|n| n.typ() == LinuxNamespaceType::Mount) {
        Some(own) if own.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()) => return Ok(()),
        other => other.is_some(),
    };
    let mounts = spec.mounts().as_ref().is_some_and(|m| !m.is_empty());
    let readonly = spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true));
    let named = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    for (field, present, why) in [
        ("linux.maskedPaths", named(linux.masked_paths()), RESTRICT),
        ("linux.readonlyPaths", named(linux.readonly_paths()), RESTRICT),
        ("mounts", joined && mounts, APPLY),
        ("root.readonly", joined && readonly, APPLY),
    ] {
        if present {
            return Err(Error::invalid(format!("{field}: {why}")));
        }
    }
    Ok(())
}

const RESTRICT: &str = "unable to restrict sys entries without a private MNT namespace";
const APPLY: &str = "cannot be applied without a private mount namespace";

/// Mappings of a new user namespace, and of mounts; those of one that is joined are known only when it is opened.
fn id_mappings(spec: &Spec, linux: &Linux) -> Result<()> {
    let given = |list: &'_ Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let users = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::User);
    let ids = Ids::new(&given(linux.uid_mappings()), &given(linux.gid_mappings()), "linux.")?;
    if users.is_some_and(|n| n.path().is_none()) {
        ids.check_complete()?;
    }
    for (n, mount) in spec.mounts().iter().flatten().enumerate() {
        let words = mount.options().as_deref().unwrap_or_default();
        let (uids, gids) = (mount.uid_mappings(), mount.gid_mappings());
        if uids.is_none() && gids.is_none() && !words.iter().any(|w| w == "idmap" || w == "ridmap") {
            continue;
        }
        let field = format!("mounts[{n}].");
        if mount.typ().as_deref() != Some("bind") && !words.iter().any(|w| w == "bind" || w == "rbind") {
            return Err(Error::invalid(format!(
                "{field}uidMappings: id-mapped mounts are only supported for bind-mounts"
            )));
        }
        if uids.is_none() && gids.is_none() && users.is_some() {
            continue;
        }
        for (list, what) in [(uids, "uid"), (gids, "gid")] {
            if list.as_ref().is_none_or(Vec::is_empty) {
                let why = "id-mapped mounts must have both uid and gid mappings specified";
                return Err(Error::invalid(format!("{field}{what}Mappings: {why}")));
            }
        }
        Ids::new(&given(uids), &given(gids), &field)?;
    }
    Ok(())
}
