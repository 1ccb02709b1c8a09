//! What the process has as stdin, stdout and stderr, and who carries the bytes.
//!
//! - Detached without a terminal: the caller's own, inherited.
//! - In the foreground without a terminal: pipes, copied by threads, so that a terminal of the host never gets into a
//!   container.
//! - In the foreground with one: the container's terminal, copied from and to the caller's, which is raw meanwhile.
//! - Detached with one: the terminal is handed over the console socket.
//!
//! The copies are threads because a slow reader of ours must not stop signals.

use std::{
    fs::File,
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::JoinHandle,
};

use berth_runtime::{Context, Error, Kind, Result, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::console::{self, HostTerminal};

/// Our side of the process' stdio, before there is a process.
pub enum Front {
    /// The process has ours.
    Inherited,
    /// Ends of pipes: its stdin, stdout, stderr.
    Pipes(PipeWriter, PipeReader, PipeReader),
    /// The caller's terminal will show the container's.
    Terminal(HostTerminal),
    /// Somebody else will have the container's terminal.
    Socket(UnixStream),
}

impl Front {
    /// Prepares the stdio of a process that wants a `terminal` or not, and that we wait for or not (`detached`).
    ///
    /// # Errors
    /// The flags contradict each other, nobody listens on the socket, or there is no terminal in front of the caller.
    pub fn prepare(program: &str, terminal: bool, detached: bool, socket: Option<&str>) -> Result<(Self, Stdio)> {
        match (terminal, detached, socket) {
            (true, true, None) => Err(Error::invalid(format!(
                "cannot allocate tty if {program} will detach without setting console socket"
            ))),
            (false, _, Some(_)) | (_, false, Some(_)) => {
                Err(Error::invalid(format!("cannot use console socket if {program} will not detach or allocate tty")))
            }
            (true, true, Some(path)) => Ok((Self::Socket(console::connect(path)?), Stdio::Null)),
            (true, false, None) => Ok((Self::Terminal(HostTerminal::find()?), Stdio::Relayed)),
            (false, true, None) => Ok((Self::Inherited, Stdio::Inherit)),
            (false, false, None) => {
                let (stdin, our_stdin) = pipe().context("pipe for stdin")?;
                let (our_stdout, stdout) = pipe().context("pipe for stdout")?;
                let (our_stderr, stderr) = pipe().context("pipe for stderr")?;
                let theirs = [OwnedFd::from(stdin), stdout.into(), stderr.into()];
                Ok((Self::Pipes(our_stdin, our_stdout, our_stderr), Stdio::Fds(theirs)))
            }
        }
    }

    /// Starts to carry bytes; `console` is the master of the process' terminal, if it has one.
    ///
    /// # Errors
    /// A terminal that cannot be set or sent, a thread that cannot be started.
    pub fn attach(self, console: Option<OwnedFd>) -> Result<Streams> {
        let mut streams = Streams { copies: Vec::new(), terminal: None };
        match self {
            Self::Inherited => {}
            Self::Pipes(stdin, stdout, stderr) => {
                let (from, to, to_errors) = ours()?;
                // Nobody waits for this one: a caller who never closes stdin must not keep us.
                spawn(move || carry(from, stdin))?;
                streams.copies.push(spawn(move || carry(stdout, to))?);
                streams.copies.push(spawn(move || carry(stderr, to_errors))?);
            }
            Self::Terminal(host) => {
                let master = File::from(console.ok_or_else(no_console)?);
                let (from, to, _) = ours()?;
                let (input, output) =
                    (master.try_clone().context("dup the console")?, master.try_clone().context("dup the console")?);
                let (ending, end) = pipe().context("pipe to end the console")?;
                // Already here, so that a container that is not started yet begins with the right size.
                host.resize(master.as_fd());
                host.make_raw()?;
                spawn(move || carry(from, input))?;
                streams.copies.push(spawn(move || show(output, &ending, to))?);
                streams.terminal = Some(Terminal { host, master, end });
            }
            Self::Socket(socket) => {
                let master = console.ok_or_else(no_console)?;
                console::send_fd(&socket, "/dev/ptmx", master.as_fd())?;
            }
        }
        Ok(streams)
    }
}

/// The copies that run.
pub struct Streams {
    copies: Vec<JoinHandle<()>>,
    terminal: Option<Terminal>,
}

struct Terminal {
    host: HostTerminal,
    master: File,
    /// Dropped, it tells the copy to take what is there and end.
    end: PipeWriter,
}

impl Streams {
    /// Gives the process' terminal the size of the caller's.
    pub fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.host.resize(terminal.master.as_fd());
        }
    }

    /// Returns when all output has been passed on: of pipes, when nobody has them open any more; of a terminal, when
    /// nothing is left to read. The caller's terminal has its modes back then.
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

/// Our own stdin, stdout and stderr without std's buffers.
fn ours() -> Result<(File, File, File)> {
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

/// How many bytes a copy moves at once.
const BUFFER: usize = 32 * 1024;

/// Copies until one side has no more. Not `std::io::copy`, which splices: splice(2) into a file takes the file's
/// position, waits for the pipe, and then sets the position to where it was, so that two streams into one file (`>log
/// 2>&1`) overwrite each other.
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if bytes.is_empty() || to.write_all(bytes).is_err() {
            return;
        }
    }
}

/// Copies the terminal to `to` until its last user is gone (EIO), or `ending` closes and nothing is left to read.
/// When `to` takes no more, the bytes are dropped: the container goes on.
fn show(mut master: File, ending: &PipeReader, mut to: File) {
    let mut buffer = vec![0; BUFFER];
    let mut listening = true;
    let mut last = None;
    loop {
        let mut fds = [PollFd::new(&master, PollFlags::IN), PollFd::new(ending, PollFlags::IN)];
        let (terminal, all) = (1, fds.len());
        let watched = fds.get_mut(..if last.is_some() { terminal } else { all }).unwrap_or_default();
        if poll(watched, last.as_ref()).is_err_and(|e| e != rustix::io::Errno::INTR) {
            return;
        }
        let [terminal, end] = &fds;
        let (readable, ended) = (!terminal.revents().is_empty(), !end.revents().is_empty());
        if readable {
            match master.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => listening = listening && buffer.get(..n).is_some_and(|bytes| to.write_all(bytes).is_ok()),
            }
        } else if last.is_some() {
            return;
        }
        if ended {
            last = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(terminal: bool, detached: bool, socket: Option<&str>) -> String {
        Front::prepare("runc", terminal, detached, socket).err().unwrap().to_string()
    }

    #[test]
    fn contradictory_flags_are_refused_in_runcs_words() {
        let lacking = "cannot allocate tty if runc will detach without setting console socket";
        let useless = "cannot use console socket if runc will not detach or allocate tty";
        assert_eq!(refusal(true, true, None), lacking);
        assert_eq!(refusal(false, true, Some("/x")), useless);
        assert_eq!(refusal(true, false, Some("/x")), useless);
        assert_eq!(refusal(false, false, Some("/x")), useless);
    }

    #[test]
    fn two_streams_into_one_file_do_not_overwrite_each_other() {
        let path = std::env::temp_dir().join(format!("berth-carry-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let (out, mut say) = pipe().unwrap();
        let (err, say_nothing) = pipe().unwrap();
        let (to, to_errors) = (file.try_clone().unwrap(), file.try_clone().unwrap());
        let copies = [spawn(move || carry(out, to)).unwrap(), spawn(move || carry(err, to_errors)).unwrap()];
        std::thread::sleep(std::time::Duration::from_millis(50));
        say.write_all(b"early ").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop((say, say_nothing));
        copies.into_iter().for_each(|copy| copy.join().unwrap());
        (&file).write_all(b"next").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "early next");
    }

    #[test]
    fn a_terminal_is_shown_to_its_last_byte() {
        let pty = nix_pty();
        let (ending, end) = pipe().unwrap();
        let (mut shown, to) = pipe().unwrap();
        let (mut user, master) = pty;
        user.write_all(b"last words").unwrap();
        drop(end);
        // The terminal stays open, as it does behind a process in the background.
        show(master, &ending, File::from(OwnedFd::from(to)));
        let mut text = String::new();
        shown.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    /// The two ends of a new terminal: the user's and the master.
    fn nix_pty() -> (File, File) {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let user = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        (File::from(user), File::from(master))
    }
}
