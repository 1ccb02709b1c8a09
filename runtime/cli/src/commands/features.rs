//! `features`: prints what this runtime supports.

use berth_runtime::features::features;
use berth_version::{COMMIT, VERSION};

use crate::{
    Globals, Outcome,
    args::{Command, Count, Usage},
    output,
};

/// The command.
pub static COMMAND: Command<()> = Command {
    usage: Usage {
        name: "features",
        summary: "print what this runtime supports, as JSON",
        description: "The JSON has the form of features.md in the OCI runtime specification.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |(), _| {},
    run,
};

fn run(_: &Globals, (): ()) -> Outcome {
    output::answer(&format!("{:#}\n", features(VERSION, COMMIT)))?;
    Ok(0)
}
