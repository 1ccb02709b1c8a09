//! cargo's runner: asks the lane to run a program in the machine, and passes on its output and exit status.

use super::wire::{Command, Kind, receive, send};
use std::{
    io::{Write, stderr, stdout},
    os::unix::net::UnixStream,
    process::ExitCode,
};

/// The environment variable with the path of the lane's socket.
pub const SOCKET: &str = "BERTH_VM";

/// Runs `args` in the machine, after copying a program with an absolute path there. It passes on the environment
/// variables of the tests and of libtest.
pub fn main(args: Vec<String>) -> ExitCode {
    let mut command = Command::new(args);
    let concerns = |name: &str| name == "RUNTIME" || name.starts_with("RUST_") || name.starts_with("BERTH_");
    command.env = std::env::vars().filter(|(name, _)| concerns(name)).collect();
    match run(&command) {
        Ok(code) => ExitCode::from(code),
        Err(reason) => {
            eprintln!("vm: {}: {reason}", command.args.first().map(String::as_str).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<u8, String> {
    let socket = std::env::var_os(SOCKET).ok_or_else(|| format!("no {SOCKET}: this is run by berth-vm run"))?;
    let mut lane = UnixStream::connect(socket).map_err(|e| format!("the lane: {e}"))?;
    send(&mut lane, Kind::Run, &command.encode()).map_err(|e| format!("the lane: {e}"))?;
    loop {
        let frame = receive(&mut lane).map_err(|e| format!("the lane: {e}"))?.ok_or("the lane has ended")?;
        let told = match frame.kind {
            Kind::Output => stdout().write_all(&frame.data).and_then(|()| stdout().flush()),
            Kind::Errors => stderr().write_all(&frame.data),
            Kind::Exit => return Ok(String::from_utf8_lossy(&frame.data).parse().unwrap_or(255)),
            Kind::Failed => return Err(String::from_utf8_lossy(&frame.data).into_owned()),
            kind => return Err(format!("the lane sent a {kind:?}")),
        };
        told.map_err(|e| format!("write what the program says: {e}"))?;
    }
}
