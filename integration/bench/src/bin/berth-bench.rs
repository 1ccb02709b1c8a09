//! `make bench`: berth beside its peers and beside the floors, in one run, as `berth_bench` describes.
//!
//! ```text
//! berth-bench [--only GROUP]… [--without GROUP]… [--rounds N] [--out DIR]
//! ```
//!
//! A first process holds the reserved names and cleans up in every case. It starts a second process in a new mount
//! namespace, which measures.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "the harness of the tests"
)]

use berth_bench::{
    run::{self, GROUPS, Plan},
    seccomp,
};
use berth_integration::{procs, reservation::Reservation, scratch};
use nix::sys::signal::{SigSet, Signal};
use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
};

/// The argument by which the first process starts the second.
const MEASURE: &str = "measure";

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == seccomp::WORD) {
        seccomp::compile();
        return ExitCode::SUCCESS;
    }
    let second = words.first().is_some_and(|word| word == MEASURE);
    if second {
        words.remove(0);
    }
    let plan = match parse(&words) {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!(
                "berth-bench: {message}\nusage: berth-bench [--only GROUP]… [--without GROUP]… [--rounds N] [--out DIR]"
            );
            eprintln!("groups: {}", GROUPS.join(" "));
            return ExitCode::from(2);
        }
    };
    if second {
        // The first process has these signals blocked. The measured programs must not inherit that.
        interrupts().thread_unblock().expect("unblock signals");
        run::run(&plan);
        return ExitCode::SUCCESS;
    }
    hold(&words)
}

/// Holds the reservation, runs the second process, and removes its traces.
fn hold(words: &[String]) -> ExitCode {
    let interrupts = interrupts();
    interrupts.thread_block().expect("block signals");
    let reservation = Reservation::take();
    let sockets = shim_sockets();
    let (name, value) = reservation.lend();
    let me = std::env::current_exe().expect("the path of this program");
    // The benchmark makes thousands of mounts, which no other process must see. `unshare` executes this program.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave"]).arg(me).arg(MEASURE).args(words).env(name, value);
    let mut child = command.spawn().expect("start unshare");
    let pid = child.id().cast_signed();
    thread::spawn(move || {
        interrupts.wait().expect("wait for a signal");
        procs::kill(pid, rustix::process::Signal::KILL);
    });
    let measured = child.wait().expect("wait for the benchmark");
    drop(reservation);
    scratch::clear_after(pid);
    if measured.success() {
        return ExitCode::SUCCESS;
    }
    // Only the second process knows its shims. Their sockets are the new ones without a listener.
    for socket in shim_sockets().difference(&sockets) {
        if UnixStream::connect(socket).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            fs::remove_file(socket).ok();
        }
    }
    ExitCode::FAILURE
}

/// Returns the signals that end a run early.
fn interrupts() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM])
}

/// Returns the sockets of all shims of the machine.
fn shim_sockets() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/run/containerd/s").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn parse(words: &[String]) -> Result<Plan, String> {
    let (mut only, mut without) = (Vec::new(), Vec::new());
    let (mut rounds, mut out) = (20, PathBuf::from("target/bench"));
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(|| format!("{word}: no value"));
        let group = |name: String| {
            GROUPS.iter().find(|group| **group == name).copied().ok_or_else(|| format!("no group {name:?}"))
        };
        match word.as_str() {
            "--only" => only.push(group(value()?)?),
            "--without" => without.push(group(value()?)?),
            "--rounds" => rounds = value()?.parse().map_err(|e| format!("--rounds: {e}"))?,
            "--out" => out = value()?.into(),
            _ => return Err(format!("unknown word {word:?}")),
        }
    }
    let wanted = |group: &&str| (only.is_empty() || only.contains(group)) && !without.contains(group);
    Ok(Plan { groups: GROUPS.into_iter().filter(wanted).collect(), rounds, out })
}
