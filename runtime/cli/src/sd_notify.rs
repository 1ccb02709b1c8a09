//! `$NOTIFY_SOCKET`: `run` and `start` forward the readiness notification of a container to the service manager
//! (sd_notify(3)).
//!
//! ```text
//! container ── datagrams ──> <state>/notify/notify.sock ── READY=…, MAINPID=…, BARRIER=1 ──> $NOTIFY_SOCKET
//! ```
//! As with runc, the first `READY=` is forwarded and nothing else, so a container cannot name another main process or
//! switch the manager's watchdog off. [`berth_runtime::sd_notify`] binds the directory of the socket into the container.

use std::{
    fs,
    io::{ErrorKind, PipeReader},
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use berth_runtime::{
    Context, Error, Result, sd_notify,
    unix_address::{self, Address},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::console;

/// The time that the manager has to read the messages, and to close the barrier afterwards.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The service manager's socket.
pub enum Manager {
    /// A socket in the file system.
    Path(PathBuf),
    /// An abstract socket (unix(7)).
    Abstract(SocketAddr),
}

impl Manager {
    /// Reads `$NOTIFY_SOCKET`; `None` if it is unset or empty.
    ///
    /// # Errors
    /// Fails if the value is neither an absolute path nor the name of an abstract socket.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(text) = std::env::var_os("NOTIFY_SOCKET").filter(|text| !text.is_empty()) else { return Ok(None) };
        Self::parse(text.as_encoded_bytes()).with_context(|| format!("NOTIFY_SOCKET={}", text.display())).map(Some)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        match text {
            [b'@', name @ ..] => Ok(Self::Abstract(SocketAddr::from_abstract_name(name)?)),
            [b'/', ..] if !text.contains(&0) => Ok(Self::Path(std::ffi::OsStr::from_bytes(text).into())),
            _ => Err(Error::invalid("neither an absolute path nor an abstract socket")),
        }
    }

    /// Sends the line `ready`, the main process and a barrier.
    fn notify(&self, ready: &[u8], pid: i32) -> Result<Barrier> {
        let notify = || -> Result<Barrier> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            match self {
                Self::Path(path) => rustix::net::connect(&socket, Address::new(path)?.socket())?,
                Self::Abstract(address) => socket.connect_addr(address)?,
            }
            socket.send(&[ready, b"\n"].concat())?;
            socket.send(format!("MAINPID={pid}\n").as_bytes())?;
            let (pipe, theirs) = std::io::pipe()?;
            console::send_fd(&socket, "BARRIER=1", theirs.as_fd())?;
            Ok(Barrier { pipe, until: Instant::now() + TIMEOUT })
        };
        notify().context("NOTIFY_SOCKET")
    }
}

/// The container's notification socket, and the manager to notify.
pub struct Relay {
    manager: Manager,
    /// `None` once the container is ready.
    socket: Option<UnixDatagram>,
    barrier: Option<Barrier>,
}

/// A pipe whose other end the manager closes when it has read the messages (sd_notify_barrier(3)). The sender has to live
/// until then, because the manager looks its pid up when it reads them.
struct Barrier {
    pipe: PipeReader,
    until: Instant,
}

impl Relay {
    /// Binds the container's socket in the state directory.
    ///
    /// # Errors
    /// Fails if bind(2) fails. The directory is missing if the container was created without `$NOTIFY_SOCKET`.
    pub fn bind(manager: Manager, state: &Path) -> Result<Self> {
        let dir = state.join(sd_notify::DIR);
        let bind = || -> std::io::Result<UnixDatagram> {
            let (_dir, path) = unix_address::short_path(&dir, sd_notify::SOCKET)?;
            // A start that failed leaves a socket behind.
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            open_to_all(&path)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = bind().with_context(|| format!("listen unixgram {}", dir.join(sd_notify::SOCKET).display()))?;
        Ok(Self { manager, socket: Some(socket), barrier: None })
    }

    /// The descriptor that is readable when the container has sent a message; `None` once the container is ready.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Reads the messages that the container has sent. If the container is ready, notifies the manager, with `pid` as the
    /// main process, and closes the socket. An error is logged only, since the container runs without the manager as well.
    pub fn forward(&mut self, pid: i32) {
        let barrier = match self.ready().transpose() {
            None => return,
            Some(line) => line.and_then(|line| self.manager.notify(&line, pid)),
        };
        self.socket = None;
        self.barrier = barrier.inspect_err(|e| log::warn!("{e}")).ok();
    }

    /// Returns the line `READY=…` if the container has sent it.
    fn ready(&self) -> Result<Option<Vec<u8>>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let mut buffer = [0u8; 4096];
        loop {
            let message = match socket.recv(&mut buffer) {
                Ok(len) => buffer.get(..len).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::from(e).context("receive from the container's notify socket")),
            };
            if let Some(line) = message.split(|b| *b == b'\n').find(|line| line.starts_with(b"READY=")) {
                return Ok(Some(line.to_vec()));
            }
        }
    }

    /// Waits until the container of `pidfd` is ready or has ended, and until the manager has read the notification.
    ///
    /// # Errors
    /// Fails if poll(2) fails.
    pub fn until_ready(mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<()> {
        while let Some(fd) = self.fd() {
            let [_, ended] = readable([fd, pidfd], None)?;
            // The process may have sent a message just before its end.
            self.forward(pid);
            if ended {
                break;
            }
        }
        self.finish()
    }

    /// Waits until the manager has read the notification, up to 30 s after it was sent. A manager that does not know
    /// barriers never confirms.
    ///
    /// # Errors
    /// Fails if poll(2) fails.
    pub fn finish(self) -> Result<()> {
        let Some(Barrier { pipe, until }) = self.barrier else { return Ok(()) };
        if readable([pipe.as_fd()], Some(until))? == [false] {
            // runc's words.
            log::warn!("Timeout after waiting {}s for barrier. Ignored.", TIMEOUT.as_secs());
        }
        Ok(())
    }
}

/// Sets the mode of the socket at `path` to 0777, so that a container process with any uid can send to it. A symbolic link
/// there is refused.
fn open_to_all(path: &str) -> std::io::Result<()> {
    use rustix::fs::{FileType, Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(ErrorKind::AlreadyExists.into());
    }
    Ok(berth_init::mode::chmod(file.as_fd(), 0o777)?)
}

/// Waits until a descriptor is readable or its other end is closed, at most to `until`. Returns a flag for each.
fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], until: Option<Instant>) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.each_ref().map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::from(e).context("poll")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_socket_is_a_path_or_an_abstract_name() {
        assert!(matches!(Manager::parse(b"/run/systemd/notify"), Ok(Manager::Path(_))));
        assert!(matches!(Manager::parse(&[b'/'; 200]), Ok(Manager::Path(_))));
        let name = |manager| match manager {
            Manager::Abstract(address) => address.as_abstract_name().map(<[u8]>::to_vec),
            Manager::Path(_) => None,
        };
        assert_eq!(name(Manager::parse(b"@abstract").unwrap()).as_deref(), Some(&b"abstract"[..]));
        for bad in [&b"relative"[..], b"vsock:2:1234", &[b'@'; 200], b"/with\0nul"] {
            assert!(Manager::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn closed_pipe_is_readable_and_an_open_one_times_out() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(readable([reader.as_fd()], Some(Instant::now())).unwrap(), [false]);
        drop(writer);
        assert_eq!(readable([reader.as_fd()], None).unwrap(), [true]);
    }
}
