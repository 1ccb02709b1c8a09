//! The program `berth-image`, which `berth unpack` executes.

fn main() {
    std::process::exit(berth_image::cli::main(std::env::args_os().skip(1).collect()));
}
