//! Protects the runtime's own program from its containers.
//!
//! A container's process runs the runtime's program until its execve(2). If the image's entry point is
//! `#!/proc/self/exe`, the container runs it again. Through /proc/<pid>/exe a process in the container could open the
//! file for writing and replace the host's binary (CVE-2019-5736). So a process that creates containers runs from a
//! read-only detached mount of its own file. Opening that for writing fails with `EROFS`, no process can remount it,
//! and it shares the page cache. If mounts are not permitted, the process runs from a sealed copy in memory.

use std::{
    fs::File,
    io::{Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use berth_init::defence::Defence;
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};

use crate::{Context, Error, Kind, Result, host::time::Stopwatch, leaves::mount};

const SELF: &str = "/proc/self/exe";

/// Returns true if this process runs from a read-only mount or a sealed file. Checks it once.
pub fn is_sealed() -> bool {
    static SEALED: OnceLock<bool> = OnceLock::new();
    if !Defence::SealedProgram.stands() {
        return true;
    }
    *SEALED.get_or_init(|| {
        let readonly = rustix::fs::statvfs(SELF).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY));
        readonly
            || File::open(SELF)
                .is_ok_and(|f| rustix::fs::fcntl_get_seals(&f).is_ok_and(|s| s.contains(SealFlags::WRITE)))
    })
}

/// Executes this program again from a sealed file, with the same arguments, unless it runs from one.
///
/// The process and its descriptors without close-on-exec stay the same.
///
/// # Errors
/// Neither a read-only mount nor a sealed copy is possible.
pub fn ensure() -> Result<()> {
    if is_sealed() {
        return Ok(());
    }
    let watch = Stopwatch::start();
    let program = Program::new()?;
    log::debug!("seal: a read-only mount or copy of the program took {watch}; executing it");
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    Err(Error::from(Command::new(program.path()).arg0(name).args(args).exec()).context("run the sealed program"))
}

/// Refuses to create a container's process if this process is not sealed.
pub(crate) fn check() -> Result<()> {
    let text = "refusing to make a container: its processes could write to the runtime's own program";
    if is_sealed() { Ok(()) } else { Err(Error::new(Kind::Internal, text)) }
}

/// A sealed file of this program. It can be executed by its path while this value lives.
pub struct Program(OwnedFd);

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Program {
    /// Creates a read-only mount, or else a sealed copy.
    ///
    /// # Errors
    /// As memfd_create(2) and write(2).
    pub fn new() -> Result<Self> {
        let fd = read_only_mount().or_else(|e| {
            log::debug!("seal: no read-only mount of the program ({e}), copying it");
            sealed_copy(&mut File::open(SELF).context("open /proc/self/exe")?)
        })?;
        Self::above_dup2(fd)
    }

    /// Creates a sealed file of another program, which is open for reading.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(program: &File) -> Result<Self> {
        let fd = mount::clone_file(program.as_fd()).and_then(read_only).or_else(|e| {
            log::debug!("seal: no read-only mount of the new program ({e}), copying it");
            let mut from = program.try_clone().context("dup the program")?;
            from.rewind().context("read the program")?;
            sealed_copy(&mut from)
        })?;
        Self::above_dup2(fd)
    }

    /// The number is above those that a caller uses for dup2(2).
    fn above_dup2(fd: OwnedFd) -> Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(fd, 64).context("dup the sealed program")?))
    }

    /// Returns a path that this process and its children can execute.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn read_only_mount() -> Result<OwnedFd> {
    let exe = std::fs::read_link(SELF).context("readlink /proc/self/exe")?;
    let tree = mount::clone_tree(&exe, mount::Submounts::Exclude)?;
    // An upgrade may have replaced the file at the path.
    let (theirs, ours) = (rustix::fs::fstat(&tree)?, rustix::fs::stat(SELF)?);
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        return Err(Error::new(Kind::NotFound, format!("{} has been replaced", exe.display())));
    }
    read_only(tree)
}

fn read_only(tree: OwnedFd) -> Result<OwnedFd> {
    berth_init::sys::mount_setattr(tree.as_fd(), false, mount::attr::RDONLY, 0, 0)?;
    Ok(tree)
}

fn sealed_copy(program: &mut File) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // vm.memfd_noexec requires MFD_EXEC (Linux 6.3). Older kernels refuse the flag.
    let memory = rustix::fs::memfd_create("berth", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("berth", flags))
        .context("memfd_create")?;
    let mut copy = File::from(memory);
    std::io::copy(program, &mut copy).context("copy the program")?;
    copy.flush()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).context("seal the copy")?;
    // execve(2) of a file that is open for writing fails with ETXTBSY, so a read-only descriptor is needed.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(File::open(path).context("open the sealed copy")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_copy_of_the_program_cannot_be_changed() {
        let fd = sealed_copy(&mut File::open(SELF).unwrap()).unwrap();
        assert_eq!(rustix::fs::ftruncate(&fd, 0).unwrap_err(), rustix::io::Errno::INVAL);
        let again = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        assert!(again.is_err() || again.unwrap().write(b"x").is_err());
        assert!(rustix::fs::fcntl_get_seals(&fd).unwrap().contains(SealFlags::WRITE));
        assert!(!is_sealed(), "the test program itself is an ordinary file");
    }
}
