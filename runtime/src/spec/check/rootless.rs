//! Checks a config.json for a caller that is unprivileged, or that lacks full rights to cgroups.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::{
    Error, Result,
    cgroup::Rights,
    host::caller,
    id_maps::Ids,
    leaves::{mount, network::devices::NetDevices, user},
    namespace::path_to_join,
};

/// Refuses fields of config.json that such a caller cannot have.
///
/// # Errors
/// [`Error::invalid`] and [`Error::unsupported`] in runc's words, with the name of the field.
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
    for (map, what) in maps.into_iter().filter(|_| path_to_join(users).is_none()) {
        if map.and_then(Option::as_ref).is_none_or(Vec::is_empty) {
            let text = format!("linux: rootless containers requires at least one {what} mapping");
            return Err(Error::invalid(text));
        }
    }
    let ids = Ids::from_spec(spec)?;
    // A joined user namespace is asked for setgroups(2) when it is opened.
    let setgroups = path_to_join(users).is_some() || !ids.maps_only_gid(rustix::process::getegid().as_raw());
    spec.process().as_ref().map_or(Ok(()), |process| check_process(process, setgroups))?;
    for (n, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = || mount.options().iter().flatten();
        if mount.uid_mappings().is_some()
            || mount.gid_mappings().is_some()
            || options().any(|option| mount::is_idmap(option))
        {
            let text = format!("mounts[{n}]: id-mapped mounts are not supported for rootless containers");
            return Err(Error::unsupported(text));
        }
        for option in options().flat_map(|o| o.split(',')) {
            let mapped = match option.split_once('=') {
                Some(("uid", id)) => id.parse().map(|id| ids.host_uid(id, option)),
                Some(("gid", id)) => id.parse().map(|id| ids.host_gid(id, option)),
                _ => continue,
            };
            // The file system refuses a value that is no number.
            if let Ok(Err(e)) = mapped {
                let text = format!("mounts[{n}].options: cannot specify {option} mount option for rootless container");
                return Err(e.context(text));
            }
        }
    }
    Ok(())
}

/// Does the same for a single process. `setgroups` says that the container's user namespace allows setgroups(2). That
/// is so if newgidmap(1) has mapped more gids than the caller's own.
///
/// # Errors
/// [`Error::unsupported`] with the name of the field.
pub fn check_process(process: &Process, setgroups: bool) -> Result<()> {
    let why = match caller::is_user() {
        _ if !user::names_groups(process) => return Ok(()),
        true if !setgroups => "cannot set any additional groups in a rootless container",
        false if caller::denies_setgroups() => "the user namespace denies setgroups",
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("process.user.additionalGids: {why}")))
}
