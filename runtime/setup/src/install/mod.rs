//! `berth install` and `berth uninstall`: the changes are computed, shown, recorded and carried out.

pub mod engine;
pub mod file;
pub mod json_text;
pub mod record;
mod show;

use std::{fs, path::Path, process::Command};

use berth_runtime::{Context, Error, Kind as ErrorKind, Result};

use self::{
    engine::{Engine, Kind, Options, Wanted},
    file::Content,
    record::{Entry, Record, Store},
};
use crate::host::Host;

/// One file that has to change.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The absolute path on the host.
    pub path: std::path::PathBuf,
    /// The file as it was read.
    pub from: Option<Content>,
    /// The file as it has to be.
    pub to: Option<Content>,
}

/// The work for one engine.
#[derive(Debug)]
pub struct Work {
    engine: Engine,
    changes: Vec<Change>,
    /// The record afterwards; `None` if nothing of berth is left.
    record: Option<Record>,
    /// The record says something else now.
    recorded: bool,
    /// The directories that an uninstallation removes if they are empty.
    directories: Vec<std::path::PathBuf>,
}

/// Computes the work that registers berth.
///
/// # Errors
/// Fails if the engine is not there, and if a file is malformed, is a symbolic link, or was edited by another hand.
pub fn install(host: &Host, store: &Store, engine: Engine, options: &Options, force: bool) -> Result<Work> {
    if !engine.is_present(host) {
        let text = format!("{}: is not on this host: neither its program nor its directory is there", engine.name());
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let old = store.load(engine)?;
    if let Some(old) = old.as_ref().filter(|old| old.name != options.name) {
        let text = format!("{}: berth is installed as {:?}; uninstall it first", engine.name(), old.name);
        return Err(Error::new(ErrorKind::AlreadyExists, text));
    }
    let before = |path: &Path| before(host, engine, old.as_ref(), path, force);
    let wanted = engine.plan(host, options, &|path| Ok(before(path)?.map(|content| content.text)))?;
    let mut record = Record::new(&options.name);
    record.directories = old.as_ref().map(|old| old.directories.clone()).unwrap_or_default();
    let mut changes = Vec::new();
    for Wanted { path, text, kind } in wanted {
        let (now, before) = (file::read(&host.path(&path))?, before(&path)?);
        // A shared file that was edited elsewhere stays as it is.
        let known = old.as_ref().and_then(|old| old.entry(&path)).filter(|_| kind == Kind::Shared);
        if let (Some(known), Some(now)) = (known, &now)
            && engine.same_part(&now.text, &text, &options.name)
        {
            record.files.push(known.clone());
            continue;
        }
        let same = before.as_ref().is_some_and(|before| before.text == text);
        if kind == Kind::Own && before.is_some() && !same && !force {
            let text = format!("{}: exists, and berth install did not write it; --force replaces it", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
        if same {
            continue; // The administrator has registered berth by hand.
        }
        let to = before
            .as_ref()
            .map_or_else(|| Content::new(text.clone()), |old| Content { text: text.clone(), ..old.clone() });
        changes.push(Change { from: now, path: path.clone(), to: Some(to) });
        record.files.push(Entry { path, kind, before, after: text });
    }
    let left = old.iter().flat_map(|old| &old.files).filter(|entry| record.entry(&entry.path).is_none());
    for entry in left {
        changes.push(undo(host, engine, &options.name, entry, force)?);
    }
    changes.retain(|change| change.from != change.to);
    let recorded = old.as_ref() != Some(&record) && !(old.is_none() && record.files.is_empty());
    Ok(Work { engine, changes, recorded, record: Some(record), directories: vec![] })
}

/// Computes the work that restores what was there before; `None` if berth was not installed.
///
/// # Errors
/// Fails if a file of berth's own was edited since.
pub fn uninstall(host: &Host, store: &Store, engine: Engine, force: bool) -> Result<Option<Work>> {
    let Some(old) = store.load(engine)? else { return Ok(None) };
    let changes: Result<Vec<Change>> =
        old.files.iter().map(|entry| undo(host, engine, &old.name, entry, force)).collect();
    let mut changes = changes?;
    changes.retain(|change| change.from != change.to);
    Ok(Some(Work { engine, changes, record: None, recorded: true, directories: old.directories }))
}

/// A file without berth's part: as recorded if it is as berth left it, else as it is now without that part.
fn before(host: &Host, engine: Engine, record: Option<&Record>, path: &Path, force: bool) -> Result<Option<Content>> {
    match record.and_then(|record| Some((record, record.entry(path)?))) {
        Some((record, entry)) => Ok(undo(host, engine, &record.name, entry, force)?.to),
        None => file::read(&host.path(path)),
    }
}

/// The change that takes berth out of a file.
fn undo(host: &Host, engine: Engine, name: &str, entry: &Entry, force: bool) -> Result<Change> {
    let now = file::read(&host.path(&entry.path))?;
    let text = now.as_ref().map(|now| now.text.as_str());
    let before = entry.before.as_ref().map(|before| before.text.as_str());
    let to = match (&now, entry.kind) {
        (Some(now), _) if now.text == entry.after => {
            entry.before.as_ref().map(|before| Content { text: before.text.clone(), ..now.clone() })
        }
        (now, _) if now.is_none() || text == before => now.clone(),
        (Some(now), Kind::Shared) => Some(Content { text: engine.strip(&entry.path, &now.text, name)?, ..now.clone() }),
        (_, Kind::Own) if force => entry.before.clone(),
        _ => {
            let text = format!(
                "{}: was edited after berth install wrote it; --force gives the edits up",
                entry.path.display()
            );
            return Err(Error::new(ErrorKind::FailedPrecondition, text));
        }
    };
    Ok(Change { path: entry.path.clone(), from: now, to })
}

impl Work {
    /// Describes the work: the files, and the lines that go and come.
    pub fn show(&self) -> String {
        show::changes(self.engine, &self.changes)
    }

    /// Returns whether a file has to change.
    pub fn changes_files(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Carries the work out. A failure takes back the files that were already changed.
    ///
    /// # Errors
    /// As [`file::write`], and if a file has changed since it was read.
    pub fn carry_out(mut self, host: &Host, store: &Store) -> Result<()> {
        if let Some(record) = self.record.as_mut().filter(|_| self.recorded) {
            for change in &self.changes {
                let parent = host.path(change.path.parent().unwrap_or(Path::new("/")));
                record.directories.extend(parent.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned));
            }
            record.directories.sort_unstable();
            record.directories.dedup();
            store.save(self.engine, record)?;
        }
        for (index, change) in self.changes.iter().enumerate() {
            if let Err(e) = change.carry_out(host) {
                let done = self.changes.get(..index).unwrap_or_default();
                let errors = done.iter().rev().filter_map(|change| change.reversed().carry_out(host).err());
                let all = Error::all([e].into_iter().chain(errors));
                // Without a change the record of a first installation says nothing.
                return all.inspect_err(|_| self.drop_new_record(store));
            }
        }
        if self.record.is_none() {
            store.forget(self.engine)?;
            for directory in self.directories.iter().rev() {
                let _ = fs::remove_dir(directory); // another package has put files there
            }
        }
        Ok(())
    }

    /// Removes the record of an installation that changed nothing. A record that was there before stays: each of its
    /// entries still says how its file was.
    fn drop_new_record(&self, store: &Store) {
        if self.record.as_ref().is_some_and(|record| record.files.iter().all(|entry| self.is_first(entry))) {
            let _ = store.forget(self.engine); // the error of the file is reported
        }
    }

    fn is_first(&self, entry: &Entry) -> bool {
        self.changes.iter().any(|change| change.path == entry.path && change.from == entry.before)
    }

    /// Restarts the units of the engine that run; returns their names.
    ///
    /// # Errors
    /// Fails if systemctl(1) fails or is not there.
    pub fn restart(engine: Engine) -> Result<Vec<&'static str>> {
        let call = |words: &[&str]| {
            let status = Command::new("systemctl").args(words).status();
            status.with_context(|| format!("execute systemctl {}", words.join(" ")))
        };
        let mut restarted = Vec::new();
        for unit in engine.units() {
            if !call(&["is-active", "--quiet", unit])?.success() {
                continue;
            }
            let status = call(&["restart", unit])?;
            if !status.success() {
                return Err(Error::invalid(format!("systemctl restart {unit}: {status}")));
            }
            restarted.push(*unit);
        }
        Ok(restarted)
    }
}

impl Change {
    fn carry_out(&self, host: &Host) -> Result<()> {
        let path = host.path(&self.path);
        if file::read(&path)? != self.from {
            let text = format!("{}: has changed meanwhile", path.display());
            return Err(Error::new(ErrorKind::FailedPrecondition, text));
        }
        match &self.to {
            Some(content) => {
                file::make_directory(path.parent().unwrap_or(Path::new("/")))?;
                file::write(&path, content)
            }
            None => file::remove(&path),
        }
    }

    fn reversed(&self) -> Self {
        Self { path: self.path.clone(), from: self.to.clone(), to: self.from.clone() }
    }
}

#[cfg(test)]
mod tests;
