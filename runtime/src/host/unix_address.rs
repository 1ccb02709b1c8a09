//! Addresses of unix sockets at paths of any length. `struct sockaddr_un` holds 107 bytes (unix(7)).

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, Result},
    net::SocketAddrUnix,
};

/// An address for connect(2) to an existing socket.
pub struct Address {
    address: SocketAddrUnix,
    /// The socket's file, open while the address names it through /proc/self/fd.
    _file: Option<OwnedFd>,
}

impl Address {
    /// Returns the address of the socket at `path`. If the path is too long, the address uses a descriptor of the file.
    ///
    /// # Errors
    /// As open(2), for a path that is too long.
    pub fn new(path: &Path) -> Result<Self> {
        match SocketAddrUnix::new(path) {
            Ok(address) => Ok(Self { address, _file: None }),
            Err(Errno::NAMETOOLONG) => {
                let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                Ok(Self { address, _file: Some(file) })
            }
            Err(e) => Err(e),
        }
    }

    /// Returns the address for connect(2).
    pub fn socket(&self) -> &SocketAddrUnix {
        &self.address
    }
}

/// Returns an address for the socket `name` in the directory `dir` of any length, as a path below /proc/self/fd. The
/// returned descriptor of the directory must stay open while the address is used.
pub fn short_path(dir: &Path, name: &str) -> Result<(OwnedFd, String)> {
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{name}", fd.as_raw_fd());
    Ok((fd, path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    #[test]
    fn socket_at_a_path_of_any_length_is_reached() {
        let top = std::env::temp_dir().join(format!("berth-address-{}", std::process::id()));
        for name in ["s".to_owned(), "s".repeat(120), "s".repeat(255)] {
            let dir = top.join("d".repeat(200)).join("e".repeat(200));
            std::fs::create_dir_all(&dir).unwrap();
            let made = top.join("short");
            let listener = UnixListener::bind(&made).unwrap();
            std::fs::rename(&made, dir.join(&name)).unwrap();
            let socket = || {
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
            };
            rustix::net::connect(socket(), Address::new(&dir.join(&name)).unwrap().socket()).unwrap();
            listener.accept().unwrap();
            std::fs::rename(dir.join(&name), &made).unwrap();
            rustix::net::connect(socket(), Address::new(&made).unwrap().socket()).unwrap();
            assert_eq!(Address::new(&dir.join(&name)).err(), Some(Errno::NOENT));
            std::fs::remove_dir_all(&top).unwrap();
        }
    }
}
