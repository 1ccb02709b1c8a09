//! The record of what an installation changed: one file for each engine in `/var/lib/berth/setup`. It holds each file as
//! it was before and as berth left it, so that the first can be restored byte for byte.
//!
//! The record is written before the files and removed after them. A crash between leaves a record whose `before` is the
//! file's text: a repeated command goes on from there.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use berth_runtime::{Context, Error, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    engine::{Engine, Kind},
    file::{self, Content},
};
use crate::host::Host;

const DIRECTORY: &str = "/var/lib/berth/setup";
/// The version of the form.
const VERSION: u32 = 1;

/// The changes for one engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The version of the form.
    pub version: u32,
    /// The name of the runtime.
    pub name: String,
    /// The files.
    pub files: Vec<Entry>,
    /// The directories that were made, the outermost first.
    pub directories: Vec<PathBuf>,
}

/// One changed file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The absolute path on the host.
    pub path: PathBuf,
    /// The owner.
    pub kind: Kind,
    /// The file before; `None` if there was none.
    pub before: Option<Content>,
    /// The text as berth left it.
    pub after: String,
}

impl Record {
    /// A record without changes.
    pub fn new(name: &str) -> Self {
        Self { version: VERSION, name: name.to_owned(), files: vec![], directories: vec![] }
    }

    /// The entry of a path.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.path == path)
    }
}

/// The directory of the records, locked against a second installer.
pub struct Store {
    directory: PathBuf,
    /// Holds the lock (flock(2)) until it is closed.
    lock: Option<File>,
}

impl Store {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// Fails if another installer works, or if the directory cannot be made.
    pub fn make(host: &Host) -> Result<Self> {
        file::make_directory(&host.path(DIRECTORY))?;
        Self::open(host)
    }

    /// Locks the directory. If it is missing there are no records.
    ///
    /// # Errors
    /// Fails if another installer works.
    pub fn open(host: &Host) -> Result<Self> {
        let directory = host.path(DIRECTORY);
        let lock = match File::open(&directory) {
            Ok(lock) => lock,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self { directory, lock: None }),
            Err(e) => return Err(Error::from(e).context(format!("open {}", directory.display()))),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = format!("{}: another berth install or uninstall is at work", directory.display());
                return Err(Error::new(berth_runtime::Kind::FailedPrecondition, text));
            }
            locked => locked.with_context(|| format!("lock {}", directory.display()))?,
        }
        Ok(Self { directory, lock: Some(lock) })
    }

    fn path(&self, engine: Engine) -> PathBuf {
        self.directory.join(format!("{}.json", engine.name()))
    }

    /// Reads the record of an engine.
    ///
    /// # Errors
    /// Fails if the record is malformed or of a newer version.
    pub fn load(&self, engine: Engine) -> Result<Option<Record>> {
        let path = self.path(engine);
        let Some(content) = file::read(&path)? else { return Ok(None) };
        let malformed = |e: String| Error::invalid(format!("{}: {e}", path.display()));
        let record: Record = serde_json::from_str(&content.text).map_err(|e| malformed(e.to_string()))?;
        if record.version > VERSION {
            return Err(malformed(format!("has version {}, which a newer berth wrote", record.version)));
        }
        Ok(Some(record))
    }

    /// Writes the record of an engine, readable by root alone: a file of an engine may hold a secret.
    ///
    /// # Errors
    /// As [`file::write`].
    pub fn save(&self, engine: Engine, record: &Record) -> Result<()> {
        let text = serde_json::to_string_pretty(record).map_err(|e| Error::invalid(e.to_string()))?;
        file::write(&self.path(engine), &Content { mode: 0o600, ..Content::new(text + "\n") })
    }

    /// Removes the record of an engine.
    ///
    /// # Errors
    /// As [`file::remove`].
    pub fn forget(&self, engine: Engine) -> Result<()> {
        file::remove(&self.path(engine))
    }
}

impl Drop for Store {
    /// Removes the directories if they are empty.
    fn drop(&mut self) {
        if self.lock.is_some() && fs::remove_dir(&self.directory).is_ok() {
            let parent = self.directory.parent().unwrap_or(&self.directory);
            let _ = fs::remove_dir(parent); // it may hold other things of berth
        }
    }
}
