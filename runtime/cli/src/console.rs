//! Terminals: the caller's terminal, which is in raw mode while a container uses it, and the console socket, over which a
//! caller such as containerd or conmon receives the master of the container's terminal.

use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use berth_runtime::{Context, Result, unix_address::Address};
use rustix::{
    net::{
        self, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

/// Longest time that the listener of a console socket may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The caller's terminal. Its modes are restored on drop.
pub struct HostTerminal {
    tty: File,
    original: Termios,
}

impl HostTerminal {
    /// Finds the terminal: stderr, stdout or stdin, else the controlling terminal.
    ///
    /// # Errors
    /// Fails if the caller has no terminal. The error names `/dev/tty`.
    pub fn find() -> Result<Self> {
        let stdio = [
            std::io::stderr().as_fd().try_clone_to_owned(),
            std::io::stdout().as_fd().try_clone_to_owned(),
            std::io::stdin().as_fd().try_clone_to_owned(),
        ];
        let tty = match stdio.into_iter().flatten().find(|fd| isatty(fd)) {
            Some(fd) => File::from(fd),
            None => File::open("/dev/tty").context("open /dev/tty")?,
        };
        let original = tcgetattr(&tty).context("read the modes of the terminal")?;
        Ok(Self { tty, original })
    }

    /// Sets raw mode (cfmakeraw(3)), so that every key reaches the container. `OPOST` stays on, because the container's
    /// terminal sends bare newlines (see [`berth_runtime::Stdio::Relayed`]).
    ///
    /// # Errors
    /// Fails if tcsetattr(3) fails.
    pub fn make_raw(&self) -> Result<()> {
        let mut raw = self.original.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST;
        tcsetattr(&self.tty, OptionalActions::Now, &raw).context("set the terminal to raw mode")
    }

    /// Gives `master` the size of this terminal. If the terminal has hung up, `master` keeps its size.
    pub fn resize(&self, master: BorrowedFd<'_>) {
        if let Ok(size) = tcgetwinsize(&self.tty) {
            let _ = tcsetwinsize(master, size);
        }
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.original);
    }
}

/// Connects to the Unix socket at `path`.
///
/// # Errors
/// Fails if no process listens there, or if the listener accepts no connection within 30 s.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let connected = || -> rustix::io::Result<UnixStream> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // connect(2) waits while the listener's queue is full (unix(7)).
        set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
        net::connect(&socket, Address::new(path)?.socket())?;
        Ok(socket.into())
    };
    connected().with_context(|| format!("dial unix {}: connect", path.display()))
}

/// Sends `fd` (`SCM_RIGHTS`) in a message with the text `name`.
///
/// # Errors
/// Fails if sendmsg(2) fails.
pub fn send_fd(socket: impl AsFd, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::NOSIGNAL)
        .with_context(|| format!("send {name} over the socket"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn fd_arrives_with_its_name() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        send_fd(&ours, "/dev/ptmx", file.as_fd()).unwrap();

        let mut name = [0; 32];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&theirs, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(&name[..got.bytes], b"/dev/ptmx");
        let fds: Vec<_> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        let (sent, received) = (rustix::fs::fstat(&file).unwrap(), rustix::fs::fstat(&fds[0]).unwrap());
        assert_eq!((fds.len(), received.st_rdev), (1, sent.st_rdev));
    }

    #[test]
    fn missing_console_socket_is_named() {
        let e = connect(Path::new("/nonexistent/console.sock")).unwrap_err();
        assert_eq!(e.to_string(), "dial unix /nonexistent/console.sock: connect: no such file or directory");
    }
}
