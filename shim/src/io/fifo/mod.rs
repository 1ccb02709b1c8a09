//! Opening what a client named for stdio, without ever blocking the loop.
//!
//! A fifo for output is held open at both ends: when containerd restarts, its reader goes and comes back, and a fifo
//! with no reader at all would answer EPIPE. One `O_RDWR` descriptor is both ends. But it is opened only once a client
//! has its reader there: a fifo that nobody reads must fail the request, not swallow the output.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use berth_runtime::{Context, Error, Result};
use rustix::{
    fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, open},
    io::Errno,
};
use tokio::time::{Instant, sleep};

/// How long a client may take to open its end; containerd's shim waits as long.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause between two looks for a reader, doubled up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(1);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// What stdin turned out to be.
#[derive(Debug)]
pub enum Input {
    /// A fifo: its read end, and a writer of the shim's own, so that clients come and go and only CloseIO is the end.
    Fifo {
        /// Non-blocking.
        reader: OwnedFd,
        /// Dropped by CloseIO.
        writer: OwnedFd,
    },
    /// A file or device, which the process reads itself.
    Other(OwnedFd),
}

/// What an output path turned out to be.
#[derive(Debug)]
pub enum Output {
    /// A fifo, both ends, non-blocking.
    Fifo(OwnedFd),
    /// A file or device, appended to; it may block.
    Other(OwnedFd),
}

/// Opens stdin.
///
/// # Errors
/// The path, and what the kernel said.
pub fn open_input(path: &Path) -> Result<Input> {
    let what = || format!("open stdin {}", path.display());
    let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).with_context(what)?;
    if !is_fifo(&reader).with_context(what)? {
        return Ok(Input::Other(reader));
    }
    let writer = open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).with_context(what)?;
    Ok(Input::Fifo { reader, writer })
}

/// Opens an output, waiting for a fifo's reader to come.
///
/// # Errors
/// The path, and what the kernel said; or that no reader came within `limit`.
pub async fn open_output(path: &Path, limit: Duration) -> Result<Output> {
    let deadline = Instant::now() + limit;
    let mut pause = PAUSE;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match open(path, flags, Mode::empty()) {
            Ok(writer) if is_fifo(&writer)? => {
                let both = open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
                return Ok(Output::Fifo(both.with_context(|| format!("open {}", path.display()))?));
            }
            Ok(file) => {
                let file = blocking(file).with_context(|| format!("open {}", path.display()))?;
                return Ok(Output::Other(file));
            }
            // fifo(7): no process has it open for reading.
            Err(Errno::NXIO) if Instant::now() < deadline => {
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(Errno::NXIO) => {
                let text =
                    format!("open fifo {}: nobody opened it for reading within {} s", path.display(), limit.as_secs());
                return Err(Error::new(berth_runtime::Kind::FailedPrecondition, text));
            }
            Err(e) => return Err(e).with_context(|| format!("open {}", path.display())),
        }
    }
}

/// Opens a log file for appending, and makes the directories it is in.
///
/// # Errors
/// The path, and what the kernel said.
pub fn open_file(path: &Path) -> Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("mkdir {}", parent.display()))?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o644)).and_then(blocking).with_context(|| format!("open {}", path.display()))
}

/// Opens the fifo behind a descriptor once more, with other rights.
pub fn reopen(fifo: &OwnedFd, access: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", fifo.as_raw_fd()), flags, Mode::empty())
}

/// Only the opening is not to block, of a fifo without a reader; the writing is done where it may.
fn blocking(file: OwnedFd) -> Result<OwnedFd, Errno> {
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

fn is_fifo(fd: &OwnedFd) -> Result<bool> {
    let stat = fstat(fd).context("stat")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

#[cfg(test)]
mod tests;
