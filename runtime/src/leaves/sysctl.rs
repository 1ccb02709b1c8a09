//! Kernel parameters: only those of a namespace that is the container's own. Pure.

use std::collections::HashMap;

use berth_init::plan::Sysctl;
use oci_spec::runtime::LinuxNamespaceType;

use crate::{
    Error, Result,
    arena::{self, Arena},
};

/// Translates `linux.sysctl`; `private` says whether a namespace is not the host's.
///
/// # Errors
/// runc's words for keys of the host, of a namespace that is shared with it, or that are no sysctl at all.
pub fn plan<'a>(
    arena: &'a Arena,
    sysctls: &HashMap<String, String>,
    private: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<Vec<Sysctl<'a>>> {
    let mut keys: Vec<_> = sysctls.iter().collect();
    keys.sort_unstable();
    keys.into_iter()
        .map(|(key, value)| {
            let path = one(key, value, &private)?;
            Ok(Sysctl {
                path: arena.text(format!("/proc/sys/{path}"), "linux.sysctl")?,
                value: arena.bytes(value.as_bytes()),
            })
        })
        .collect()
}

/// What is wrong with the parameters of a config.json, whose namespaces are `private` as far as it says.
///
/// # Errors
/// As [`plan`].
pub fn check(sysctls: &HashMap<String, String>, private: impl Fn(LinuxNamespaceType) -> bool) -> Result<()> {
    let wrong = sysctls.iter().filter_map(|(key, value)| Some((key, one(key, value, &private).err()?)));
    // Of several always the same.
    wrong.min_by_key(|(key, _)| *key).map_or(Ok(()), |(_, e)| Err(e))
}

fn one(key: &str, value: &str, private: &impl Fn(LinuxNamespaceType) -> bool) -> Result<String> {
    let path = path(key)?;
    allowed(key, &path, private)?;
    arena::check(value, || format!("linux.sysctl.{key}"))?;
    Ok(path)
}

/// sysctl(8): `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.100/forwarding`, whichever separator comes first rules;
/// the other one is then part of a name, dots and slashes changing places.
fn path(key: &str) -> Result<String> {
    let bad = || Error::invalid(format!("linux.sysctl: {key:?} is not a sysctl key"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/@:".contains(c);
    if key.is_empty() || !key.chars().all(allowed) {
        return Err(bad());
    }
    let slashed = match key.find(['.', '/']) {
        Some(at) if key.as_bytes().get(at) == Some(&b'.') => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    };
    if slashed.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad());
    }
    Ok(slashed)
}

fn allowed(key: &str, path: &str, private: &impl Fn(LinuxNamespaceType) -> bool) -> Result<()> {
    use LinuxNamespaceType as Ns;
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let needs = if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        Ns::Ipc
    } else if path.starts_with("net/") {
        Ns::Network
    } else if path == "kernel/domainname" {
        Ns::Uts
    } else if path == "kernel/hostname" {
        // It would be overwritten, or overwrite, what the spec's own field says.
        return Err(Error::invalid(format!(
            "sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field"
        )));
    } else if path.starts_with("user/") {
        Ns::User
    } else {
        return Err(Error::invalid(format!("sysctl {key:?} is not in a separate kernel namespace")));
    };
    if private(needs) {
        return Ok(());
    }
    if needs == Ns::Network {
        return Err(Error::invalid(format!("sysctl {key:?} not allowed in host network namespace")));
    }
    Err(Error::invalid(format!("sysctl {key:?} is not allowed in the hosts {needs:?} namespace").to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_paths() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(path("net.ipv4.conf.eth0/100.forwarding").unwrap(), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(path("net/ipv4/conf/eth0.100/forwarding").unwrap(), "net/ipv4/conf/eth0.100/forwarding");
        for bad in ["", "..", "net/../kernel/core_pattern", "net..x", "a\nb", "net.ipv4+x", "/net", "net/"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_namespaced_keys_of_private_namespaces() {
        let ok = |key: &str, private: bool| allowed(key, &path(key).unwrap(), &|_| private).is_ok();
        assert!(ok("net.core.somaxconn", true) && !ok("net.core.somaxconn", false));
        assert!(ok("kernel.shmmax", true) && ok("fs.mqueue.msg_max", true) && ok("kernel.domainname", true));
        assert!(!ok("kernel.core_pattern", true) && !ok("vm.swappiness", true) && !ok("kernel.hostname", true));
        assert!(!ok("kernel.sysrq", true) && !ok("fs.file-max", true));
    }
}
