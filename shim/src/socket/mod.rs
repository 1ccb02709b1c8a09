//! The server's Unix socket: its path, its directory, and the lock around making, finding and removing it.
//!
//! Two `start`s of one pod may race, and an exiting server may race both. So each looks, binds and unlinks only while
//! it holds flock(2) on the directory itself, which leaves no lock file behind. Under the lock a socket file is either
//! in use, or dead and replaceable.

use std::{
    io::ErrorKind,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use sha2::{Digest, Sha256};

/// The directory of sockets unless containerd names one.
pub const DIRECTORY: &str = "/run/containerd/s";
/// The time limit for a connect. A listener that is slower counts as alive.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// The time limit for the lock. Its holders make a few system calls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// The listen(2) backlog: connections that wait until the server runs.
const BACKLOG: i32 = 128;

/// The result of [`claim`].
#[derive(Debug)]
pub enum Claim {
    /// The socket is bound and listens.
    Bound(OwnedFd),
    /// A server listens there already.
    InUse,
}

/// The path of a group's socket. Its name is a digest of the three names that identify the group on this machine, so it
/// is short enough for any directory.
///
/// # Errors
/// The path is longer than sun_path (unix(7)).
pub fn path(directory: &Path, grpc_address: &str, namespace: &str, group: &str) -> Result<PathBuf> {
    let digest = Sha256::digest(format!("{grpc_address}/{namespace}/{group}"));
    let path = directory.join(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    SocketAddrUnix::new(&path).with_context(|| format!("socket path {}", path.display()))?;
    Ok(path)
}

/// Binds `path`, or finds that a server listens there. A dead socket is replaced. The socket has mode 0600 from its
/// first moment; a missing directory is made with mode 0700.
///
/// # Errors
/// The directory cannot be made, belongs to another user or is writable by others; a file that is no socket is in the
/// way; or a system call failed.
pub fn claim(path: &Path) -> Result<Claim> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directory(directory)?;
    let _lock = lock(directory)?;
    match listen(path) {
        Err(e) if e.errno() == Some(libc::EADDRINUSE) => {}
        bound => return bound.map(Claim::Bound),
    }
    if is_in_use(path)? {
        return Ok(Claim::InUse);
    }
    unlink_socket(path)?;
    listen(path).map(Claim::Bound)
}

/// Removes a dead socket: that of a killed server.
///
/// # Errors
/// The lock or the removal failed.
pub fn remove_dead(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(path.parent().unwrap_or(Path::new("/")))?;
    if is_in_use(path)? { Ok(()) } else { unlink_socket(path) }
}

/// The device and inode of a socket file. With it a server removes its own socket and not that of a newer server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId(u64, u64);

/// The identity of the file at `path`.
pub fn socket_id(path: &Path) -> Option<SocketId> {
    std::fs::symlink_metadata(path).ok().map(|meta| SocketId(meta.dev(), meta.ino()))
}

/// Removes the socket if it still has that identity.
///
/// # Errors
/// The lock or the removal failed.
pub fn remove_own(path: &Path, own: SocketId) -> Result<()> {
    let _lock = lock(path.parent().unwrap_or(Path::new("/")))?;
    if socket_id(path) == Some(own) { unlink_socket(path) } else { Ok(()) }
}

fn make_directory(directory: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("make socket directory {}", directory.display()))?;
    let meta = std::fs::metadata(directory).with_context(|| format!("stat {}", directory.display()))?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        let text = format!("socket directory {}: owned or writable by another user", directory.display());
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// Takes the directory's lock, which dropping the descriptor releases.
fn lock(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("open socket directory {}", directory.display()))?;
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::INTR) => {}
            locked => {
                locked.with_context(|| format!("lock socket directory {}", directory.display()))?;
                return Ok(fd);
            }
        }
    }
}

fn listen(path: &Path) -> Result<OwnedFd> {
    let what = || format!("listen on {}", path.display());
    let address = SocketAddrUnix::new(path).with_context(what)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).with_context(what)?;
    // bind(2) gives the file the mode of the socket's inode less the umask, so the file never has a wider mode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).with_context(what)?;
    rustix::net::bind(&socket, &address).with_context(what)?;
    if let Err(e) = rustix::net::listen(&socket, BACKLOG) {
        // This process has just bound the file. The caller gets the first error.
        let _ = std::fs::remove_file(path);
        return Err(e).with_context(what);
    }
    Ok(socket)
}

fn is_in_use(path: &Path) -> Result<bool> {
    let what = || format!("connect to {}", path.display());
    let address = SocketAddrUnix::new(path).with_context(what)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).with_context(what)?;
    let end = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match rustix::net::connect(socket.as_fd(), &address) {
            Ok(()) => return Ok(true),
            // The backlog is full, so a server listens, if slowly.
            Err(Errno::AGAIN) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::CONNREFUSED | Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e).with_context(what),
        }
    }
}

fn unlink_socket(path: &Path) -> Result<()> {
    let what = || format!("remove dead socket {}", path.display());
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.with_context(what)?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Error::invalid("is no socket").context(what()));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(what),
    }
}

#[cfg(test)]
mod tests;
