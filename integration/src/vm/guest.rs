//! The guest as the host uses it: runs programs in the machine and copies files.

use super::{
    Result, fault,
    wire::{Command, Kind, LONGEST, receive, send},
};
use crate::tar::Archive;
use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The silence after which a machine counts as hung: many times [`wire::PULSE`](super::wire::PULSE).
const SILENCE: Duration = Duration::from_secs(180);

/// The bound for unpacking a file on the host.
const MOMENT: Duration = Duration::from_secs(120);

/// The connection to the agent of a machine.
pub struct Guest {
    port: UnixStream,
    /// The message of the booted machine: its state as systemd reports it, and its kernel.
    pub up: String,
}

/// One of the two streams of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// The end of a program.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The exit status, as a shell has it.
    Exit(i32),
    /// The reason for which it could not be run.
    Failed(String),
}

impl Guest {
    /// Takes the port of a booted machine, sends this program, which becomes the agent, and sets the machine's clock.
    ///
    /// # Errors
    /// The machine does not answer.
    pub fn enter(port: UnixStream, up: String) -> Result<Self> {
        let me = std::env::current_exe().and_then(fs::read).map_err(fault("read this program"))?;
        let mut this = Self { port, up };
        this.port.set_write_timeout(Some(SILENCE)).map_err(fault("the port"))?;
        let sent = writeln!(this.port, "{}", me.len()).and_then(|()| this.port.write_all(&me));
        sent.map_err(fault("send the agent to the machine"))?;
        this.port.set_read_timeout(Some(SILENCE)).map_err(fault("the port"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        this.ok(&["date", "--utc", "--set", &format!("@{now:.3}")])?;
        Ok(this)
    }

    /// Runs a program with an empty input and passes its output to `hear` as it comes. Kills the program after `limit`,
    /// or when `hear` returns false.
    ///
    /// # Errors
    /// The machine ended or hangs.
    pub fn run(
        &mut self,
        command: &Command,
        limit: Duration,
        hear: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<End> {
        self.ask(Kind::Run, &command.encode())?;
        self.ask(Kind::EndOfInput, b"")?;
        self.listen(command, limit, hear)
    }

    /// Runs a program that must succeed and returns its standard output.
    ///
    /// # Errors
    /// Those of [`Guest::run`], and the output of a program that fails.
    pub fn ok(&mut self, args: &[&str]) -> Result<Vec<u8>> {
        self.feed(args, b"")
    }

    /// Writes files: path in the machine, mode, content.
    ///
    /// # Errors
    /// Those of [`Guest::ok`].
    pub fn push(&mut self, files: &[(String, u32, Vec<u8>)]) -> Result<()> {
        let mut archive = Archive::default();
        for (path, mode, content) in files {
            archive.file(path.trim_start_matches('/'), *mode, content);
        }
        self.feed(&["tar", "--extract", "--no-same-owner", "--touch", "--file=-", "--directory=/"], &archive.finish())?;
        Ok(())
    }

    /// Copies a directory of the machine to `to`, which is made.
    ///
    /// # Errors
    /// Those of [`Guest::ok`] and of unpacking.
    pub fn pull(&mut self, from: &str, to: &Path) -> Result<()> {
        let archive = self.ok(&["tar", "--create", "--file=-", "--directory", from, "."])?;
        fs::create_dir_all(to).map_err(fault(&format!("make {}", to.display())))?;
        let mut tar = std::process::Command::new("tar");
        tar.args(["--extract", "--no-same-owner", "--file=-", "--directory"]).arg(to);
        let output = crate::command::feed(&mut tar, &archive, MOMENT);
        if output.status.success() { Ok(()) } else { Err(output.to_string()) }
    }

    /// Runs an interactive shell or command: sends the bytes of `input`, one frame a piece, and passes the output to
    /// `hear`. It has no bound.
    ///
    /// # Errors
    /// The machine ended.
    pub fn talk(
        &mut self,
        command: &Command,
        input: impl Iterator<Item = Vec<u8>> + Send + 'static,
        hear: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<End> {
        self.ask(Kind::Run, &command.encode())?;
        let mut port = self.port.try_clone().map_err(fault("the port"))?;
        thread::spawn(move || {
            for piece in input {
                send(&mut port, Kind::Input, &piece)?;
            }
            send(&mut port, Kind::EndOfInput, b"")
        });
        self.listen(command, Duration::MAX, hear)
    }

    fn feed(&mut self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let command = Command::new(args.iter().copied());
        self.ask(Kind::Run, &command.encode())?;
        for piece in input.chunks(LONGEST / 4) {
            self.ask(Kind::Input, piece)?;
        }
        self.ask(Kind::EndOfInput, b"")?;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let end = self.listen(&command, SILENCE, |stream, bytes| {
            if stream == Stream::Output { &mut output } else { &mut errors }.extend(bytes);
            Ok(())
        })?;
        if end == End::Exit(0) {
            return Ok(output);
        }
        Err(format!("{} in the machine: {end:?}: {}", args.join(" "), String::from_utf8_lossy(&errors).trim()))
    }

    fn ask(&mut self, kind: Kind, data: &[u8]) -> Result<()> {
        send(&mut self.port, kind, data).map_err(fault("the machine takes no more"))
    }

    /// Reads the frames of a program to its end.
    fn listen(
        &mut self,
        command: &Command,
        limit: Duration,
        mut hear: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<End> {
        let name = command.args.first().map(String::as_str).unwrap_or_default();
        let (begun, mut killed) = (Instant::now(), None);
        loop {
            let frame = match receive(&mut self.port) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(format!("the machine ended while {name} ran")),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(format!("the machine hangs: no sign of life for {SILENCE:?} while {name} runs"));
                }
                Err(e) => return Err(format!("the machine ended while {name} ran: {e}")),
            };
            let text = || String::from_utf8_lossy(&frame.data).into_owned();
            let told = match frame.kind {
                Kind::Output => hear(Stream::Output, &frame.data),
                Kind::Errors => hear(Stream::Errors, &frame.data),
                Kind::Alive => Ok(()),
                Kind::Exit => return Ok(killed.unwrap_or_else(|| End::Exit(text().parse().unwrap_or(255)))),
                Kind::Failed => return Ok(End::Failed(text())),
                Kind::Run | Kind::Input | Kind::EndOfInput | Kind::Kill => {
                    return Err(format!("the machine sent a {:?}", frame.kind));
                }
            };
            let reason = match told {
                _ if killed.is_some() => continue,
                Err(e) => format!("{name}: nobody hears it any more: {e}"),
                Ok(()) if begun.elapsed() > limit => format!("{name} was not done after {limit:?}"),
                Ok(()) => continue,
            };
            killed = Some(End::Failed(reason));
            self.ask(Kind::Kill, b"")?;
        }
    }
}
