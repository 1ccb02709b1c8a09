//! The stdio of one process: it opens the paths and programs that the client names, makes the descriptors of the
//! process, and copies between them.
//!
//! ```text
//! process --pipe--> Pump --> fifo (both ends held) --> client        stdout, stderr
//! process --pipe--> Pump --> file                                    file://
//! process --pipe--> logging program                                  binary://, nothing copied
//! client --> fifo (own writer held until CloseIO) --> Pump --> pipe --> process
//! process --tty--> master --> Pump --> fifo, file or program;  fifo --> Pump --> master
//! ```
//! The process gets pipes and not the fifos, for three reasons. The shim can end the client's stream while a grandchild
//! holds the pipe. The pipe belongs to the container's user, who can open /dev/stdout again. And no path of the host is
//! visible in the container.
//!
//! There are two steps: [`prepare`] runs before the process exists and may wait for a client; [`Prepared::attach`] runs
//! when it exists. [`live`] holds the stdio from then on.

pub mod fifo;
pub mod live;
pub mod logger;
pub mod pump;
pub mod tail;
pub mod uri;
pub mod worker;

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use berth_runtime::{Context, Result, Stdio};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, open},
    pipe::{PipeFlags, pipe_with},
};

pub use self::live::Io;
use self::{
    fifo::{Input, Output},
    live::Streams,
    logger::Logger,
    pump::{Kind, Pump, Sink},
    uri::{OutputTarget, StdioRequest},
};
use crate::{error::shutting_down, pool::Pool};

/// The owner of a stdio: a logging program gets the id and namespace, the pipes get the uid and gid.
#[derive(Clone, Debug)]
pub struct StdioOwner {
    /// The id of the container or exec.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The uid and gid of the pipes.
    pub owner: (u32, u32),
}

/// Opened stdio for a process that does not exist yet. Dropping it closes all descriptors and kills the logging
/// program.
#[derive(Debug)]
pub struct Prepared {
    /// The descriptors of the process.
    pub child: Stdio,
    wiring: Wiring,
}

/// The descriptors of the shim.
#[derive(Debug, Default)]
struct Wiring {
    /// The client's stdin and the pipe to the process. A terminal has no pipe.
    stdin: Option<(OwnedFd, Option<OwnedFd>)>,
    /// The shim's own writer on the client's stdin.
    writer: Option<OwnedFd>,
    /// The pipes from the process and their sinks. A terminal has no pipe.
    outputs: Vec<(Option<OwnedFd>, Sink)>,
    logger: Option<Logger>,
}

/// Opens the stdio of a request. Waits up to 30 s for a client to open its end of a fifo.
///
/// # Errors
/// A path cannot be opened; the error names it. No descriptor is left open.
pub async fn prepare(request: &StdioRequest, owner: &StdioOwner, pool: &Pool) -> Result<Prepared> {
    if request.is_null() && !request.terminal {
        return Ok(Prepared { child: Stdio::Null, wiring: Wiring::default() });
    }
    let mut wiring = Wiring::default();
    let stdin = match request.stdin_path().map(|path| fifo::open_input(&path)).transpose()? {
        Some(Input::Fifo { reader, writer }) => {
            wiring.writer = Some(writer);
            Some(Ok(reader))
        }
        Some(Input::Other(file)) => Some(Err(file)),
        None => None,
    };
    let child = if request.terminal {
        wiring.stdin = stdin.and_then(|s| s.ok()).map(|reader| (reader, None));
        let sink = wiring.terminal_sink(request, owner, pool).await?;
        wiring.outputs.push((None, sink));
        Stdio::Null
    } else {
        let stdin = match stdin {
            Some(Ok(reader)) => {
                let (child, ours) = owned_pipe(owner)?;
                fcntl_setfl(&ours, OFlags::NONBLOCK).context("set up stdin")?;
                wiring.stdin = Some((reader, Some(ours)));
                child
            }
            Some(Err(file)) => {
                fcntl_setfl(&file, OFlags::empty()).context("set up stdin")?;
                file
            }
            None => null()?,
        };
        let [stdout, stderr] = wiring.output_pair(request, owner, pool).await?;
        Stdio::Fds([stdin, stdout, stderr])
    };
    Ok(Prepared { child, wiring })
}

impl Wiring {
    /// Makes stdout and stderr of a process without a terminal.
    async fn output_pair(&mut self, request: &StdioRequest, owner: &StdioOwner, pool: &Pool) -> Result<[OwnedFd; 2]> {
        match request.target()? {
            OutputTarget::Paths { stdout, stderr } => {
                let mut pair = Vec::with_capacity(2);
                for path in [stdout, stderr] {
                    pair.push(match path {
                        Some(path) => self.piped(sink(fifo::open_output(&path, fifo::CLIENT_TIMEOUT).await?), owner)?,
                        None => null()?,
                    });
                }
                pair.try_into().map_err(|_| shutting_down())
            }
            OutputTarget::File(path) => {
                let file = log_file(path, pool).await?;
                let again = file.try_clone().context("duplicate log file")?;
                Ok([self.piped(Sink::Append(file), owner)?, self.piped(Sink::Append(again), owner)?])
            }
            OutputTarget::Logger(program) => {
                let (logger, ends) = Logger::start(&program, &owner.id, &owner.namespace, pool).await?;
                own(&ends.stdout, owner)?;
                own(&ends.stderr, owner)?;
                self.logger = Some(logger);
                Ok([ends.stdout, ends.stderr])
            }
        }
    }

    /// Opens the sink of a terminal's output.
    async fn terminal_sink(&mut self, request: &StdioRequest, owner: &StdioOwner, pool: &Pool) -> Result<Sink> {
        Ok(match request.target()? {
            OutputTarget::Paths { stdout: Some(path), .. } => {
                sink(fifo::open_output(&path, fifo::CLIENT_TIMEOUT).await?)
            }
            OutputTarget::Paths { stdout: None, .. } => Sink::Nowhere,
            OutputTarget::File(path) => Sink::Append(log_file(path, pool).await?),
            OutputTarget::Logger(program) => {
                let (logger, ends) = Logger::start(&program, &owner.id, &owner.namespace, pool).await?;
                fcntl_setfl(&ends.stdout, OFlags::NONBLOCK).context("set up logging pipe")?;
                self.logger = Some(logger);
                Sink::Pipe(ends.stdout.into())
            }
        })
    }

    /// Makes a pipe that is copied to `sink`; returns its write end.
    fn piped(&mut self, sink: Sink, owner: &StdioOwner) -> Result<OwnedFd> {
        let (ours, child) = owned_pipe(owner)?;
        fcntl_setfl(&ours, OFlags::NONBLOCK).context("set up output")?;
        self.outputs.push((Some(ours), sink));
        Ok(child)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Prepared {
    /// Makes stdio without any stream.
    pub fn unconnected() -> Self {
        Self { child: Stdio::Null, wiring: Wiring::default() }
    }
}

impl Prepared {
    /// Takes the descriptors of the process, to move them into the runtime.
    pub fn take_child(&mut self) -> Stdio {
        std::mem::replace(&mut self.child, Stdio::Null)
    }

    /// Starts the copying. `console` is the master of the process's terminal, if it has one.
    ///
    /// # Errors
    /// A descriptor cannot be set up.
    pub fn attach(self, console: Option<OwnedFd>) -> Result<Arc<Io>> {
        let Wiring { stdin, writer, outputs, logger } = self.wiring;
        let mut pumps = Vec::with_capacity(3);
        if let Some(master) = &console {
            fcntl_setfl(master, OFlags::NONBLOCK).context("set up terminal")?;
        }
        // One descriptor reads, writes and resizes, since some clients count the descriptors of terminals.
        let console = console.map(Arc::new);
        for (from, sink) in outputs {
            let kind = if from.is_some() { Kind::Output } else { Kind::Terminal };
            if let Some(from) = from.map(Arc::new).or_else(|| console.clone()) {
                pumps.push(Pump::new(kind, from, sink));
            }
        }
        if let Some((from, to)) = stdin
            && let Some(to) = to.map(Arc::new).or_else(|| console.clone())
        {
            pumps.push(Pump::new(Kind::Input, from, Sink::Pipe(to)));
        }
        Ok(Io::start(pumps, Streams { writer, console, logger }))
    }
}

/// Opens a log file on the pool: its disk may be slow.
async fn log_file(path: PathBuf, pool: &Pool) -> Result<OwnedFd> {
    pool.run(&pool.children.begin_spawn(), move || fifo::open_file(&path)).await
}

fn sink(output: Output) -> Sink {
    match output {
        Output::Fifo(fd) => Sink::Fifo(fd.into()),
        Output::Other(fd) => Sink::Append(fd),
    }
}

/// Makes a pipe that the container's root owns, so that its processes can open /dev/stdout again.
fn owned_pipe(owner: &StdioOwner) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    own(&read, owner)?;
    Ok((read, write))
}

fn own(pipe: &OwnedFd, owner: &StdioOwner) -> Result<()> {
    let (uid, gid) = owner.owner;
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .with_context(|| format!("chown stdio to {uid}:{gid}"))
}

fn null() -> Result<OwnedFd> {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")
}

#[cfg(test)]
mod tests;
