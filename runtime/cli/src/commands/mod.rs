//! The commands. A module holds the arguments of a command, its help, and the function that carries it out.

pub mod checkpoint;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod image;
pub mod kill;
mod launch;
pub mod list;
pub mod mounts;
pub mod pause;
pub mod ps;
pub mod restore;
pub mod run;
pub mod setup;
pub mod shims;
mod sibling;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;

use berth_runtime::{Error, state::Container};

use crate::{Failure, Globals};

/// The exit status of `run` and `exec` in the foreground if the program could not be executed. runc's init exits with the
/// same status. The error text is on the stderr of the process, which is that of the caller.
const NOT_EXECUTED: i32 = 255;

/// The arguments of a command that takes the id of a container and nothing else.
#[derive(Debug, Default)]
pub struct ContainerArgs {
    /// The container.
    pub id: String,
}

/// The format of a listing (`--format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

impl Format {
    /// Reads the flag; a table is the default.
    fn parse(flag: Option<&str>) -> Result<Self, Error> {
        match flag {
            None | Some("table") => Ok(Self::Table),
            Some("json") => Ok(Self::Json),
            Some(_) => Err(Error::invalid("invalid format option")),
        }
    }
}

/// Loads the container `id`.
///
/// # Errors
/// Fails if the id is empty, if there is no such container, or if its state cannot be read.
fn load(globals: &Globals, id: &str) -> Result<Container, Error> {
    if id.is_empty() {
        return Err(Error::invalid("container id cannot be empty"));
    }
    Container::load(&globals.root, id)
}

/// The failure of a command whose errors carry its name, as with runc.
fn failed(globals: &Globals, command: &str, error: Error) -> Failure {
    Failure { message: format!("{} {command} failed: {error}", globals.program), status: 1 }
}
