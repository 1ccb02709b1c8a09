//! Test machines: `make test-vm` and `make vm-shell`. `berth_integration::vm` describes their parts.

use berth_integration::vm::{Result, agent, lane::Lane, runner, terminal};
use std::{path::Path, process::ExitCode};

const USAGE: &str = "\
usage: berth-vm run NAME LOGS -- COMMAND...    run COMMAND here, with a machine for its runners
       berth-vm shell NAME LOGS [-- COMMAND...]  a shell in a machine, or a command
       berth-vm guest PROGRAM [ARGUMENT...]    run PROGRAM in the machine of `berth-vm run`: cargo's runner
       berth-vm agent                          in the machine: serve the port on standard input";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verb = args.next();
    let rest: Vec<String> = args.collect();
    let done = match (verb.as_deref(), rest.as_slice()) {
        (Some("agent"), []) => return agent::main(),
        (Some("guest"), [_, ..]) => return runner::main(rest),
        (Some("run"), [name, logs, dashes, command @ ..]) if dashes == "--" => run(name, logs, command),
        (Some("shell"), [name, logs]) => shell(name, logs, &[]),
        (Some("shell"), [name, logs, dashes, command @ ..]) if dashes == "--" => shell(name, logs, command),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(fault) => {
            eprintln!("vm: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, logs: &str, command: &[String]) -> Result<i32> {
    Lane::open(name, Path::new(logs))?.run(command)
}

fn shell(name: &str, logs: &str, command: &[String]) -> Result<i32> {
    let mut lane = Lane::open(name, Path::new(logs))?;
    terminal::talk(&mut lane.machine().guest, command)
}
