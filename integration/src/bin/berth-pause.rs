//! The program of a pod's sandbox container. Its process holds the pod's namespaces, reaps orphans, and ends on SIGTERM
//! or SIGINT.

use nix::sys::{
    signal::{SigSet, Signal},
    wait::{WaitPidFlag, WaitStatus, waitpid},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGCHLD);
    if let Err(e) = signals.thread_block() {
        eprintln!("block signals: {e}");
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            // One SIGCHLD may stand for several children (signal(7)).
            Ok(Signal::SIGCHLD) => {
                while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
                {
                }
            }
            Ok(_) => return ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("wait for a signal: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
}
