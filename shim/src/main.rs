//! containerd-shim-berth-v2: the door that containerd knocks on.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_shim::run(std::env::args_os().skip(1))
}
