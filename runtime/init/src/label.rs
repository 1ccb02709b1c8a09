//! Labels of security modules: written to the thread's own attributes, where they wait for execve, and read back.
//!
//! The attributes are those of the host's /proc, held from before any namespace is entered: a volume over the
//! container's /proc cannot redirect the write (CVE-2019-16884, CVE-2025-52881).

use core::ffi::CStr;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags},
    io,
};

use crate::{
    error::{At, Result, refusal},
    plan::{Label, Module, Plan},
    wire::Step,
};

/// At most so many modules are given a label.
const MODULES: usize = 2;
/// What an attribute can hold, bytes: `PAGE_SIZE` (proc_pid_attr(5)).
const PAGE: usize = 4096;
/// Below /proc: what SELinux labels new keyrings with.
const KEY_CREATE: &CStr = c"thread-self/attr/keycreate";

/// The host's /proc, while it is in sight; `None` when nothing has a label.
pub fn host_proc(plan: &Plan<'_>) -> Result<Option<OwnedFd>> {
    if plan.process.labels.is_empty() && plan.keyring_label.is_none() {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(c"/proc", flags, Mode::empty()).map(Some).at(Step::Label)
}

/// The label of the session keyring that is made next (keyrings(7), SELinux); execve takes it back.
pub fn set_keyring_label(plan: &Plan<'_>, proc: Option<BorrowedFd<'_>>) -> Result<()> {
    let (Some(label), Some(proc)) = (plan.keyring_label, proc) else { return Ok(()) };
    let file = open(proc, KEY_CREATE).at(Step::KeyringLabel)?;
    io::write(&file, label).at(Step::KeyringLabel)?;
    let held = reads_as(&file, |got| is_context(label, got)).at(Step::KeyringLabel)?;
    if held { Ok(()) } else { Err(refusal(Step::KeyringLabel, 0)) }
}

/// The payload's labels, on their way to execve.
pub struct Labels<'a> {
    labels: &'a [Label<'a>],
    files: [Option<OwnedFd>; MODULES],
}

impl<'a> Labels<'a> {
    /// Sets them. This comes in the process that will execve, since nobody may set another's, and while it has all its
    /// capabilities: without CAP_MAC_OVERRIDE AppArmor may be told to add a profile to `unconfined` where it should
    /// take its place (kernel.apparmor_restrict_unprivileged_unconfined, Linux 6.7).
    pub fn set(plan: &Plan<'a>, proc: Option<BorrowedFd<'_>>) -> Result<Self> {
        let labels = plan.process.labels;
        let mut files = [const { None }; MODULES];
        for (n, (label, slot)) in labels.iter().zip(&mut files).enumerate() {
            let Some(proc) = proc else { continue };
            let file = open(proc, label.attribute).at_index(Step::Label, n)?;
            io::write(&file, label.command).at_index(Step::Label, n)?;
            *slot = Some(file);
        }
        Ok(Self { labels, files })
    }

    /// Reads them back.
    pub fn verify(self) -> Result<()> {
        for (n, (label, file)) in self.labels.iter().zip(&self.files).enumerate() {
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

fn open(proc: BorrowedFd<'_>, attribute: &CStr) -> io::Result<OwnedFd> {
    fs::openat(proc, attribute, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn reads_as(file: &OwnedFd, holds: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = [0u8; PAGE];
    let len = io::pread(file.as_fd(), &mut buffer[..], 0)?;
    Ok(holds(buffer.get(..len).unwrap_or_default()))
}

/// A context reads back as it is, with or without a NUL or a newline at its end.
fn is_context(wanted: &[u8], got: &[u8]) -> bool {
    let end = got.iter().position(|&b| b == 0 || b == b'\n').unwrap_or(got.len());
    got.get(..end) == Some(wanted)
}

/// Every profile of the stack `wanted` is in the stack `got`, which may have more: a stack allows what all of it allows.
/// The kernel keeps a stack in an order of its own, each profile once, with the mode behind it all.
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

/// `a//&b//&:ns://c`, one by one; a stack that begins with `&` is put upon what holds already.
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

/// `:ns://profile` and `:ns:profile` are the same.
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
    fn profiles_are_read_back_in_any_order() {
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
    fn contexts_are_read_back_as_they_are() {
        let label = b"system_u:system_r:container_t:s0:c1,c2";
        for end in ["", "\0", "\n"] {
            assert!(is_context(label, &[&label[..], end.as_bytes()].concat()));
        }
        assert!(!is_context(label, b"") && !is_context(label, &label[..9]));
        assert!(!is_context(label, b"system_u:system_r:container_t:s0:c1,c23"));
    }
}
