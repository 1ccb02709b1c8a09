//! `unpack` and `tags`: execute the program `berth-image`, so that images and registries add neither code nor size to this
//! program.

use super::sibling::execute;
use crate::args::{Command, Count, Order, Usage};

/// The program that does the work.
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
    run: |_, args| Err(execute(PROGRAM, "unpack", &args.words)),
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
    run: |_, args| Err(execute(PROGRAM, "tags", &args.words)),
};
