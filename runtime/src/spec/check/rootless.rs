//! What of a config.json a caller cannot have who is an ordinary user, or who has no right to cgroups.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::{
    Error, Result,
    cgroup::Rights,
    host::caller,
    id_maps::Ids,
    leaves::{mount, network::devices::NetDevices, user},
    namespace::joined,
};

/// Refuses the fields of config.json that an unprivileged caller, or one without full rights to cgroups, cannot have.
///
/// # Errors
/// Names the field, in runc's words.
pub fn check(spec: &Spec, rights: Rights) -> Result<()> {
    if spec.linux().as_ref().is_some_and(NetDevices::any) && (caller::is_user() || rights == Rights::Delegated) {
        let text = "linux.netDevices: network devices are not supported for rootless containers";
        return Err(Error::unsupported(text));
    }
    if !caller::is_user() {
        return spec.process().as_ref().map_or(Ok(()), |process| check_process(process, true));
    }
    let linux = spec.linux().as_ref();
    let mut namespaces = linux.and_then(|l| l.namespaces().as_ref()).into_iter().flatten();
    let Some(users) = namespaces.find(|n| n.typ() == LinuxNamespaceType::User) else {
        return Err(Error::invalid("linux.namespaces: rootless container requires user namespaces"));
    };
    let maps = [(linux.map(Linux::uid_mappings), "UID"), (linux.map(Linux::gid_mappings), "GID")];
    for (map, what) in maps.into_iter().filter(|_| joined(users).is_none()) {
        if map.and_then(Option::as_ref).is_none_or(Vec::is_empty) {
            let text = format!("linux: rootless containers requires at least one {what} mapping");
            return Err(Error::invalid(text));
        }
    }
    let ids = Ids::given(spec)?;
    // One that is joined is asked when it is opened.
    let setgroups = joined(users).is_some() || !ids.maps_only_gid(rustix::process::getegid().as_raw());
    spec.process().as_ref().map_or(Ok(()), |process| check_process(process, setgroups))?;
    for (n, mount) in spec.mounts().iter().flatten().enumerate() {
        let words = || mount.options().iter().flatten();
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() || words().any(|word| mount::is_idmap(word))
        {
            let text = format!("mounts[{n}]: id-mapped mounts are not supported for rootless containers");
            return Err(Error::unsupported(text));
        }
        for word in words().flat_map(|w| w.split(',')) {
            let mapped = match word.split_once('=') {
                Some(("uid", id)) => id.parse().map(|id| ids.host_uid(id, word)),
                Some(("gid", id)) => id.parse().map(|id| ids.host_gid(id, word)),
                _ => continue,
            };
            // A value that is no number is the file system's to refuse.
            if let Ok(Err(e)) = mapped {
                let text = format!("mounts[{n}].options: cannot specify {word} mount option for rootless container");
                return Err(e.context(text));
            }
        }
    }
    Ok(())
}

/// The same of a process alone. `setgroups` says whether the user namespace of an ordinary user's container allows
/// setgroups(2): one that newgidmap(1) has mapped more than the own id in does.
///
/// # Errors
/// Names the field.
pub fn check_process(process: &Process, setgroups: bool) -> Result<()> {
    let why = match caller::is_user() {
        _ if !user::names_groups(process) => return Ok(()),
        true if !setgroups => "cannot set any additional groups in a rootless container",
        false if caller::denies_setgroups() => "the user namespace denies setgroups",
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("process.user.additionalGids: {why}")))
}
