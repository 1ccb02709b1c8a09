//! The socket in the state directory through which another process starts a container. init listens, start connects.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    fs::Mode,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{Context, Result, host::unix_address};

const NAME: &str = "start.sock";
/// Longest time that init, which does nothing else, may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

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
/// `ECONNREFUSED` if init has been started or has exited, `EAGAIN` if it has not accepted earlier connections within
/// 30 s, with the path.
pub fn connect(dir: &Path) -> Result<OwnedFd> {
    connect_within(dir, CONNECT_TIMEOUT)
}

fn connect_within(dir: &Path, timeout: Duration) -> Result<OwnedFd> {
    let connect = || -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        // connect(2) waits while the listener's queue is full (unix(7)).
        set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
        let (_dir, path) = unix_address::short_path(dir, NAME)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connect().with_context(|| format!("connect to {}", dir.join(NAME).display()))
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_to_an_init_that_accepts_none_times_out() {
        let dir = std::env::temp_dir().join(format!("berth-start-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let _stopped = listen(&dir).unwrap();
        // The first connections fit in the queue of the socket.
        let connect = || connect_within(&dir, Duration::from_millis(20));
        let queued: Vec<_> = std::iter::repeat_with(connect).take(8).collect();
        let refused = queued.iter().find_map(|one| one.as_ref().err()).unwrap();
        assert_eq!(refused.errno(), Some(libc::EAGAIN), "{refused}");
        assert!(queued.iter().any(Result::is_ok), "the queue has room");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
