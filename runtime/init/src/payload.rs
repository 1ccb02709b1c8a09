//! The payload itself: HOME, working directory, the executable, execve.

use core::ffi::CStr;

use rustix::{
    fd::OwnedFd,
    fs::{self, Access, AtFlags, FileType, Mode, OFlags},
    io::{self, Errno},
};

use crate::{
    error::{At, Result, refusal},
    plan::{Barrier, Hooks, Process},
    sys,
    wire::{Failure, Step},
};

/// The part of the plan that is still to be carried out when the process has the payload's rights.
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

/// Room for `HOME=` and a directory.
pub const HOME_MAX: usize = 1024;
/// How much of a passwd is read: images are not trusted to have a small one.
const PASSWD_MAX: usize = 1 << 20;

/// Sets HOME from the container's own /etc/passwd, by uid, when the plan asks for it; `/` when that says nothing.
///
/// The file is parsed here and not by the C library, which would load the image's NSS modules (CVE-2019-14271). It
/// is read without following a link out of the root (there is none: this is the root), must be a regular file, and
/// is read up to 1 MiB.
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

fn open_passwd() -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match fs::open(c"/etc/passwd", flags, Mode::empty()) {
        Ok(file) if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::RegularFile => Ok(Some(file)),
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Copies the home of the first line whose third field is `uid`.
fn find_home(file: &OwnedFd, uid: u32, out: &mut [u8]) -> io::Result<bool> {
    let mut parser = Passwd::new(uid);
    let mut buffer = [0u8; 4096];
    let mut total = 0;
    while total < PASSWD_MAX {
        let len = io::read(file, &mut buffer[..])?;
        let chunk = buffer.get(..len).unwrap_or_default();
        // End of file ends the last line.
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

/// passwd(5), a byte at a time: only the third field and the sixth are looked at.
struct Passwd {
    wanted: u32,
    field: u32,
    /// The number in field 2 so far; `None` once it is not a number that fits.
    uid: Option<u64>,
    digits: u32,
    len: usize,
    overflow: bool,
}

impl Passwd {
    fn new(wanted: u32) -> Self {
        Self { wanted, field: 0, uid: Some(0), digits: 0, len: 0, overflow: false }
    }

    /// Takes a byte; true when the line that just ended is the user's, and `out` holds the home.
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
            _ if self.field == 2 => {
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

/// Tries the working directory with the runtime's rights; true when it has been entered.
pub fn try_directory(process: &Process<'_>) -> Result<bool> {
    match rustix::process::chdir(process.cwd) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// Enters the working directory with the payload's rights unless that is `done`, and makes sure that it lies inside
/// the root: a path like `/proc/self/fd/7` could lead to a directory of the host (CVE-2024-21626).
pub fn change_directory(process: &Process<'_>, done: bool) -> Result<()> {
    if !done {
        rustix::process::chdir(process.cwd).at(Step::Cwd)?;
    }
    let mut buffer = [0u8; 4097];
    match sys::getcwd(&mut buffer) {
        Ok(path) if path.starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(refusal(Step::CwdOutside, 0)),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// The index of [`Step::Executable`]: the file could not be seen at all.
pub const NOT_FOUND: u32 = 0;
/// The index of [`Step::Executable`]: it is there, but no program that this user may run.
pub const NOT_EXECUTABLE: u32 = 1;

/// Finds the executable, with the payload's rights. A name without a slash is looked for in each directory of PATH.
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

fn may_execute(path: &CStr, stat: &fs::Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    fs::accessat(fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// Becomes the payload; returns only what kept it from that.
pub fn execute(process: &Process<'_>, executable: &CStr) -> Result<core::convert::Infallible> {
    let refused = sys::execve(executable, process.args, process.env);
    complain(executable, refused.raw_os_error());
    Err(refused).at(Step::Exec)
}

/// Says on the payload's standard error what kept it from being: where runc's users look for it, in the same words.
fn complain(executable: &CStr, errno: i32) {
    let words: &[u8] = match errno {
        libc::E2BIG => b"argument list too long",
        libc::EACCES => b"permission denied",
        libc::EIO => b"input/output error",
        libc::ELIBBAD => b"accessing a corrupted shared library",
        libc::ELOOP => b"too many levels of symbolic links",
        libc::ENOENT => b"no such file or directory",
        libc::ENOEXEC => b"exec format error",
        libc::ENOMEM => b"cannot allocate memory",
        libc::ENOTDIR => b"not a directory",
        libc::EPERM => b"operation not permitted",
        libc::ETXTBSY => b"text file busy",
        _ => b"it cannot be executed",
    };
    let _ = io::write(rustix::stdio::stderr(), b"exec ");
    for part in harmless(executable.to_bytes()) {
        let _ = io::write(rustix::stdio::stderr(), part);
    }
    for part in [b": ", words, b"\n"] {
        let _ = io::write(rustix::stdio::stderr(), part);
    }
}

/// A name of the image in parts, with a question mark for each character that a terminal obeys: C0, DEL, and C1 as UTF-8
/// has it.
fn harmless(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    core::iter::from_fn(move || {
        let obeyed = |at: usize| match rest.get(at..) {
            Some([0xc2, 0x80..=0x9f, ..]) => 2,
            Some([..0x20 | 0x7f, ..]) => 1,
            _ => 0,
        };
        let plain = (0..rest.len()).find(|at| obeyed(*at) > 0).unwrap_or(rest.len());
        let (part, next): (&[u8], usize) = match plain {
            0 => (b"?", obeyed(0)),
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
    fn a_terminal_obeys_no_name() {
        for (name, said) in [
            (&b"/bin/sh"[..], &b"/bin/sh"[..]),
            (b"\x1b[2Ja\x7f", b"?[2Ja?"),
            (b"\xc2\x9b1m\xc3\xa9\n\n", b"?1m\xc3\xa9??"),
            (b"", b""),
        ] {
            assert!(harmless(name).flatten().eq(said), "{}", name.escape_ascii());
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
