//! A containerd shim v2. It decodes a request of containerd, calls one operation of `berth-runtime` and encodes the
//! answer.
//!
//! containerd runs the binary in five ways, and each has one module: [`start`] finds or makes the server of a pod,
//! [`serve`] is that server, [`delete`] cleans up after a server that has died, [`info`] answers `-info`, `-v` and `-help`.
//! berth's command line runs it for the commands `shims` and `upgrade` ([`upgrade::client`]).

pub mod abort;
pub mod args;
pub mod bootstrap;
pub mod bundle;
pub mod carry;
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
pub mod link;
pub mod listener;
pub mod log;
pub mod mount;
pub mod oom;
pub mod options;
pub mod pod;
pub mod pod_service;
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
pub mod upgrade;
pub mod watch;

#[cfg(test)]
mod testing;

use std::{ffi::OsString, io::Write, process::ExitCode};

use self::args::{Action, Args};

/// Runs the action that the arguments (without the program's name) name.
///
/// Nothing is written to standard error on success: containerd reads the reply of `start` from both streams as one.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let protected = berth_runtime::own_process::protect();
    if let Some(outcome) = upgrade::client::run(&arguments) {
        return outcome;
    }
    let outcome = protected.and_then(|()| Args::parse(arguments.iter().cloned())).and_then(|args| match args.action {
        Action::Help => info::print_help(),
        Action::Version => info::print_version(),
        Action::Check => upgrade::print_verdict(),
        Action::Info => info::run(),
        Action::Start => start::run(&args),
        Action::Delete => delete::run(&args),
        Action::Serve => serve::run(&args),
    });
    // A program that cannot take a server over gives it back.
    let outcome = outcome.map_err(|e| match upgrade::resume::find(&arguments) {
        Some(handover) => upgrade::resume::give_back(&handover, e, &arguments),
        None => e,
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The exit status does not depend on this write: the reader may be gone, or the disk behind the stream
            // full.
            let _ = writeln!(std::io::stderr(), "containerd-shim-berth-v2: {e}");
            ExitCode::FAILURE
        }
    }
}
