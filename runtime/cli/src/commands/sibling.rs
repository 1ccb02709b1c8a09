//! Commands that another program of berth carries out. It is beside this one, or in ../libexec/berth.

use std::{os::unix::process::CommandExt, process};

use berth_runtime::{Context, Error, Kind};

use crate::Failure;

/// Executes a command of `program`; returns only if that fails.
pub fn execute(program: &str, command: &str, words: &[String]) -> Failure {
    let own = match std::env::current_exe().context("find the directory of this program") {
        Ok(own) => own,
        Err(e) => return e.into(),
    };
    let directory = own.parent().unwrap_or(&own);
    let found = [directory.join(program), directory.join("../libexec/berth").join(program)]
        .into_iter()
        .find(|path| path.exists());
    match found {
        Some(path) => {
            let error = process::Command::new(&path).arg(command).args(words).exec();
            Error::from(error).context(format!("execute {}", path.display())).into()
        }
        None => {
            let text = format!("{command}: {program} is not installed in {}", directory.display());
            Error::new(Kind::NotFound, text).into()
        }
    }
}
