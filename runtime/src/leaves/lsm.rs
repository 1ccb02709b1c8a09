//! Labels of security modules. A label for a module that the kernel lacks is refused, never dropped.

use std::{ffi::CStr, fs, io::Read, io::Write, path::Path};

use berth_init::plan::{Label, Module};
use oci_spec::runtime::Process;
use rustix::fs::StatVfsMountFlags;

use crate::{Context, Error, Result, arena::Arena};

/// Mount point of selinuxfs, and its magic number (statfs(2)).
const SELINUX: &str = "/sys/fs/selinux";
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;

/// Returns the labels that execve(2) applies: those of the process, or else the container's defaults.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the profile or label that this kernel cannot enforce.
pub fn plan<'a>(
    arena: &'a Arena,
    process: &Process,
    apparmor: Option<&str>,
    selinux: Option<&str>,
) -> Result<&'a [Label<'a>]> {
    let mut labels = Vec::new();
    if let Some(context) = context(process, selinux)? {
        let name = arena.bytes(context.as_bytes());
        labels.push(Label { module: Module::Selinux, attribute: c"thread-self/attr/exec", command: name, name });
    }
    if let Some(profile) = non_empty(process.apparmor_profile()).or(apparmor) {
        if apparmor_enabled() {
            // Since Linux 5.8 each module has its own files. The common ones belong to the first module.
            let own = Path::new("/proc/self/attr/apparmor/exec").exists();
            labels.push(Label {
                module: Module::AppArmor,
                attribute: if own { c"thread-self/attr/apparmor/exec" } else { c"thread-self/attr/exec" },
                command: arena.bytes(format!("exec {profile}").as_bytes()),
                name: arena.bytes(profile.as_bytes()),
            });
        } else if profile != "unconfined" {
            return Err(Error::invalid(format!(
                "process.apparmorProfile: {profile:?}: apparmor is not enabled on this host"
            )));
        }
    }
    Ok(arena.list(labels))
}

/// Returns the SELinux context of the session keyring. It is the context of the process, as in runc.
///
/// # Errors
/// As [`plan`].
pub fn key_label<'a>(arena: &'a Arena, process: &Process, selinux: Option<&str>) -> Result<Option<&'a [u8]>> {
    Ok(context(process, selinux)?.map(|context| arena.bytes(context.as_bytes())))
}

/// Returns `linux.mountLabel`, the SELinux context of the file systems that the container mounts.
///
/// # Errors
/// As [`plan`].
pub fn mount_label<'a>(arena: &'a Arena, label: Option<&str>) -> Result<Option<&'a CStr>> {
    match label.filter(|l| !l.is_empty()) {
        Some(label) => arena.text(check_context(label, "linux.mountLabel")?, "linux.mountLabel").map(Some),
        None => Ok(None),
    }
}

fn context(process: &Process, selinux: Option<&str>) -> Result<Option<String>> {
    non_empty(process.selinux_label()).or(selinux).map(|label| check_context(label, "process.selinuxLabel")).transpose()
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.is_empty())
}

/// Returns the context in the canonical form of the loaded policy: `s0:c2,c1` becomes `s0:c1,c2`.
fn check_context(label: &str, field: &str) -> Result<String> {
    if !selinux_enabled() {
        return Err(Error::invalid(format!("{field}: {label:?}: selinux is not enabled on this host")));
    }
    canonical(label).with_context(|| format!("{field}: {label:?}: no valid context"))
}

/// Asks selinuxfs: after a write to `context`, a read of the same file returns the canonical form. A bad one is
/// `EINVAL`.
fn canonical(label: &str) -> std::io::Result<String> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(Path::new(SELINUX).join("context"))?;
    file.write_all(label.as_bytes())?;
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData)?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

fn apparmor_enabled() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.first() == Some(&b'Y'))
}

/// Returns true as libselinux does: selinuxfs is writable, and a policy is loaded. Before that every process has the
/// context `kernel`.
fn selinux_enabled() -> bool {
    let mounted = rustix::fs::statfs(SELINUX).is_ok_and(|s| s.f_type == SELINUX_MAGIC)
        && rustix::fs::statvfs(SELINUX).is_ok_and(|s| !s.f_flag.contains(StatVfsMountFlags::RDONLY));
    mounted && fs::read("/proc/self/attr/current").is_ok_and(|own| own.split(|&b| b == 0).next() != Some(b"kernel"))
}
