//! `unpack` and `tags`: hand over to the program `berth-image`, so that images and registries cost this program neither size
//! nor code.

use std::{os::unix::process::CommandExt, process::Command as Program};

use berth_runtime::{Context, Error, Kind};

use super::{
    Failure,
    args::{Command, Count},
};

/// The program, beside this one or in ../libexec/berth.
const PROGRAM: &str = "berth-image";

/// See the module.
pub static UNPACK: Command = Command {
    name: "unpack",
    summary: "make a bundle out of a saved image",
    operands: "<image> <bundle> [-- <args>...]",
    about: "Makes a bundle that berth run starts out of a file of podman save or docker save,
or of an OCI image layout, which may be a directory or a tar. The program
berth-image does the work; berth unpack --help lists its flags.

EXAMPLE:
    podman save -o busybox.tar busybox
    berth unpack busybox.tar box
    berth run --bundle box container1",
    flags: &[],
    count: Count::Between(2, usize::MAX),
    operands_last: false,
    run: |_, parsed| Err(execute("unpack", &parsed.operands)),
};

/// See the module.
pub static TAGS: Command = Command {
    name: "tags",
    summary: "list the tags of a repository",
    operands: "<repository>",
    about: "Prints the tags of a repository, one a line, as its registry has them. The program
berth-image does the work; berth tags --help lists its flags.

EXAMPLE:
    berth tags busybox",
    flags: &[],
    count: Count::Exactly(1),
    operands_last: false,
    run: |_, parsed| Err(execute("tags", &parsed.operands)),
};

/// Executes the program with a command of its own and the caller's words; returns only if that fails.
pub fn execute(command: &str, words: &[String]) -> Failure {
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
            let error = Program::new(&path).arg(command).args(words).exec();
            Error::from(error).context(format!("execute {}", path.display())).into()
        }
        None => Error::new(Kind::NotFound, format!("{command}: {PROGRAM} is not installed in {}", directory.display()))
            .into(),
    }
}
