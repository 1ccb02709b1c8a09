//! The payload: HOME, working directory, executable, execve.

use core::ffi::CStr;

use rustix::{
    fd::OwnedFd,
    fs::{self, Access, AtFlags, FileType, Mode, OFlags},
    io::{self, Errno},
};

use crate::{
    defence::Defence,
    error::{At, Result, refusal},
    plan::{Barrier, Hooks, Process},
    sys,
    wire::{Failure, Step},
};

/// The part of the plan that remains when the process has the payload's rights.
pub struct Remaining<'a> {
    /// The payload.
    pub process: Process<'a>,
    /// The path that execve takes.
    pub executable: &'a CStr,
    /// The hooks that run right before execve.
    pub start_container: Hooks<'a>,
    /// The wait between create and start; absent for an exec.
    pub barrier: Option<Barrier<'a>>,
    /// See [`crate::plan::Namespaces::enter_pid`].
    pub enters_pid: bool,
    /// The standard streams are a terminal.
    pub terminal: bool,
}

/// The size of the buffer for `HOME=` and a path, bytes.
pub const HOME_MAX: usize = 1024;
/// The part of a passwd file that is read, bytes: an image may have a file of any size.
const PASSWD_MAX: usize = 1 << 20;

/// Sets HOME from the container's /etc/passwd, by uid, if the plan asks for it. HOME is `/` if the file has no such
/// user.
///
/// The file is parsed here and not by the C library, which would load the image's NSS modules (CVE-2019-14271). It
/// must be a regular file, and 1 MiB of it is read. The container's root is the root of the process by now, so no link
/// leads outside.
pub fn set_home(process: &Process<'_>, buffer: &mut [u8; HOME_MAX]) -> Result<()> {
    if !process.find_home {
        return Ok(());
    }
    const PREFIX: &[u8] = b"HOME=";
    buffer.fill(0);
    let (prefix, rest) = buffer.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    let room = rest.len().saturating_sub(1);
    let found = match open_passwd() {
        Ok(Some(file)) => find_home(&file, process.uid, rest.get_mut(..room).unwrap_or_default()).at(Step::Passwd)?,
        Ok(None) => false,
        Err(e) => return Err(e).at(Step::Passwd),
    };
    if !found && let Some(first) = rest.first_mut() {
        *first = b'/';
    }
    let pointer = buffer.as_ptr().cast();
    if let Some(slot) = process.env.iter().find(|slot| slot.get().is_null()) {
        slot.set(pointer);
    }
    Ok(())
}

/// Opens /etc/passwd; `None` if it is missing, unreadable or no regular file.
fn open_passwd() -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match fs::open(c"/etc/passwd", flags, Mode::empty()) {
        Ok(file) if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::RegularFile => Ok(Some(file)),
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Copies the home directory from the first line with the uid to `out`.
pub fn find_home(file: &OwnedFd, uid: u32, out: &mut [u8]) -> io::Result<bool> {
    let mut parser = Passwd::new(uid);
    let mut buffer = [0u8; 4096];
    let mut total = 0;
    while total < PASSWD_MAX || !Defence::PasswdBound.stands() {
        let len = io::read(file, &mut buffer[..])?;
        let chunk = buffer.get(..len).unwrap_or_default();
        // The end of the file ends the last line.
        let chunk: &[u8] = if len == 0 { b"\n" } else { chunk };
        for &byte in chunk {
            if parser.push(byte, out) {
                return Ok(true);
            }
        }
        if len == 0 {
            break;
        }
        total += len;
    }
    Ok(false)
}

/// The index of the field that has the uid.
fn uid_field() -> u32 {
    if Defence::PasswdUid.stands() { 2 } else { 0 }
}

/// A parser of passwd(5) that takes one byte at a time. It reads the third field, the uid, and the sixth, the home
/// directory.
struct Passwd {
    wanted: u32,
    field: u32,
    /// The number in the third field so far; `None` if it is not a number of 32 bits.
    uid: Option<u64>,
    digits: u32,
    len: usize,
    overflow: bool,
}

impl Passwd {
    fn new(wanted: u32) -> Self {
        Self { wanted, field: 0, uid: Some(0), digits: 0, len: 0, overflow: false }
    }

    /// Takes one byte. Returns true at the end of a line with the uid and a home directory, which `out` then holds.
    fn push(&mut self, byte: u8, out: &mut [u8]) -> bool {
        match byte {
            b'\n' => {
                let hit = self.field >= 5
                    && self.digits > 0
                    && self.uid == Some(u64::from(self.wanted))
                    && self.len > 0
                    && !self.overflow;
                if !hit {
                    out.fill(0);
                    *self = Self::new(self.wanted);
                }
                hit
            }
            b':' => {
                self.field += 1;
                false
            }
            _ if self.field == uid_field() => {
                let digit = u64::from(byte.wrapping_sub(b'0'));
                self.uid =
                    self.uid.filter(|_| digit < 10).map(|n| n * 10 + digit).filter(|&n| n <= u64::from(u32::MAX));
                self.digits += 1;
                false
            }
            _ if self.field == 5 => {
                match out.get_mut(self.len) {
                    Some(slot) => *slot = byte,
                    None => self.overflow = true,
                }
                self.len += 1;
                false
            }
            _ => false,
        }
    }
}

/// Enters the working directory with the runtime's rights. Returns false if they do not suffice.
pub fn try_directory(process: &Process<'_>) -> Result<bool> {
    match rustix::process::chdir(process.cwd) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// Enters the working directory with the payload's rights, unless the process is in it already, and verifies that it
/// lies inside the root: a path such as `/proc/self/fd/7` could lead to a directory of the host (CVE-2024-21626).
pub fn change_directory(process: &Process<'_>, in_directory: bool) -> Result<()> {
    if !in_directory {
        rustix::process::chdir(process.cwd).at(Step::Cwd)?;
    }
    if !Defence::CwdInside.stands() {
        return Ok(());
    }
    let mut buffer = [0u8; 4097];
    match sys::getcwd(&mut buffer) {
        Ok(path) if path.starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(refusal(Step::CwdOutside, 0)),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// The index of [`Step::Executable`] if stat(2) of the file has failed.
pub const NOT_FOUND: u32 = 0;
/// The index of [`Step::Executable`] if the file exists, and the user may not execute it.
pub const NOT_EXECUTABLE: u32 = 1;

/// Returns the path of the executable, which is looked up with the payload's rights. A name without a slash is
/// searched in each directory of PATH.
pub fn find<'a>(process: &Process<'a>) -> Result<&'a CStr> {
    let refused = |index, e: Errno| Failure { step: Step::Executable, index, errno: e.raw_os_error() };
    match process.executables {
        [only] if only.to_bytes().contains(&b'/') && !process.from_path => {
            let stat = fs::stat(*only).map_err(|e| refused(NOT_FOUND, e))?;
            may_execute(only, &stat).map_err(|e| refused(NOT_EXECUTABLE, e))?;
            Ok(only)
        }
        candidates => candidates
            .iter()
            .find(|path| fs::stat(**path).is_ok_and(|stat| may_execute(path, &stat).is_ok()))
            .copied()
            .ok_or(refusal(Step::NotOnPath, 0)),
    }
}

/// Fails unless the effective user may execute the file.
fn may_execute(path: &CStr, stat: &fs::Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    fs::accessat(fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// Executes the payload. Returns only after an error.
pub fn execute(process: &Process<'_>, executable: &CStr) -> Result<core::convert::Infallible> {
    let refused = sys::execve(executable, process.args, process.env);
    write_reason(executable, refused.raw_os_error());
    Err(refused).at(Step::Exec)
}

/// Writes the reason for a failed execve to the payload's standard error, in runc's words: runc's users look for it
/// there.
fn write_reason(executable: &CStr, errno: i32) {
    let words: &[u8] = match errno {
        libc::E2BIG => b"argument list too long",
        libc::EACCES => b"permission denied",
        libc::EAGAIN => b"resource temporarily unavailable",
        libc::EINVAL => b"invalid argument",
        libc::EIO => b"input/output error",
        libc::ELIBBAD => b"accessing a corrupted shared library",
        libc::ELOOP => b"too many levels of symbolic links",
        libc::EMFILE => b"too many open files",
        libc::ENAMETOOLONG => b"file name too long",
        libc::ENFILE => b"too many open files in system",
        libc::ENOENT => b"no such file or directory",
        libc::ENOEXEC => b"exec format error",
        libc::ENOMEM => b"cannot allocate memory",
        libc::ENOTDIR => b"not a directory",
        libc::EPERM => b"operation not permitted",
        libc::ETXTBSY => b"text file busy",
        _ => b"it cannot be executed",
    };
    let Some(stderr) = sys::standard_stream(2) else { return };
    let _ = io::write(stderr, b"exec ");
    for part in without_controls(executable.to_bytes()) {
        let _ = io::write(stderr, part);
    }
    for part in [b": ", words, b"\n"] {
        let _ = io::write(stderr, part);
    }
}

/// The parts of a name from the image, with a question mark in place of each control character: C0, DEL, and C1 in
/// UTF-8.
fn without_controls(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    core::iter::from_fn(move || {
        let control_len = |at: usize| match rest.get(at..) {
            Some([0xc2, 0x80..=0x9f, ..]) => 2,
            Some([..0x20 | 0x7f, ..]) => 1,
            _ => 0,
        };
        let plain = (0..rest.len()).find(|at| control_len(*at) > 0).unwrap_or(rest.len());
        let (part, next): (&[u8], usize) = match plain {
            0 => (b"?", control_len(0)),
            len => (rest.get(..len).unwrap_or_default(), len),
        };
        let done = rest.is_empty();
        rest = rest.get(next..).unwrap_or_default();
        (!done).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_name_are_replaced() {
        for (name, said) in [
            (&b"/bin/sh"[..], &b"/bin/sh"[..]),
            (b"\x1b[2Ja\x7f", b"?[2Ja?"),
            (b"\xc2\x9b1m\xc3\xa9\n\n", b"?1m\xc3\xa9??"),
            (b"", b""),
        ] {
            assert!(without_controls(name).flatten().eq(said), "{}", name.escape_ascii());
        }
    }

    fn home(passwd: &[u8], uid: u32) -> Option<([u8; 8], usize)> {
        let mut out = [0u8; 8];
        let mut parser = Passwd::new(uid);
        for &byte in passwd.iter().chain(b"\n") {
            if parser.push(byte, &mut out) {
                return Some((out, parser.len));
            }
        }
        None
    }

    #[track_caller]
    fn check(passwd: &[u8], uid: u32, wanted: Option<&[u8]>) {
        let got = home(passwd, uid);
        assert_eq!(got.as_ref().map(|(out, len)| &out[..*len]), wanted);
    }

    #[test]
    fn home_is_that_of_the_exact_uid_in_passwd() {
        let usual = b"root:x:0:0:root:/root:/bin/sh\na:x:1000:1000::/home/a:/bin/sh";
        check(usual, 0, Some(b"/root"));
        check(usual, 1000, Some(b"/home/a"));
        check(usual, 1, None);
        // A name that looks like a number is no uid (CVE-2016-3697).
        check(b"1000:x:0:0::/evil:/bin/sh", 1000, None);
        // 1 << 32 is not 0 (CVE-2024-40635 and its kind).
        check(b"big:x:4294967296:0::/big:", 0, None);
        check(b"neg:x:-1:0::/neg:", 4_294_967_295, None);
        check(b"empty:x::0::/e:", 0, None);
        check(b"spaces:x: 0:0::/s:", 0, None);
        // Too long for the buffer is as good as absent.
        check(b"l:x:0:0::/home/long:", 0, None);
        check(b"short:x:0:0", 0, None);
        check(b"n:x:0:0::/n", 0, Some(b"/n"));
    }
}
