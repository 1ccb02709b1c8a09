//! Opening what a client named for stdio, without ever blocking the loop.
//!
//! A fifo for output is held open at both ends: when containerd restarts, its reader goes and comes back, and a fifo
//! with no reader at all would answer EPIPE. One `O_RDWR` descriptor is both ends. But it is opened only once a client
//! has its reader there: a fifo that nobody reads must fail the request, not swallow the output.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use berth_runtime::{Context, Error, Result};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

/// How long a client may take to open its end; containerd's shim waits as long.
pub const PATIENCE: Duration = Duration::from_secs(30);

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
/// The path, and what the kernel said; or that no reader came within `patience`.
pub async fn open_output(path: &Path, patience: Duration) -> Result<Output> {
    let deadline = Instant::now() + patience;
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
                let text = format!(
                    "open fifo {}: nobody opened it for reading within {} s",
                    path.display(),
                    patience.as_secs()
                );
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
mod tests {
    use super::*;
    use crate::io::testing::{Scratch, runtime};
    use std::io::Read;

    #[test]
    fn a_reader_that_never_comes_is_an_error_with_the_path() {
        let dir = Scratch::new();
        let path = dir.fifo("out");
        let error = runtime().block_on(open_output(&path, Duration::from_millis(20))).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.kind(), berth_runtime::Kind::FailedPrecondition);
    }

    #[test]
    fn a_late_reader_is_waited_for() {
        let dir = Scratch::new();
        let path = dir.fifo("out");
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(30));
                let mut text = String::new();
                std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        let Output::Fifo(fd) = runtime().block_on(open_output(&path, PATIENCE)).unwrap() else { panic!("no fifo") };
        rustix::io::write(&fd, b"hello").unwrap();
        drop(fd);
        assert_eq!(reader.join().unwrap(), "hello");
    }

    #[test]
    fn a_reader_may_go_and_come_back() {
        let dir = Scratch::new();
        let path = dir.fifo("out");
        let reader = dir.reader(&path);
        let Output::Fifo(fd) = runtime().block_on(open_output(&path, PATIENCE)).unwrap() else { panic!("no fifo") };
        drop(reader);
        rustix::io::write(&fd, b"kept").unwrap();
        let reader = dir.reader(&path);
        let mut buf = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut buf).unwrap(), 4);
    }

    #[test]
    fn a_file_is_appended_to_and_its_directory_made() {
        let dir = Scratch::new();
        let path = dir.path().join("a/b/log");
        for _ in 0..2 {
            rustix::io::write(open_file(&path).unwrap(), b"x").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"xx");
    }

    #[test]
    fn missing_paths_are_named() {
        let missing = Path::new("/nowhere/fifo");
        assert!(open_input(missing).unwrap_err().to_string().contains("/nowhere/fifo"));
        let error = runtime().block_on(open_output(missing, PATIENCE)).unwrap_err();
        assert!(error.to_string().contains("/nowhere/fifo"));
    }
}
