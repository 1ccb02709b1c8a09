//! The program containerd-shim-berth-v2.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_shim::run(std::env::args_os().skip(1))
}
