//! The command line, in the syntax of Go's `flag` package, since containerd writes it for a Go program: `-x v`, `-x=v`,
//! `--x`, booleans without a value; flags end at the first other word, which is the action.
//!
//! Unknown flags are skipped, where a Go shim would exit: a newer containerd may send one that does not matter to us.

use std::{ffi::OsString, path::PathBuf};

use berth_runtime::{Error, Result};
use log::LevelFilter;

/// What containerd asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// containerd's namespace (`-namespace`), checked to be one path component.
    pub namespace: String,
    /// The id of the container, or of the group when we are the server (`-id`).
    pub id: String,
    /// containerd's gRPC address (`-address`).
    pub address: String,
    /// The bundle directory (`-bundle`); containerd passes it to `delete` only.
    pub bundle: Option<PathBuf>,
    /// Log at debug level (`-debug`).
    pub debug: bool,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// `start`: find or make the server, print its address.
    Start,
    /// `delete`: clean up after a server that died.
    Delete,
    /// No word: be the server, on the listener inherited as descriptor 3.
    #[default]
    Serve,
    /// `-info`.
    Info,
    /// `-v`.
    Version,
}

impl Args {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// An unknown action, a flag without its value, a boolean that is none, or a namespace or id that is missing or
    /// unfit to be a file name; the message names it.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut words = arguments
            .map(|word| word.into_string().map_err(|w| Error::invalid(format!("argument {w:?} is not UTF-8"))))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .peekable();
        let mut args = Self::default();
        let (mut info, mut version) = (false, false);
        while let Some(word) = words.next_if(|word| word.len() > 1 && word.starts_with('-')) {
            if word == "--" {
                break;
            }
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or_default();
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = |inline: Option<String>| {
                inline.or_else(|| words.next()).ok_or_else(|| Error::invalid(format!("flag needs a value: -{name}")))
            };
            match name {
                "namespace" => args.namespace = value(inline)?,
                "id" => args.id = value(inline)?,
                "address" => args.address = value(inline)?,
                "bundle" => args.bundle = Some(value(inline)?).filter(|path| !path.is_empty()).map(PathBuf::from),
                "publish-binary" | "socket" | "debug-socket" => drop(value(inline)?),
                "debug" => args.debug = boolean(name, inline)?,
                "info" => info = boolean(name, inline)?,
                "v" | "version" => version = boolean(name, inline)?,
                // Whether an unknown flag takes a value cannot be known: the next word is one unless it is an action
                // or a flag itself.
                _ if inline.is_none() => {
                    words.next_if(|next| !next.starts_with('-') && next != "start" && next != "delete");
                }
                _ => {}
            }
        }
        args.action = match words.next().as_deref() {
            _ if version => Action::Version,
            _ if info => Action::Info,
            None | Some("") => Action::Serve,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some(other) => return Err(Error::invalid(format!("unknown action {other:?}: want start or delete"))),
        };
        args.check()?;
        Ok(args)
    }

    /// The level that `-debug` selects.
    pub fn log_level(&self) -> LevelFilter {
        if self.debug { LevelFilter::Debug } else { LevelFilter::Info }
    }

    fn check(&self) -> Result<()> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(());
        }
        component("namespace", &self.namespace)?;
        match self.action {
            // The server's id is a group's, which an annotation may name freely; it is never part of a path.
            Action::Serve if self.id.is_empty() => Err(Error::invalid("-id is empty")),
            Action::Serve => Ok(()),
            _ => component("id", &self.id),
        }
    }
}

/// Namespace and id become directory names below the state root.
fn component(flag: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid(format!("-{flag} is empty")));
    }
    let bad = value == "." || value == ".." || value.contains('/') || value.chars().any(char::is_control);
    if bad || value.len() > 255 { Err(Error::invalid(format!("-{flag}: invalid value {value:?}"))) } else { Ok(()) }
}

/// The words that Go's `strconv.ParseBool` takes.
fn boolean(name: &str, inline: Option<String>) -> Result<bool> {
    match inline.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::invalid(format!("flag -{name}: {other:?} is no boolean"))),
    }
}

#[cfg(test)]
mod tests;
