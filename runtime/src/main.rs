//! `berth`: the runc-compatible command line over the runtime core. See [`cli`].

mod cli;

fn main() {
    let status = cli::main(std::env::args_os().collect());
    std::process::exit(status);
}
