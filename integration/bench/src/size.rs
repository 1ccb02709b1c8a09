//! The sizes of the programs.

use super::{Contestant, Measure, Results};
use berth_integration::tools::{built, tool};
use std::{fs, path::PathBuf};

/// The size of the shim's program.
pub const SHIM: Measure = Measure::bytes("size.shim", "size of the shim's program");
/// The size of the runtime's program.
pub const RUNTIME: Measure = Measure::bytes("size.runtime", "size of the runtime's program");

/// Reads the sizes of the programs of `contestants`.
pub fn measure(contestants: &[Contestant], results: &mut Results) {
    for who in contestants {
        for (measure, program) in [(&SHIM, shim(*who)), (&RUNTIME, runtime(*who))] {
            if let Some(program) = program {
                let file = fs::metadata(&program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
                results.add(measure, *who, file.len());
            }
        }
    }
}

fn shim(who: Contestant) -> Option<PathBuf> {
    match who {
        Contestant::Berth => Some(built("containerd-shim-berth-v2")),
        Contestant::Runc | Contestant::Crun => Some(tool("SHIM_RUNC_2").into()),
        Contestant::Null => Some(built("berth-null-shim")),
        Contestant::Bare => None,
    }
}

fn runtime(who: Contestant) -> Option<PathBuf> {
    match who {
        Contestant::Berth => Some(built("berth")),
        Contestant::Runc => Some(tool("RUNC").into()),
        Contestant::Crun => Some(tool("CRUN").into()),
        Contestant::Null | Contestant::Bare => None,
    }
}
