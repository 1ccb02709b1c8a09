//! Reads the mount table (proc_pid_mountinfo(5)). On a node with many mounts reading takes milliseconds, so callers use
//! it only if no other call gives the answer.

use std::{
    ffi::{CStr, OsString},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::{Context, Result, arena::Arena};

/// A line of a mount table: `36 35 98:0 /root /point options [tags…] - type source options`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The id of the mount.
    pub id: &'a [u8],
    /// The type of the file system.
    pub fstype: &'a [u8],
    /// The options of the file system, with commas between them.
    pub options: &'a [u8],
    root: &'a [u8],
    point: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line. Returns `None` if it has no type of a file system.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|b| *b == b' ');
        let (id, root, point) = (words.next()?, words.nth(2)?, words.next()?);
        let mut words = words.skip_while(|word| *word != b"-").skip(1);
        let fstype = words.next()?;
        Some(Self { id, fstype, options: words.nth(1).unwrap_or_default(), root, point })
    }

    /// The directory or file of the file system that is mounted.
    pub fn root(&self) -> PathBuf {
        OsString::from_vec(unescape(self.root)).into()
    }

    /// The mount point.
    pub fn point(&self) -> PathBuf {
        OsString::from_vec(unescape(self.point)).into()
    }
}

/// Returns the lines of a mount table.
pub fn lines(table: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    table.split(|b| *b == b'\n').filter_map(Line::parse)
}

/// Reads the mount table of this process. A mount point may be no UTF-8.
///
/// # Errors
/// /proc is not mounted.
pub fn read() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")
}

/// Returns the mount points of complete procfs and sysfs mounts of the host, relative to `/`, the deepest first.
///
/// The kernel lets a user namespace mount procfs or sysfs only if it sees a complete one (mount_namespaces(7)). With
/// `--no-pivot` a container still sees the host's, so they must be hidden. Mounts inside `rootfs` are left out: they
/// belong to the image.
///
/// # Errors
/// /proc/self/mountinfo cannot be read.
pub(crate) fn whole_mounts<'a>(arena: &'a Arena, rootfs: &Path) -> Result<&'a [&'a CStr]> {
    let table = read()?;
    let mut found = complete_mounts(&table);
    found.retain(|at| !at.starts_with(rootfs));
    found.reverse();
    let relative = found.iter().map(|at| arena.path(at.strip_prefix("/").unwrap_or(at), "mountinfo"));
    Ok(arena.list(relative.collect::<Result<Vec<_>>>()?))
}

fn complete_mounts(table: &[u8]) -> Vec<PathBuf> {
    let complete = |line: &Line<'_>| line.root == b"/" && matches!(line.fstype, b"proc" | b"sysfs");
    lines(table).filter(complete).map(|line| line.point()).collect()
}

/// Returns the first mount point of a file system type.
///
/// # Errors
/// /proc/self/mountinfo cannot be read.
pub fn first_of(fstype: &str) -> Result<Option<PathBuf>> {
    Ok(lines(&read()?).find(|line| line.fstype == fstype.as_bytes()).map(|line| line.point()))
}

/// Decodes a field of mountinfo. The kernel writes space, tab, newline and backslash as a backslash and three octal
/// digits.
fn unescape(field: &[u8]) -> Vec<u8> {
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
        let table = b"22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
            23 27 0:22 / /a\\040b\\134 rw - sysfs sysfs rw\n\
            24 27 0:21 /sys /proc/sys ro - proc proc rw\n\
            25 27 0:23 / /dev rw - devtmpfs udev rw\n";
        assert_eq!(complete_mounts(table), [Path::new("/proc"), Path::new("/a b\\")]);
    }

    #[test]
    fn fields_of_a_line_of_mountinfo_are_read() {
        let line = Line::parse(b"25 27 0:23 /r /my\\040rdt\xff rw shared:1 - resctrl  rw,x=y").unwrap();
        assert_eq!((line.id, line.fstype, line.options), (&b"25"[..], &b"resctrl"[..], &b"rw,x=y"[..]));
        assert_eq!((line.root(), line.point()), ("/r".into(), OsString::from_vec(b"/my rdt\xff".to_vec()).into()));
        for bad in [&b""[..], b"25 27 0:23 / /point rw", b"25 27 0:23 / /point rw -"] {
            assert!(Line::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn octal_escapes_of_mountinfo_are_decoded() {
        assert_eq!(unescape(b"a\\134b\\011\\9"), b"a\\b\t\\9");
    }
}
