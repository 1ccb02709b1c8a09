//! `create`: makes a container whose process waits for `start`.

use berth_runtime::create::Barrier;

use super::{
    failed,
    launch::{self, CreateArgs, launch},
};
use crate::{
    Globals, Outcome,
    args::{Command, Program, Usage},
    stdio::Attachment,
};

/// The command.
pub static COMMAND: Command<CreateArgs> = Command {
    usage: Usage {
        name: "create",
        summary: "make a container from a bundle, without running its process",
        operands: launch::OPERANDS,
        description: "A bundle is a directory that holds a root filesystem and a config.json. The
new container waits; the command start runs the process that config.json
describes.",
        program: Program::Sealed,
        ..Usage::DEFAULT
    },
    flags: &[
        launch::bundle(),
        launch::console_socket(),
        launch::pidfd_socket(),
        launch::pid_file(),
        launch::no_pivot(),
        launch::no_new_keyring(),
        launch::preserve_fds(),
    ],
    operands: |args, operands| args.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: CreateArgs) -> Outcome {
    let launched = launch(globals, &args, Attachment::Detached, Barrier::Listening);
    launched.map(|_| 0).map_err(|e| failed(globals, "create", e))
}
