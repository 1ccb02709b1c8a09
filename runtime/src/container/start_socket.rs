//! The socket in a state directory by which another process than its maker starts a container: init listens, start comes.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::{Context, Result, host::unix_address};

const NAME: &str = "start.sock";

/// Where the init of a container waits for another process to start it.
///
/// # Errors
/// Names the socket.
pub fn listen(dir: &Path) -> Result<OwnedFd> {
    let bind = || -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        // The mode that bind(2) gives the file, as far as the umask allows (unix(7)): without this it is 0777.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (_dir, path) = unix_address::short_path(dir, NAME)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    };
    bind().with_context(|| format!("listen on {}", dir.join(NAME).display()))
}

/// A connection to the init that waits there. One that is closed again has started nothing.
///
/// # Errors
/// `ECONNREFUSED` when it has been started or is gone; names the socket.
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
