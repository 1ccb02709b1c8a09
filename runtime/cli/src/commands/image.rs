//! `unpack` and `tags`: execute the program `berth-image`, so that images and registries add neither code nor size to this
//! program.

use std::{os::unix::process::CommandExt, process};

use berth_runtime::{Context, Error, Kind};

use crate::{
    Failure,
    args::{Command, Count, Order, Usage},
};

/// The program. It is beside this one or in ../libexec/berth.
const PROGRAM: &str = "berth-image";

/// The arguments of a command of berth-image.
#[derive(Debug, Default)]
pub struct ImageArgs {
    /// The words for berth-image, flags included.
    words: Vec<String>,
}

/// The command `unpack`.
pub static UNPACK: Command<ImageArgs> = Command {
    usage: Usage {
        name: "unpack",
        summary: "make a bundle out of a saved image",
        operands: "<image> <bundle> [-- <args>...]",
        description: "Makes a bundle that berth run starts out of a file of podman save or docker save,
or of an OCI image layout, which may be a directory or a tar. The program
berth-image does the work; berth unpack --help lists its flags.

EXAMPLE:
    podman save -o busybox.tar busybox
    berth unpack busybox.tar box
    berth run --bundle box container1",
        count: Count::AtLeast(0),
        order: Order::OtherProgram,
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.words = operands.rest(),
    run: |_, args| Err(execute("unpack", &args.words)),
};

/// The command `tags`.
pub static TAGS: Command<ImageArgs> = Command {
    usage: Usage {
        name: "tags",
        summary: "list the tags of a repository",
        operands: "<repository>",
        description: "Prints the tags of a repository, one a line, as its registry has them. The program
berth-image does the work; berth tags --help lists its flags.

EXAMPLE:
    berth tags busybox",
        count: Count::AtLeast(0),
        order: Order::OtherProgram,
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.words = operands.rest(),
    run: |_, args| Err(execute("tags", &args.words)),
};

/// Executes a command of berth-image; returns only if that fails.
fn execute(command: &str, words: &[String]) -> Failure {
    let own = match std::env::current_exe().context("find the directory of this program") {
        Ok(own) => own,
        Err(e) => return e.into(),
    };
    let directory = own.parent().unwrap_or(&own);
    let found = [directory.join(PROGRAM), directory.join("../libexec/berth").join(PROGRAM)]
        .into_iter()
        .find(|path| path.exists());
    match found {
        Some(path) => {
            let error = process::Command::new(&path).arg(command).args(words).exec();
            Error::from(error).context(format!("execute {}", path.display())).into()
        }
        None => {
            let text = format!("{command}: {PROGRAM} is not installed in {}", directory.display());
            Error::new(Kind::NotFound, text).into()
        }
    }
}
