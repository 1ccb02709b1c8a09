//! The labels of security modules. They are written to the attributes of the thread, take effect at execve, and are
//! read back.
//!
//! The attributes are those of the host's /proc, which is opened before any namespace is entered: a volume over the
//! container's /proc cannot redirect the write (CVE-2019-16884, CVE-2025-52881).

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags},
    io,
};

use crate::{
    defence::Defence,
    error::{At, Result, refusal},
    plan::{Label, Module, Plan},
    procfs,
    wire::Step,
};

/// The largest number of modules with a label: AppArmor and SELinux.
const MODULES: usize = 2;
/// The size of an attribute, bytes: `PAGE_SIZE` (proc_pid_attr(5)).
const PAGE: usize = 4096;
/// The file below /proc with the SELinux context of new keyrings.
const KEY_CREATE: &CStr = c"thread-self/attr/keycreate";

/// Opens the host's /proc; `None` if the plan has no labels.
pub fn host_proc(plan: &Plan<'_>) -> Result<Option<OwnedFd>> {
    if plan.process.labels.is_empty() && plan.keyring_label.is_none() {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    procfs::open(c"/proc", flags, Step::Label, 0).map(Some)
}

/// Sets the label of the next session keyring (keyrings(7)) and reads it back. The kernel resets it at execve.
pub fn set_keyring_label(plan: &Plan<'_>, proc: Option<BorrowedFd<'_>>) -> Result<()> {
    let (Some(label), Some(proc)) = (plan.keyring_label, proc) else { return Ok(()) };
    let file = open(proc, KEY_CREATE).at(Step::KeyringLabel)?;
    procfs::verify(&file, Step::KeyringLabel, 0)?;
    io::write(&file, label).at(Step::KeyringLabel)?;
    let held = reads_as(&file, |got| is_context(label, got)).at(Step::KeyringLabel)?;
    if held { Ok(()) } else { Err(refusal(Step::KeyringLabel, 0)) }
}

/// The payload's labels, which are written and wait for execve.
pub struct Labels<'a> {
    labels: &'a [Label<'a>],
    files: [Option<OwnedFd>; MODULES],
}

impl<'a> Labels<'a> {
    /// Writes the labels. Only the process itself may set its labels, and it must still have all capabilities: without
    /// CAP_MAC_OVERRIDE AppArmor may add the profile to `unconfined` instead of replacing it
    /// (kernel.apparmor_restrict_unprivileged_unconfined, Linux 6.7).
    pub fn set(plan: &Plan<'a>, proc: Option<BorrowedFd<'_>>) -> Result<Self> {
        let labels = plan.process.labels;
        let mut files = [const { None }; MODULES];
        for (n, (label, slot)) in labels.iter().zip(&mut files).enumerate() {
            let Some(proc) = proc else { continue };
            let file = open(proc, label.attribute).at_index(Step::Label, n)?;
            procfs::verify(&file, Step::Label, n)?;
            io::write(&file, label.command).at_index(Step::Label, n)?;
            *slot = Some(file);
        }
        Ok(Self { labels, files })
    }

    /// Reads the labels back, and fails if one of them is another.
    pub fn verify(self) -> Result<()> {
        let labels = self.labels.iter().zip(&self.files).enumerate();
        for (n, (label, file)) in labels.filter(|_| Defence::ReadBack.stands()) {
            let held = |got: &[u8]| match label.module {
                Module::AppArmor => has_profiles(label.name, got),
                Module::Selinux => is_context(label.name, got),
            };
            let held = match file {
                Some(file) => reads_as(file, held).at_index(Step::LabelReadBack, n)?,
                None => false,
            };
            if !held {
                return Err(refusal(Step::LabelReadBack, n));
            }
        }
        Ok(())
    }
}

/// Opens an attribute below the host's /proc.
fn open(proc: BorrowedFd<'_>, attribute: &CStr) -> io::Result<OwnedFd> {
    fs::openat(proc, attribute, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Reads an attribute, and returns whether `holds` accepts it.
fn reads_as(file: &OwnedFd, holds: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = [0u8; PAGE];
    let len = io::pread(file.as_fd(), &mut buffer[..], 0)?;
    Ok(holds(buffer.get(..len).unwrap_or_default()))
}

/// True if the attribute has the context `wanted`. It may end in a NUL or a newline.
fn is_context(wanted: &[u8], got: &[u8]) -> bool {
    let end = got.iter().position(|&b| b == 0 || b == b'\n').unwrap_or(got.len());
    got.get(..end) == Some(wanted)
}

/// True if the stack `got` has every profile of the stack `wanted`. It may have more: a stack allows only what all its
/// profiles allow. The kernel sorts a stack, has each profile once, and appends the mode.
fn has_profiles(wanted: &[u8], got: &[u8]) -> bool {
    let got = got.trim_ascii_end();
    let got = match got.strip_suffix(b")").and_then(|g| g.iter().rposition(|&b| b == b'(')) {
        Some(mode) => got.get(..mode).unwrap_or_default().trim_ascii_end(),
        None => got,
    };
    if got.is_empty() {
        return false;
    }
    profiles(wanted).filter(|p| !p.is_empty()).all(|p| profiles(got).any(|g| same_profile(p, g)))
}

/// The profiles of a stack such as `a//&b//&:ns://c`. A stack that begins with `&` is added to the current profiles.
fn profiles(stack: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(stack.strip_prefix(b"&").unwrap_or(stack));
    core::iter::from_fn(move || {
        let stack = rest?;
        match stack.windows(3).position(|w| w == b"//&") {
            Some(at) => {
                rest = stack.get(at + 3..);
                stack.get(..at)
            }
            None => {
                rest = None;
                Some(stack)
            }
        }
    })
}

/// True if two names mean the same profile: `:ns://profile` and `:ns:profile` do.
fn same_profile(a: &[u8], b: &[u8]) -> bool {
    fn parts(name: &[u8]) -> (&[u8], &[u8]) {
        let Some(inner) = name.strip_prefix(b":") else { return (b"", name) };
        let Some(end) = inner.iter().position(|&b| b == b':') else { return (b"", name) };
        let (ns, profile) = (inner.get(..end).unwrap_or_default(), inner.get(end + 1..).unwrap_or_default());
        (ns, profile.strip_prefix(b"//").unwrap_or(profile))
    }
    parts(a) == parts(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_match_in_any_order() {
        for (wanted, got) in [
            ("a", "a (enforce)\n"),
            ("a", "a (complain)"),
            ("unconfined", "unconfined\n"),
            ("/bin/a b (c)", "/bin/a b (c) (enforce)\n"),
            ("a//&b", "b//&a (mixed)\n"),
            ("a//&a", "a (enforce)\n"),
            ("&a", "a//&before (enforce)\n"),
            ("a", "a//&b (enforce)\n"),
            (":ns://a", ":ns:a (enforce)\n"),
            ("a//&:ns:b", "a//&:ns://b (enforce)\n"),
            ("a//hat", "a//hat (enforce)"),
        ] {
            assert!(has_profiles(wanted.as_bytes(), got.as_bytes()), "{wanted} {got}");
        }
        for (wanted, got) in [
            ("a", ""),
            ("a", "unconfined\n"),
            ("a", "ab (enforce)\n"),
            ("a//&b", "a (enforce)\n"),
            (":ns:a", "a (enforce)\n"),
            (":x:a", ":ns:a (enforce)\n"),
            ("a", "a//hat (enforce)\n"),
        ] {
            assert!(!has_profiles(wanted.as_bytes(), got.as_bytes()), "{wanted} {got}");
        }
    }

    #[test]
    fn contexts_match_without_their_terminator() {
        let label = b"system_u:system_r:container_t:s0:c1,c2";
        for end in ["", "\0", "\n"] {
            assert!(is_context(label, &[&label[..], end.as_bytes()].concat()));
        }
        assert!(!is_context(label, b"") && !is_context(label, &label[..9]));
        assert!(!is_context(label, b"system_u:system_r:container_t:s0:c1,c23"));
    }
}
