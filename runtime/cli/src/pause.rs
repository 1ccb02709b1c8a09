//! `pause` and `resume`: stop and go on.

use berth_runtime::pause;

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
};

/// Suspends every process.
pub static PAUSE: Command = Command {
    name: "pause",
    summary: "pause suspends all processes inside the container",
    operands: "<container-id>

Where \"<container-id>\" is the name of the container.",
    about: "",
    flags: &[],
    count: Count::Exactly(1),
    operands_last: false,
    run: |globals, parsed| each(globals, parsed, pause::pause),
};

/// Lets them go on.
pub static RESUME: Command = Command {
    name: "resume",
    summary: "resumes all processes that have been previously paused",
    operands: "<container-id>

Where \"<container-id>\" is the name of the container.",
    about: "",
    flags: &[],
    count: Count::Exactly(1),
    operands_last: false,
    run: |globals, parsed| each(globals, parsed, pause::resume),
};

fn each(
    globals: &Globals,
    parsed: &Parsed,
    verb: fn(&berth_runtime::state::Container) -> berth_runtime::Result<()>,
) -> Outcome {
    verb(&super::container(globals, parsed)?)?;
    Ok(0)
}
