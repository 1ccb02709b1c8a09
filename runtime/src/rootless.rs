//! A runtime that is not root of the host: who it is, and what such a one cannot be asked for.
//!
//! Two things that go by the same name. An *ordinary user* ([`is_user`]) can do nothing but from inside a user namespace of
//! his own, which every container of his must have; [`crate::inside`] goes there. And whoever has no right to *cgroups*
//! ([`shares_cgroups`]), which can be root of a user namespace as well, gets containers without what may not be made.

use std::sync::OnceLock;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::{Error, Result, mount, namespace::joined, net_devices::NetDevices, user::Ids};

/// Who the runtime is, by the effective user id. Asked once, before anything is entered where it would be another.
pub fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| rustix::process::geteuid().as_raw())
}

/// It is not root, not even of a user namespace.
pub fn is_user() -> bool {
    uid() != 0
}

/// Whether what the host does not let us do with cgroups is left undone, unless it is asked for: not for root of the host,
/// or as `asked`.
pub fn shares_cgroups(asked: Option<bool>) -> bool {
    asked.unwrap_or_else(|| is_user() || in_user_namespace())
}

/// Whether this is another user namespace than the first. Asked once, before any other is entered.
pub fn in_user_namespace() -> bool {
    /// Of the first user namespace since Linux 3.8 (proc_ns.h, `PROC_USER_INIT_INO`).
    const FIRST: u64 = 0xefff_fffd;
    static INSIDE: OnceLock<bool> = OnceLock::new();
    *INSIDE.get_or_init(|| rustix::fs::stat("/proc/self/ns/user").is_ok_and(|ns| ns.st_ino != FIRST))
}

/// What an ordinary user, or one who [`shares_cgroups`], cannot have, in runc's words.
///
/// # Errors
/// Names it.
pub fn check(spec: &Spec, shares_cgroups: bool) -> Result<()> {
    if spec.linux().as_ref().is_some_and(NetDevices::any) && (is_user() || shares_cgroups) {
        let text = "linux.netDevices: network devices are not supported for rootless containers";
        return Err(Error::unsupported(text));
    }
    spec.process().as_ref().map_or(Ok(()), check_process)?;
    if !is_user() {
        return Ok(());
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

/// The same of a process alone.
///
/// # Errors
/// Names the field.
pub fn check_process(process: &Process) -> Result<()> {
    if process.user().additional_gids().as_ref().is_none_or(Vec::is_empty) || !keeps_groups() {
        return Ok(());
    }
    let why = match is_user() {
        true => "cannot set any additional groups in a rootless container",
        false => "the user namespace denies setgroups",
    };
    Err(Error::unsupported(format!("process.user.additionalGids: {why}")))
}

/// Whether the supplementary groups of the runtime stay with all that it makes: those of an ordinary user, and what a user
/// namespace has been given that denies setgroups(2).
pub fn keeps_groups() -> bool {
    let denied = || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim_end() == "deny");
    is_user() || in_user_namespace() && denied()
}
