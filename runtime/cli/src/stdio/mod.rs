//! The stdin, stdout and stderr of the process, and the threads that copy their bytes.
//!
//! | | no terminal | a terminal |
//! |---|---|---|
//! | foreground | pipes, so that no terminal of the host gets into a container | the container's, copied from and to the caller's, which is raw meanwhile |
//! | detached | inherited from the caller | its master is sent over the console socket |
//!
//! Copies run in threads, because a slow reader of the output must not delay signals.

use std::{
    fs::File,
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread::JoinHandle,
};

use berth_runtime::{Context, Error, Kind, Result, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::console::{self, HostTerminal};

/// The relation of this program to the process that it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// This program stays until the process ends.
    Foreground,
    /// This program returns and leaves the process running (`--detach`, and `create`).
    Detached,
}

/// The stdio that a command asks for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The name of the program, for errors.
    pub program: &'static str,
    /// The process gets a terminal.
    pub terminal: bool,
    /// The relation of this program to the process.
    pub attachment: Attachment,
    /// `--console-socket`
    pub console_socket: Option<&'a Path>,
}

/// This program's side of the stdio, before the process exists.
pub enum HostStdio {
    /// The process inherits the caller's stdio.
    Inherited,
    /// The other ends of the pipes. The process has them as stdin, stdout and stderr.
    Pipes(PipeWriter, PipeReader, PipeReader),
    /// The caller's terminal, which shows the container's.
    Terminal(HostTerminal),
    /// The console socket, which gets the master of the container's terminal.
    ConsoleSocket(UnixStream),
}

impl HostStdio {
    /// Prepares both sides of the stdio; returns this program's side and the process's.
    ///
    /// # Errors
    /// Fails if the flags contradict each other, if no process listens on the console socket, or if the caller has no
    /// terminal.
    pub fn prepare(request: &Request<'_>) -> Result<(Self, Stdio)> {
        let Request { program, terminal, attachment, console_socket } = *request;
        match (attachment, terminal, console_socket) {
            (Attachment::Detached, true, None) => Err(Error::invalid(format!(
                "cannot allocate tty if {program} will detach without setting console socket"
            ))),
            (_, false, Some(_)) | (Attachment::Foreground, _, Some(_)) => {
                Err(Error::invalid(format!("cannot use console socket if {program} will not detach or allocate tty")))
            }
            (Attachment::Detached, true, Some(path)) => Ok((Self::ConsoleSocket(console::connect(path)?), Stdio::Null)),
            (Attachment::Foreground, true, None) => Ok((Self::Terminal(HostTerminal::find()?), Stdio::Relayed)),
            (Attachment::Detached, false, None) => Ok((Self::Inherited, Stdio::Inherit)),
            (Attachment::Foreground, false, None) => {
                let (stdin, our_stdin) = pipe().context("pipe for stdin")?;
                let (our_stdout, stdout) = pipe().context("pipe for stdout")?;
                let (our_stderr, stderr) = pipe().context("pipe for stderr")?;
                let of_process = [OwnedFd::from(stdin), stdout.into(), stderr.into()];
                Ok((Self::Pipes(our_stdin, our_stdout, our_stderr), Stdio::Fds(of_process)))
            }
        }
    }

    /// Starts the copies, or sends the terminal away. `console` is the master of the process's terminal, if it has one.
    ///
    /// # Errors
    /// Fails if the terminal cannot be set up or sent, or if a thread cannot be started.
    pub fn connect(self, console: Option<OwnedFd>) -> Result<Proxies> {
        let mut proxies = Proxies { copies: Vec::new(), terminal: None };
        match self {
            Self::Inherited => {}
            Self::Pipes(stdin, stdout, stderr) => {
                let (our_stdin, our_stdout, our_stderr) = own_stdio()?;
                // This thread is never joined: the end of the process must not wait for the caller to close stdin.
                spawn(move || proxy_stdio("stdin", our_stdin, stdin))?;
                proxies.copies.push(spawn(move || proxy_stdio("stdout", stdout, our_stdout))?);
                proxies.copies.push(spawn(move || proxy_stdio("stderr", stderr, our_stderr))?);
            }
            Self::Terminal(host) => {
                let master = File::from(console.ok_or_else(no_console)?);
                let (our_stdin, our_stdout, _) = own_stdio()?;
                let (input, output) =
                    (master.try_clone().context("dup the console")?, master.try_clone().context("dup the console")?);
                let (end, end_writer) = pipe().context("pipe to end the console")?;
                // The size is set before the container starts, so that its process never sees another one.
                host.resize(master.as_fd());
                host.make_raw()?;
                spawn(move || proxy_stdio("stdin", our_stdin, input))?;
                proxies.copies.push(spawn(move || proxy_terminal(output, &end, our_stdout))?);
                proxies.terminal = Some(Terminal { host, master, end: end_writer });
            }
            Self::ConsoleSocket(socket) => {
                let master = console.ok_or_else(no_console)?;
                console::send_fd(&socket, "/dev/ptmx", master.as_fd())?;
            }
        }
        Ok(proxies)
    }
}

/// The running copies.
pub struct Proxies {
    copies: Vec<JoinHandle<()>>,
    terminal: Option<Terminal>,
}

struct Terminal {
    host: HostTerminal,
    master: File,
    /// Dropped to end the copy of the output.
    end: PipeWriter,
}

impl Proxies {
    /// Gives the process's terminal the size of the caller's.
    pub fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.host.resize(terminal.master.as_fd());
        }
    }

    /// Waits until all output has been copied, then restores the caller's terminal. Pipes end when the last process closes
    /// them. A terminal may stay open in a process in the background, so its copy ends when nothing is left to read.
    pub fn drain(self) {
        let host = self.terminal.map(|terminal| {
            drop(terminal.end);
            terminal.host
        });
        for copy in self.copies {
            let _ = copy.join();
        }
        drop(host);
    }
}

/// The stdin, stdout and stderr of this program, without the buffers of std.
fn own_stdio() -> Result<(File, File, File)> {
    let own = |fd: std::io::Result<OwnedFd>, name| fd.map(File::from).context(name);
    Ok((
        own(std::io::stdin().as_fd().try_clone_to_owned(), "dup stdin")?,
        own(std::io::stdout().as_fd().try_clone_to_owned(), "dup stdout")?,
        own(std::io::stderr().as_fd().try_clone_to_owned(), "dup stderr")?,
    ))
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().spawn(work).context("start a thread")
}

fn no_console() -> Error {
    Error::new(Kind::Internal, "the process has no console")
}

/// Size of a copy's buffer, bytes.
const BUFFER: usize = 32 * 1024;

/// Copies until one side ends. `std::io::copy` is no choice, because it splices: splice(2) into a file reads the file's
/// position, waits for the pipe, and then sets the position to the old value plus the length. Two streams into one file
/// (`>log 2>&1`) would overwrite each other.
///
/// Warns of lost bytes, unless the reader has closed its end.
fn proxy_stdio(stream: &str, mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; BUFFER];
    let lost = loop {
        let bytes = match from.read(&mut buffer) {
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => break e,
        };
        if bytes.is_empty() {
            return;
        }
        if let Err(e) = to.write_all(bytes) {
            break e;
        }
    };
    // EIO: the terminal has lost its last process.
    if lost.kind() != ErrorKind::BrokenPipe {
        log::warn!("copy the {stream} of the process: {}", Error::from(lost));
    }
}

/// Copies the terminal to `to` until the last process closes it (EIO), or until `end` is closed and nothing is left to read.
/// When `to` fails, further bytes are read and dropped, because the container would block on a full terminal.
fn proxy_terminal(mut master: File, end: &PipeReader, mut to: File) {
    let mut buffer = vec![0; BUFFER];
    let mut writable = true;
    let mut ending = false;
    loop {
        let mut fds = [PollFd::new(&master, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        // At the end, the poll does not wait, and leaves `end` out, which stays readable.
        let (watched, timeout) = match ending {
            false => (fds.len(), None),
            true => (1, Some(Timespec { tv_sec: 0, tv_nsec: 0 })),
        };
        if poll(fds.get_mut(..watched).unwrap_or_default(), timeout.as_ref())
            .is_err_and(|e| e != rustix::io::Errno::INTR)
        {
            return;
        }
        let [terminal, end] = &fds;
        let (readable, end_closed) = (!terminal.revents().is_empty(), !end.revents().is_empty());
        if readable {
            match master.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => writable = writable && buffer.get(..n).is_some_and(|bytes| to.write_all(bytes).is_ok()),
            }
        } else if ending {
            return;
        }
        ending |= end_closed;
    }
}

#[cfg(test)]
mod tests;
