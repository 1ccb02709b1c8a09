//! Checks a config.json field by field, before anything is created.
//!
//! The parser checks types and enumerations. The functions here check all other rules.

pub mod rootless;

use std::{collections::HashSet, path::Path};

use berth_init::defence::Defence;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount, Process, Spec, User};

use crate::{
    Error, Result, arena,
    id_maps::Ids,
    leaves::{
        hooks,
        mount::{self, device},
        network::devices,
        rdt, scheduling,
        seccomp::agent,
        sysctl,
    },
    namespace::{path_to_join, time},
};

/// Longest host or domain name in bytes, without the NUL (uname(2)).
const NAME_MAX: usize = 64;

/// Most supplementary groups of a process (setgroups(2)).
const NGROUPS_MAX: usize = 65536;

/// Checks a whole config.json.
pub fn spec(spec: &Spec) -> Result<()> {
    if spec.version().is_empty() {
        return Err(Error::invalid("ociVersion: must not be empty"));
    }
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root: must be specified"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path: must not be empty"));
    }
    check_path(root.path(), || "root.path".into())?;
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if name.as_ref().is_some_and(|name| name.len() > NAME_MAX) {
            return Err(Error::invalid(format!("{field}: longer than {NAME_MAX} bytes")));
        }
    }
    if let Some(p) = spec.process() {
        process(p)?;
    }
    mounts(spec.mounts().as_deref().unwrap_or_default())?;
    spec.hooks().as_ref().map_or(Ok(()), hooks::check)?;
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux: must be specified"))?;
    namespaces(spec, linux)?;
    id_mappings(spec, linux)?;
    time::check(linux)?;
    devices::check(linux)?;
    device::check(linux.devices().as_deref().unwrap_or_default())?;
    check_strings(linux.masked_paths().as_deref(), "linux.maskedPaths")?;
    check_strings(linux.readonly_paths().as_deref(), "linux.readonlyPaths")?;
    mount::root_propagation(linux.rootfs_propagation().as_deref())?;
    let private = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
    linux.sysctl().as_ref().map_or(Ok(()), |sysctls| sysctl::check(sysctls, private))?;
    linux.seccomp().as_ref().map_or(Ok(()), agent::check)?;
    scheduling::check_container(linux.memory_policy().as_ref())?;
    linux.intel_rdt().as_ref().map_or(Ok(()), |rdt| rdt::check(rdt, rdt::root()?.as_deref()))
}

/// Checks the process of a config.json or of an exec.
pub fn process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("process.args: args must not be empty"));
    }
    check_strings(process.args().as_deref(), "process.args")?;
    check_cwd(process.cwd(), "process.cwd")?;
    check_strings(process.env().as_deref(), "process.env")?;
    for (n, variable) in process.env().iter().flatten().enumerate() {
        match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => {}
            _ => return Err(Error::invalid(format!("process.env[{n}]: invalid environment variable {variable:?}"))),
        }
    }
    let mut seen = HashSet::new();
    for (n, limit) in process.rlimits().iter().flatten().enumerate() {
        let kind = limit.typ();
        if !seen.insert(kind.to_string()) {
            return Err(Error::invalid(format!("process.rlimits[{n}].type: duplicated {kind}")));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(format!("process.rlimits[{n}].soft: {kind} soft limit is above the hard one")));
        }
    }
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        return Err(Error::invalid(format!("process.oomScoreAdj: {score} is not from -1000 to 1000")));
    }
    if let Some(size) = process.console_size() {
        for (field, cells) in [("height", size.height()), ("width", size.width())] {
            if u16::try_from(cells).is_err() {
                return Err(Error::invalid(format!("process.consoleSize.{field}: {cells} is out of range")));
            }
        }
    }
    user(process.user())?;
    scheduling::check(process)
}

/// Checks a list of mounts.
pub fn mounts(list: &[Mount]) -> Result<()> {
    for (n, mount) in list.iter().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return Err(Error::invalid(format!("mounts[{n}].destination: must not be empty")));
        }
        check_path(mount.destination(), || format!("mounts[{n}].destination"))?;
        check_strings(mount.options().as_deref(), &format!("mounts[{n}].options"))?;
    }
    Ok(())
}

fn user(user: &User) -> Result<()> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > NGROUPS_MAX {
        let text = format!("too many groups: {}, of which the kernel takes {NGROUPS_MAX}", groups.len());
        return Err(Error::invalid(format!("process.user.additionalGids: {text}")));
    }
    let ids = [("uid".to_owned(), user.uid()), ("gid".to_owned(), user.gid())].into_iter();
    for (field, id) in ids.chain(groups.iter().enumerate().map(|(n, gid)| (format!("additionalGids[{n}]"), *gid))) {
        // setresuid(2) takes (uid_t)-1 as "do not change".
        if id == u32::MAX && Defence::NoUnchangedId.stands() {
            return Err(Error::invalid(format!("process.user.{field}: {id} is no valid id")));
        }
    }
    if user.umask().is_some_and(|mask| mask > 0o7777) {
        return Err(Error::invalid("process.user.umask: out of range"));
    }
    Ok(())
}

/// Checks that strings can become C strings.
fn check_strings(list: Option<&[String]>, field: &str) -> Result<()> {
    let mut texts = list.unwrap_or_default().iter().enumerate();
    texts.try_for_each(|(n, text)| arena::check(text, || format!("{field}[{n}]")))
}

fn check_path(path: &Path, field: impl FnOnce() -> String) -> Result<()> {
    arena::check(path.as_os_str().as_encoded_bytes(), field)
}

fn check_cwd(path: &Path, field: &str) -> Result<()> {
    check_path(path, || field.into())?;
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
            return Err(Error::invalid(format!("linux.namespaces[{n}]: malformed spec: duplicated ns {kind}")));
        }
        seen.push(kind);
        if let Some(path) = path_to_join(namespace).filter(|path| !path.is_absolute()) {
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
    for (field, map) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())] {
        needs(
            map.as_ref().is_some_and(|m| !m.is_empty()),
            LinuxNamespaceType::User,
            field,
            "user namespace mappings specified, but user namespace not enabled in the config",
        )?;
    }
    shared_mounts(linux)
}

/// Refuses masked and read-only paths without an own mount namespace: they would cover paths of the host.
fn shared_mounts(linux: &Linux) -> Result<()> {
    if linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Mount) {
        return Ok(());
    }
    let named = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    for (field, present) in
        [("linux.maskedPaths", named(linux.masked_paths())), ("linux.readonlyPaths", named(linux.readonly_paths()))]
    {
        if present {
            let why = "unable to restrict sys entries without a private MNT namespace";
            return Err(Error::invalid(format!("{field}: {why}")));
        }
    }
    Ok(())
}

/// Checks the mappings of a new user namespace and of mounts. A joined user namespace is checked when it is opened.
fn id_mappings(spec: &Spec, linux: &Linux) -> Result<()> {
    let given = |list: &'_ Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let users = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::User);
    let ids = Ids::new(&given(linux.uid_mappings()), &given(linux.gid_mappings()), "linux.")?;
    if users.is_some_and(|n| n.path().is_none()) {
        ids.check_complete()?;
    }
    mapped_mounts(spec.mounts().as_deref().unwrap_or_default(), users.is_some())
}

/// Checks the mappings of mounts. `user_namespace` says that the container has its own user namespace.
///
/// # Errors
/// [`Error::invalid`] with the name of the field.
pub fn mapped_mounts(list: &[Mount], user_namespace: bool) -> Result<()> {
    let given = |list: &'_ Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    for (n, mount) in list.iter().enumerate() {
        let words = mount.options().as_deref().unwrap_or_default();
        let (uids, gids) = (mount.uid_mappings(), mount.gid_mappings());
        if uids.is_none() && gids.is_none() && !words.iter().any(|word| mount::is_idmap(word)) {
            continue;
        }
        let field = format!("mounts[{n}].");
        if mount.typ().as_deref() != Some("bind") && !words.iter().any(|w| w == "bind" || w == "rbind") {
            return Err(Error::invalid(format!(
                "{field}uidMappings: id-mapped mounts are only supported for bind-mounts"
            )));
        }
        if uids.is_none() && gids.is_none() && user_namespace {
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
