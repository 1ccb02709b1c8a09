//! `$NOTIFY_SOCKET`: what a container says to its service manager, carried on by `run` and `start`, sd_notify(3).
//!
//! ```text
//! container ── datagrams ──> <state>/notify/notify.sock ── READY=…, MAINPID=…, BARRIER=1 ──> $NOTIFY_SOCKET
//! ```
//! Only the first `READY=` passes, as with runc: a container cannot give its manager another main process or take its
//! watchdog away. What binds the socket's directory into the container is the library's `sd_notify`.

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

use super::console;

/// How long the manager may take to say that it has read everything, and to make room for what it is sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service manager's socket.
pub enum Manager {
    /// At a path.
    At(PathBuf),
    /// An abstract one.
    Abstract(SocketAddr),
}

impl Manager {
    /// Of the environment; `None` when nobody wants to be notified.
    ///
    /// # Errors
    /// Neither an absolute path nor the name of an abstract socket.
    pub fn of_environment() -> Result<Option<Self>> {
        let Some(text) = std::env::var_os("NOTIFY_SOCKET").filter(|text| !text.is_empty()) else { return Ok(None) };
        Self::parse(text.as_encoded_bytes()).with_context(|| format!("NOTIFY_SOCKET={}", text.display())).map(Some)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        match text {
            [b'@', name @ ..] => Ok(Self::Abstract(SocketAddr::from_abstract_name(name)?)),
            [b'/', ..] if !text.contains(&0) => Ok(Self::At(std::ffi::OsStr::from_bytes(text).into())),
            _ => Err(Error::invalid("neither an absolute path nor an abstract socket")),
        }
    }

    fn tell(&self, ready: &[u8], pid: i32) -> Result<Receipt> {
        let tell = || -> Result<Receipt> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            match self {
                Self::At(path) => rustix::net::connect(&socket, Address::new(path)?.socket())?,
                Self::Abstract(address) => socket.connect_addr(address)?,
            }
            socket.send(&[ready, b"\n"].concat())?;
            socket.send(format!("MAINPID={pid}\n").as_bytes())?;
            let (pipe, theirs) = std::io::pipe()?;
            console::send_fd(&socket, "BARRIER=1", theirs.as_fd())?;
            Ok(Receipt { pipe, until: Instant::now() + PATIENCE })
        };
        tell().context("NOTIFY_SOCKET")
    }
}

/// The socket that a container has in place of the manager's, until it has said that it is ready.
pub struct Relay {
    manager: Manager,
    socket: Option<UnixDatagram>,
    receipt: Option<Receipt>,
}

/// What the manager closes once it has read what it was sent (sd_notify_barrier(3)): until then it could not tell whose
/// words they were if their sender ended.
struct Receipt {
    pipe: PipeReader,
    until: Instant,
}

impl Relay {
    /// Makes the container's socket in its state directory.
    ///
    /// # Errors
    /// The container was created without a `NOTIFY_SOCKET`, so that there is no directory for it; or as bind(2).
    pub fn bind(manager: Manager, state: &Path) -> Result<Self> {
        let dir = state.join(sd_notify::DIR);
        let bind = || -> std::io::Result<UnixDatagram> {
            let (_dir, path) = unix_address::short_path(&dir, sd_notify::SOCKET)?;
            // Of a start that failed.
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
        Ok(Self { manager, socket: Some(socket), receipt: None })
    }

    /// What is readable when the container has said something; `None` once it is ready.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Reads what the container has said so far. When it is ready the manager hears that, and that the main process is
    /// `pid`; nobody listens to the container any more. The same when the manager cannot be told, which is logged: the
    /// container runs all the same.
    pub fn pass_on(&mut self, pid: i32) {
        let told = match self.ready().transpose() {
            None => return,
            Some(line) => line.and_then(|line| self.manager.tell(&line, pid)),
        };
        self.socket = None;
        self.receipt = told.inspect_err(|e| log::warn!("{e}")).ok();
    }

    /// The line that says so.
    fn ready(&self) -> Result<Option<Vec<u8>>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let mut buffer = [0u8; 4096];
        loop {
            let said = match socket.recv(&mut buffer) {
                Ok(len) => buffer.get(..len).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::from(e).context("receive from the container's notify socket")),
            };
            if let Some(line) = said.split(|b| *b == b'\n').find(|line| line.starts_with(b"READY=")) {
                return Ok(Some(line.to_vec()));
            }
        }
    }

    /// Waits until the container behind `pidfd` is ready or has ended, and the manager knows.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn until_ready(mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<()> {
        while let Some(fd) = self.fd() {
            let [_, ended] = readable([fd, pidfd], None)?;
            // Also what it said last of all.
            self.pass_on(pid);
            if ended {
                break;
            }
        }
        self.finish()
    }

    /// Waits until the manager knows what it was told. One that knows no barriers is waited for 30 s from then on.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn finish(self) -> Result<()> {
        let Some(Receipt { pipe, until }) = self.receipt else { return Ok(()) };
        if readable([pipe.as_fd()], Some(until))? == [false] {
            log::warn!("Timeout after waiting 30s for barrier. Ignored.");
        }
        Ok(())
    }
}

/// Lets whoever the container's process is write to the socket at `path`, and never to what a link there would lead to.
fn open_to_all(path: &str) -> std::io::Result<()> {
    use rustix::fs::{FileType, Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(ErrorKind::AlreadyExists.into());
    }
    Ok(berth_init::mode::chmod(file.as_fd(), 0o777)?)
}

/// Which of these can be read, or have been closed; none at the end of the time.
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
    fn a_manager_has_a_path_or_an_abstract_name() {
        assert!(matches!(Manager::parse(b"/run/systemd/notify"), Ok(Manager::At(_))));
        assert!(matches!(Manager::parse(&[b'/'; 200]), Ok(Manager::At(_))));
        let name = |manager| match manager {
            Manager::Abstract(address) => address.as_abstract_name().map(<[u8]>::to_vec),
            Manager::At(_) => None,
        };
        assert_eq!(name(Manager::parse(b"@abstract").unwrap()).as_deref(), Some(&b"abstract"[..]));
        for bad in [&b"relative"[..], b"vsock:2:1234", &[b'@'; 200], b"/with\0nul"] {
            assert!(Manager::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pipe_without_a_writer_is_readable_and_time_runs_out() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(readable([reader.as_fd()], Some(Instant::now())).unwrap(), [false]);
        drop(writer);
        assert_eq!(readable([reader.as_fd()], None).unwrap(), [true]);
    }
}
