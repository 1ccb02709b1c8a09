//! The console socket, to which a runtime sends the master end of a container's terminal.

use crate::{
    bundle::Bundle,
    runtime::{Output, Runtime},
    wait::LONG,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    pty, termios,
};
use serde_json::Value;
use std::{
    fs::File,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Creates and starts `c1` with a terminal, and returns the report that its probe prints there. Returns the output of a
/// create that fails.
pub fn report_on_terminal(runtime: &Runtime, bundle: &Bundle) -> Result<Value, Output> {
    let console = ConsoleSocket::new(runtime.work());
    let out = runtime.on("create", "c1", bundle).with(&["--console-socket", console.path()]).wait();
    if out.code != 0 {
        return Err(out);
    }
    let mut master = console.receive();
    runtime.cmd(&["start", "c1"]).ok();
    let text = master.read_all();
    Ok(serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text:?}")))
}

/// A listening console socket.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens in a directory.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("console.sock");
        let _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    /// Returns the path of the socket, for `--console-socket`.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Closes the connections that nobody has received.
    pub fn drain(&self) {
        while readable(&self.listener, Duration::ZERO).is_some() {
            drop(self.listener.accept());
        }
    }

    /// Receives the terminal that a runtime sends, within 10 s.
    #[track_caller]
    pub fn receive(&self) -> Terminal {
        readable(&self.listener, LONG).expect("nobody sent a terminal");
        let (stream, _) = self.listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut fds: Vec<OwnedFd> = vec![];
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        assert_eq!(fds.len(), 1, "a console socket gets one descriptor");
        Terminal(File::from(fds.pop().unwrap()))
    }
}

/// The master end of a terminal.
pub struct Terminal(File);

impl Terminal {
    /// Makes a terminal and returns its two ends.
    pub fn pair() -> (Self, OwnedFd) {
        let master =
            pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).unwrap();
        pty::grantpt(&master).unwrap();
        pty::unlockpt(&master).unwrap();
        let name = pty::ptsname(&master, vec![]).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (Self(master.into()), slave.into())
    }

    /// Writes `text` as typed input.
    pub fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Sets the size, in characters.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&self.0, size).unwrap();
    }

    /// Reads until the other end is closed or `text` has come, at most 10 s.
    pub fn read_until(&mut self, text: &str) -> String {
        let end = Instant::now() + LONG;
        let mut all = vec![];
        let mut buffer = [0; 4096];
        while readable(&self.0, end.saturating_duration_since(Instant::now())).is_some() {
            // EIO: no process has the other end open any more.
            let Ok(n @ 1..) = self.0.read(&mut buffer) else { break };
            all.extend_from_slice(&buffer[..n]);
            if !text.is_empty() && String::from_utf8_lossy(&all).contains(text) {
                break;
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Reads until the other end is closed.
    pub fn read_all(&mut self) -> String {
        self.read_until("")
    }
}

fn readable(fd: impl std::os::fd::AsFd, limit: Duration) -> Option<()> {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let n = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))).unwrap();
    (n > 0).then_some(())
}
