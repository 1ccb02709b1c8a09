//! Kernel parameters (`linux.sysctl`). Only those of a namespace of the container are allowed. The code does no I/O.

use std::collections::HashMap;

use berth_init::{defence::Defence, plan::Sysctl};
use oci_spec::runtime::LinuxNamespaceType;

use crate::{
    Error, Result,
    arena::{self, Arena},
};

/// Plans `linux.sysctl`. `private` says whether the container has its own namespace of a type.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] in runc's words for a malformed key, and for a key of the host or of a shared
/// namespace.
pub fn plan<'a>(
    arena: &'a Arena,
    sysctls: &HashMap<String, String>,
    private: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<Vec<Sysctl<'a>>> {
    let mut keys: Vec<_> = sysctls.iter().collect();
    keys.sort_unstable();
    keys.into_iter()
        .map(|(key, value)| {
            let path = check_one(key, value, &private)?;
            Ok(Sysctl {
                path: arena.text(format!("/proc/sys/{path}"), "linux.sysctl")?,
                value: arena.bytes(value.as_bytes()),
            })
        })
        .collect()
}

/// Checks the parameters of a config.json. `private` says which namespaces the config gives to the container.
///
/// # Errors
/// As [`plan`].
pub fn check(sysctls: &HashMap<String, String>, private: impl Fn(LinuxNamespaceType) -> bool) -> Result<()> {
    let wrong = sysctls.iter().filter_map(|(key, value)| Some((key, check_one(key, value, &private).err()?)));
    // The map has no order. The smallest key makes the error the same each time.
    wrong.min_by_key(|(key, _)| *key).map_or(Ok(()), |(_, e)| Err(e))
}

fn check_one(key: &str, value: &str, private: &impl Fn(LinuxNamespaceType) -> bool) -> Result<String> {
    let path = path(key)?;
    allowed(key, &path, private)?;
    arena::check(value, || format!("linux.sysctl.{key}"))?;
    Ok(path)
}

/// Turns a key of sysctl(8) into a path: `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.100/forwarding`.
///
/// The first separator decides. If it is a dot, a slash stands for a dot in a name.
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
    if !Defence::SysctlNames.stands() {
        return Ok(());
    }
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
        // The spec has its own field for it, so one of the two would be lost.
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
    Err(Error::invalid(format!("sysctl {key:?} is not allowed in the hosts {needs} namespace")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_become_paths() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(path("net.ipv4.conf.eth0/100.forwarding").unwrap(), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(path("net/ipv4/conf/eth0.100/forwarding").unwrap(), "net/ipv4/conf/eth0.100/forwarding");
        for bad in ["", "..", "net/../kernel/core_pattern", "net..x", "a\nb", "net.ipv4+x", "/net", "net/"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sysctls_of_shared_namespaces_are_refused() {
        let ok = |key: &str, private: bool| allowed(key, &path(key).unwrap(), &|_| private).is_ok();
        assert!(ok("net.core.somaxconn", true) && !ok("net.core.somaxconn", false));
        assert!(ok("kernel.shmmax", true) && ok("fs.mqueue.msg_max", true) && ok("kernel.domainname", true));
        assert!(!ok("kernel.core_pattern", true) && !ok("vm.swappiness", true) && !ok("kernel.hostname", true));
        assert!(!ok("kernel.sysrq", true) && !ok("fs.file-max", true));
    }
}
