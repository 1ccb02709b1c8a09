//! `create`: makes a container that waits for `start`.

use berth_runtime::create::Barrier;

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
    failed, launch,
    sd_notify::Manager,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "create",
    summary: "create a container",
    operands: "<container-id>

Where \"<container-id>\" is the name that the container shall have. No other
container on this host may have it.",
    about: "Makes a container from a bundle, a directory with a config.json and a root
filesystem. The process that its config.json names begins with the command start.",
    flags: &[
        launch::BUNDLE,
        launch::CONSOLE_SOCKET,
        launch::PIDFD_SOCKET,
        launch::PID_FILE,
        launch::NO_PIVOT,
        launch::NO_NEW_KEYRING,
        launch::PRESERVE_FDS,
    ],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let create = || launch::create(globals, parsed, true, Manager::of_environment()?.is_some(), Barrier::Listening);
    create().map(|_| 0).map_err(|e| failed(globals, "create", e))
}
