//! Reads the mount table (proc_pid_mountinfo(5)). On a node with many mounts reading takes milliseconds, so callers use
//! it only if no other call gives the answer.

use std::{
    ffi::CStr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{Context, Result, arena::Arena};

/// Returns the mount points of complete procfs and sysfs mounts of the host, relative to `/`, the deepest first.
///
/// The kernel lets a user namespace mount procfs or sysfs only if it sees a complete one (mount_namespaces(7)). With
/// `--no-pivot` a container still sees the host's, so they must be hidden. Mounts inside `rootfs` are left out: they
/// belong to the image.
///
/// # Errors
/// /proc/self/mountinfo cannot be read.
pub(crate) fn whole_mounts<'a>(arena: &'a Arena, rootfs: &Path) -> Result<&'a [&'a CStr]> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mut found: Vec<Vec<u8>> = mountinfo.split(|b| *b == b'\n').filter_map(complete_mount_point).collect();
    found.retain(|at| !Path::new(std::ffi::OsStr::from_bytes(at)).starts_with(rootfs));
    found.reverse();
    let relative = found
        .iter()
        .map(|at| arena.path(Path::new(std::ffi::OsStr::from_bytes(at.get(1..).unwrap_or(at))), "mountinfo"));
    Ok(arena.list(relative.collect::<Result<Vec<_>>>()?))
}

/// Returns the first mount point of a file system type.
///
/// # Errors
/// /proc/self/mountinfo cannot be read.
pub fn first_of(fstype: &str) -> Result<Option<PathBuf>> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(mountinfo.split(|b| *b == b'\n').find_map(|line| point_of(line, fstype.as_bytes())))
}

/// Returns the mount point of a line, if the line is a mount of this type.
pub fn point_of(line: &[u8], fstype: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|b| *b == b' ');
    let at = words.nth(4)?;
    let is = words.skip_while(|word| *word != b"-").nth(1)?;
    (is == fstype).then(|| std::ffi::OsString::from_vec(unescape(at)).into())
}

/// Returns the mount point of a line, if the line is a complete procfs or sysfs mount.
pub fn complete_mount_point(line: &[u8]) -> Option<Vec<u8>> {
    let mut words = line.split(|b| *b == b' ');
    let (root, at) = (words.nth(3)?, words.next()?);
    let fstype = words.skip_while(|word| *word != b"-").nth(1)?;
    (root == b"/" && matches!(fstype, b"proc" | b"sysfs")).then(|| unescape(at))
}

/// Decodes a field of mountinfo. The kernel writes space, tab, newline and backslash as a backslash and three octal
/// digits.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_procfs_and_sysfs_mounts_are_found() {
        let rows: [(&[u8], Option<&[u8]>); 5] = [
            (b"22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw", Some(b"/proc")),
            (b"23 27 0:22 / /a\\040b\\134 rw - sysfs sysfs rw", Some(b"/a b\\")),
            (b"24 27 0:21 /sys /proc/sys ro - proc proc rw", None),
            (b"25 27 0:23 / /dev rw - devtmpfs udev rw", None),
            (b"", None),
        ];
        for (line, at) in rows {
            assert_eq!(complete_mount_point(line).as_deref(), at);
        }
    }

    #[test]
    fn mount_point_is_found_by_file_system_type() {
        let line = b"25 27 0:23 / /my\\040rdt rw shared:1 - resctrl none rw";
        assert_eq!(point_of(line, b"resctrl"), Some("/my rdt".into()));
        assert_eq!(point_of(line, b"none"), None);
        assert_eq!(point_of(b"", b"resctrl"), None);
    }

    #[test]
    fn octal_escapes_of_mountinfo_are_decoded() {
        assert_eq!(unescape(b"a\\134b\\011\\9"), b"a\\b\t\\9");
    }
}
