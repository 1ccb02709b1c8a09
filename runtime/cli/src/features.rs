//! `features`: what this runtime can do, as the features structure of the runtime specification.

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
    help,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "features",
    summary: "show the enabled features",
    operands: "",
    about: "Prints JSON as features.md of the OCI runtime specification describes it.",
    flags: &[],
    count: Count::Exactly(0),
    operands_last: false,
    run,
};

fn run(_: &Globals, _: &Parsed) -> Outcome {
    help::out(&format!("{:#}\n", berth_runtime::features::features()));
    Ok(0)
}
