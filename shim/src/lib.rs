//! A containerd shim v2: decodes what containerd says, calls one verb of `berth-runtime`, encodes the answer.
//!
//! containerd runs the binary in five ways, one module each: [`start`] (find or make the server of a pod), the server
//! itself ([`serve`]), [`delete`] (clean up after a dead server), [`info`] (`-info`) and `-v`.

pub mod abort;
pub mod args;
pub mod bootstrap;
pub mod bundle;
pub mod clock;
pub mod console;
pub mod container;
pub mod context;
pub mod delete;
pub mod detach;
pub mod error;
pub mod fd_reserve;
pub mod frames;
pub mod info;
pub mod inherit;
pub mod io;
pub mod listener;
pub mod log;
pub mod mount;
pub mod oom;
pub mod options;
pub mod pool;
pub mod process;
pub mod publish;
pub mod reap;
pub mod sandbox;
pub mod serve;
pub mod service;
pub mod shim_cgroup;
pub mod signals;
pub mod socket;
pub mod start;
pub mod stats;
pub mod sys;
pub mod trim;
pub mod watch;

#[cfg(test)]
mod testing;

use std::{ffi::OsString, io::Write, process::ExitCode};

use self::args::{Action, Args};

/// Runs the action that the arguments (without the program's name) ask for.
///
/// On success nothing is written to standard error: containerd reads the reply of `start` from both streams at once.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = Args::parse(arguments).and_then(|args| match args.action {
        Action::Version => info::print_version(),
        Action::Info => info::run(),
        Action::Start => start::run(&args),
        Action::Delete => delete::run(&args),
        Action::Serve => serve::run(&args),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nobody may be there to read it, or its disk may be full: no reason to end in another way.
            let _ = writeln!(std::io::stderr(), "containerd-shim-berth-v2: {e}");
            ExitCode::FAILURE
        }
    }
}
