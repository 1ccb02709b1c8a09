//! The socket in the state directory through which another process starts a container. init listens, start connects.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::{Context, Result, host::unix_address};

const NAME: &str = "start.sock";

/// Listens on the socket, for an init that waits to be started.
///
/// # Errors
/// As socket(2), bind(2) and listen(2), with the path.
pub fn listen(dir: &Path) -> Result<OwnedFd> {
    let bind = || -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        // bind(2) creates the file with the socket's mode and the umask (unix(7)). The default mode is 0777.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (_dir, path) = unix_address::short_path(dir, NAME)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    };
    bind().with_context(|| format!("listen on {}", dir.join(NAME).display()))
}

/// Connects to the waiting init. Closing the connection without a message does not start it.
///
/// # Errors
/// `ECONNREFUSED` if init has been started or has exited, with the path.
pub fn connect(dir: &Path) -> Result<OwnedFd> {
    let connect = || -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        let (_dir, path) = unix_address::short_path(dir, NAME)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connect().with_context(|| format!("connect to {}", dir.join(NAME).display()))
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}
