//! Helpers of the unit tests: a scratch directory with fifos in it, pipes, terminals and a small tokio runtime.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::{Mode, OFlags, mknodat, open};

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The choices of one run, in its order. [`explore`] makes them.
#[derive(Default)]
pub struct Choices {
    /// Each choice with the number of its alternatives.
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    /// Chooses one of `n` alternatives.
    pub fn pick(&mut self, n: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, n));
        }
        let (choice, alternatives) = self.path[self.at];
        assert_eq!(alternatives, n, "a run depends on more than its choices");
        self.at += 1;
        choice
    }

    /// True if the run has left the choices of the one before. From here on, a state that was seen needs no second look.
    pub fn is_new(&self) -> bool {
        self.at == self.path.len()
    }

    /// Goes on to the choices of the next run.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, n)) = self.path.pop() {
            if choice + 1 < n {
                self.path.push((choice + 1, n));
                return true;
            }
        }
        false
    }
}

/// Runs `run` with each possible sequence of choices. Returns the number of runs.
pub fn explore(mut run: impl FnMut(&mut Choices)) -> usize {
    let mut choices = Choices::default();
    let mut runs = 1;
    run(&mut choices);
    while choices.advance() {
        run(&mut choices);
        runs += 1;
    }
    runs
}

/// A directory of its own for a test. Dropping it removes the directory.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-shim-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        path
    }

    /// Opens a client's end without blocking.
    pub fn reader(&self, path: &Path) -> OwnedFd {
        open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// A terminal in raw mode: master and slave.
pub fn pty() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut raw = rustix::termios::tcgetattr(&slave).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &raw).unwrap();
    (master, slave)
}

/// An open descriptor of /dev/null.
pub fn null() -> OwnedFd {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}
