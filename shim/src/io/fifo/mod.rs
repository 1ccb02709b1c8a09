//! Opens the paths of stdio without blocking the event loop.
//!
//! A fifo for output is held open at both ends. When containerd restarts, its reader is away for a while, and a write
//! to a fifo without a reader fails with EPIPE. One O_RDWR descriptor holds both ends. It is opened only once a client
//! has opened its reader: a request whose fifo has no reader must fail and not lose the output.

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

/// The time that a client has to open its end. containerd's runc shim waits as long.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause between two attempts, doubled up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(1);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// An opened stdin.
#[derive(Debug)]
pub enum Input {
    /// A fifo. The shim holds a writer of its own, so that clients may come and go, and CloseIO alone ends the input.
    Fifo {
        /// The read end, non-blocking.
        reader: OwnedFd,
        /// The write end, until CloseIO.
        writer: OwnedFd,
    },
    /// A file or device, which the process reads itself.
    Other(OwnedFd),
}

/// An opened output.
#[derive(Debug)]
pub enum Output {
    /// Both ends of a fifo, non-blocking.
    Fifo(OwnedFd),
    /// A file or device, opened for appending; a write may block.
    Other(OwnedFd),
}

/// Opens stdin.
///
/// # Errors
/// The path cannot be opened; the error names it.
pub fn open_input(path: &Path) -> Result<Input> {
    let what = || format!("open stdin {}", path.display());
    let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).with_context(what)?;
    if !is_fifo(&reader).with_context(what)? {
        return Ok(Input::Other(reader));
    }
    let writer = open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).with_context(what)?;
    Ok(Input::Fifo { reader, writer })
}

/// Opens an output, and waits for a reader of a fifo.
///
/// # Errors
/// The path cannot be opened, or no reader has come within `limit`; the error names the path.
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
            // ENXIO: no process has the fifo open for reading (fifo(7)).
            Err(Errno::NXIO) if Instant::now() < deadline => {
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(Errno::NXIO) => {
                let text = format!(
                    "open fifo {}: no process opened it for reading within {} s",
                    path.display(),
                    limit.as_secs()
                );
                return Err(Error::new(berth_runtime::Kind::FailedPrecondition, text));
            }
            Err(e) => return Err(e).with_context(|| format!("open {}", path.display())),
        }
    }
}

/// Opens a log file for appending, and makes its missing directories.
///
/// # Errors
/// The path cannot be opened or made; the error names it.
pub fn open_file(path: &Path) -> Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("mkdir {}", parent.display()))?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o644)).and_then(blocking).with_context(|| format!("open {}", path.display()))
}

/// Opens the fifo behind a descriptor again, with another access mode.
pub fn reopen(fifo: &OwnedFd, access: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", fifo.as_raw_fd()), flags, Mode::empty())
}

/// Clears O_NONBLOCK. It was set only so that the open of a fifo without a reader does not block.
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
