//! Making cgroup directories. A failure removes the directories made so far.

use std::path::{Path, PathBuf};

use berth_init::mode::Umask;
use rustix::{fs::Mode, io::Errno};

use crate::error::{Context, Error, Result};

/// The directories that were made; dropping it removes exactly these, unless [`NewDirs::keep`] was called.
pub(super) struct NewDirs {
    dirs: Vec<PathBuf>,
    /// The umask must not apply: a container with mapped ids reads its cgroup as "other".
    _umask: Umask,
}

impl NewDirs {
    /// Nothing is made yet. Sets this thread's umask to 0 until it is dropped or kept.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { dirs: Vec::new(), _umask: Umask::set(0).context("unshare the umask")? })
    }

    /// Makes `path` and its missing parents. Returns true if `path` itself was made.
    pub(super) fn make(&mut self, path: &Path) -> Result<bool> {
        let mode = Mode::from_raw_mode(0o755);
        let (mut at, mut missing) = (path, Vec::new());
        loop {
            match rustix::fs::mkdir(at, mode) {
                Ok(()) => {
                    self.dirs.push(at.to_owned());
                    match missing.pop() {
                        Some(child) => at = child,
                        None => return Ok(true),
                    }
                }
                // Two containers of one pod may make the pod's cgroup at the same time: either may win.
                Err(Errno::EXIST) => match missing.pop() {
                    Some(child) => at = child,
                    None => return Ok(false),
                },
                Err(Errno::NOENT) if missing.len() < 4096 => match at.parent() {
                    Some(parent) => {
                        missing.push(at);
                        at = parent;
                    }
                    None => return Err(failed(Errno::NOENT, path)),
                },
                Err(Errno::INTR) => {}
                Err(e) => return Err(failed(e, at)),
            }
        }
    }

    /// Leaves the directories in place.
    pub(super) fn keep(mut self) {
        self.dirs.clear();
    }
}

/// The words are runc's: its callers recognise a caller without rights by them.
fn failed(e: Errno, at: &Path) -> Error {
    Error::from(e).context(format!("unable to apply cgroup configuration: make cgroup {}", at.display()))
}

impl Drop for NewDirs {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            let _ = rustix::fs::rmdir(dir);
        }
    }
}
