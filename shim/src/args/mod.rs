//! The command line, in the syntax of Go's `flag` package: `-x v`, `-x=v`, `--x`, booleans without a value. containerd
//! writes it for a shim in Go. The flags end at the first word that is no flag, and that word is the action.
//!
//! Unknown flags are skipped. A shim in Go would exit, but a newer containerd may send a flag that berth does not need.

use std::{ffi::OsString, path::PathBuf};

use berth_runtime::{Error, Result, go_bool};
use log::LevelFilter;

pub mod handover;

pub use self::handover::Handover;

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// containerd's namespace (`-namespace`), one path component.
    pub namespace: String,
    /// The id of the container, or of the group for the server (`-id`).
    pub id: String,
    /// containerd's gRPC address (`-address`).
    pub address: String,
    /// The bundle directory (`-bundle`), which containerd passes to `delete` alone.
    pub bundle: Option<PathBuf>,
    /// Log at debug level (`-debug`).
    pub debug: bool,
    /// The server was handed over by another program of the same process (`-handover`, `-refused`).
    pub handover: Option<Handover>,
    /// The action.
    pub action: Action,
}

/// The action of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// `start`: find or make the server and print its address.
    Start,
    /// `delete`: clean up after a server that has died.
    Delete,
    /// No word: serve on the listener that is inherited as descriptor 3.
    #[default]
    Serve,
    /// `-handover-check`: read the document on descriptor 3 and print whether this program can take over.
    Check,
    /// `-info`: print what the runtime supports.
    Info,
    /// `-v`: print the version.
    Version,
    /// `-help`: explain the program to a human.
    Help,
}

impl Args {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// The action is unknown, a flag has no value, a boolean is malformed, or the namespace or id is missing or cannot
    /// be a file name. The message names it.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut words = arguments
            .map(|word| word.into_string().map_err(|w| Error::invalid(format!("argument {w:?} is not UTF-8"))))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .peekable();
        let mut args = Self::default();
        let (mut info, mut version, mut help, mut check) = (false, false, false, false);
        let (mut handover, mut refused) = (None, None);
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
                "handover" => handover = Some(value(inline)?),
                "refused" => refused = Some(value(inline)?),
                "handover-check" => check = boolean(name, inline)?,
                "info" => info = boolean(name, inline)?,
                "v" | "version" => version = boolean(name, inline)?,
                "h" | "help" => help = boolean(name, inline)?,
                // An unknown flag may or may not take a value. The next word is taken for its value unless it is an
                // action or a flag.
                _ if inline.is_none() => {
                    words.next_if(|next| !next.starts_with('-') && next != "start" && next != "delete");
                }
                _ => {}
            }
        }
        args.handover = handover.map(|value| Handover::parse(&value, refused)).transpose()?;
        args.action = match words.next().as_deref() {
            _ if help => Action::Help,
            _ if check => Action::Check,
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
        if matches!(self.action, Action::Version | Action::Info | Action::Help | Action::Check) {
            return Ok(());
        }
        component("namespace", &self.namespace)?;
        match self.action {
            // The server's id is a group's. An annotation may name a group freely, and no path contains it.
            Action::Serve if self.id.is_empty() => Err(Error::invalid("-id is empty")),
            Action::Serve => Ok(()),
            _ => component("id", &self.id),
        }
    }
}

/// Checks that a value can be a directory name below the state root.
fn component(flag: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid(format!("-{flag} is empty")));
    }
    let bad = value == "." || value == ".." || value.contains('/') || value.chars().any(char::is_control);
    if bad || value.len() > 255 { Err(Error::invalid(format!("-{flag}: invalid value {value:?}"))) } else { Ok(()) }
}

/// The value of a switch: Go's boolean behind `=`, or true.
fn boolean(name: &str, inline: Option<String>) -> Result<bool> {
    let Some(text) = inline else { return Ok(true) };
    go_bool::parse_bool(&text).ok_or_else(|| Error::invalid(format!("flag -{name}: {text:?} is not a boolean")))
}

#[cfg(test)]
mod tests;
