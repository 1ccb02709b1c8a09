//! The program `berth-setup`, which `berth check`, `berth install` and `berth uninstall` execute.

fn main() {
    std::process::exit(berth_setup::cli::main(std::env::args_os().skip(1).collect()));
}
