//! Security module labels: refused where the kernel lacks the module, never dropped.

use std::path::Path;

use berth_init::plan::Label;
use oci_spec::runtime::Process;

use crate::{Error, Result, arena::Arena};

/// The label that execve takes on: the process's own, else the container's given ones.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] naming the profile or label that this kernel cannot enforce.
pub fn plan<'a>(
    arena: &'a Arena,
    process: &Process,
    apparmor: Option<&str>,
    selinux: Option<&str>,
) -> Result<Option<Label<'a>>> {
    let selinux = set(process.selinux_label()).or(selinux);
    let apparmor = set(process.apparmor_profile()).or(apparmor).filter(|p| *p != "unconfined" || apparmor_enabled());
    if let Some(label) = &selinux
        && !selinux_enabled()
    {
        return Err(Error::invalid(format!("process.selinuxLabel: {label:?}: selinux is not enabled on this host")));
    }
    if let Some(profile) = &apparmor
        && !apparmor_enabled()
    {
        return Err(Error::invalid(format!(
            "process.apparmorProfile: {profile:?}: apparmor is not enabled on this host"
        )));
    }
    Ok(match (selinux, apparmor) {
        (Some(label), _) => {
            Some(Label { attribute: c"/proc/thread-self/attr/exec", value: arena.bytes(label.as_bytes()) })
        }
        (None, Some(profile)) => {
            // Since Linux 5.8 each module has files of its own; the common one belongs to whichever came first.
            let own = Path::new("/proc/self/attr/apparmor/exec").exists();
            let attribute = if own { c"/proc/thread-self/attr/apparmor/exec" } else { c"/proc/thread-self/attr/exec" };
            Some(Label { attribute, value: arena.bytes(format!("exec {profile}").as_bytes()) })
        }
        (None, None) => None,
    })
}

fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.is_empty())
}

/// A label on mounts needs SELinux as much as one on the process.
pub fn check_mount_label(label: Option<&str>) -> Result<()> {
    match label.filter(|l| !l.is_empty()) {
        Some(label) if !selinux_enabled() => {
            Err(Error::invalid(format!("linux.mountLabel: {label:?}: selinux is not enabled on this host")))
        }
        Some(_) => Err(Error::unsupported("linux.mountLabel: not built yet")),
        None => Ok(()),
    }
}

fn apparmor_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.first() == Some(&b'Y'))
}

fn selinux_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
