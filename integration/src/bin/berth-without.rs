//! Runs a program on a kernel that lacks something: `berth-without FILTER PROGRAM [WORD…]`. FILTER is a `linux.seccomp`
//! object as in config.json. The program and its children run under the filter. A system call that the filter denies
//! with `ENOSYS` looks to them like a call that the kernel does not have.

use berth_runtime::seccomp;
use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(filter), Some(program)) = (words.next(), words.next()) else {
        eprintln!("berth-without FILTER PROGRAM [WORD…]");
        return ExitCode::FAILURE;
    };
    if let Err(e) = load(filter.as_encoded_bytes()) {
        eprintln!("berth-without: {e}");
        return ExitCode::FAILURE;
    }
    eprintln!("{}: {}", program.display(), Command::new(&program).args(words).exec());
    ExitCode::FAILURE
}

fn load(filter: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let filter = seccomp::compile(&serde_json::from_slice(filter)?)?;
    berth_init::sys::set_filter(filter.instructions(), filter.flags())?;
    Ok(())
}
