//! A program that a running shim is told to execute, and that then fails in the way that the last line of its file says:
//!
//! - `silent`: says nothing in the trial;
//! - `dies`: dies by a signal in the trial;
//! - `hangs`: does not answer in the trial;
//! - `refuses`: passes the trial, and gives the shim back;
//! - `misled`: passes the trial, and executes the shim that it replaces with a wrong command line;
//! - `crashes`: passes the trial, and dies by a signal.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a program of the tests")]

use std::{env, fs, os::unix::process::CommandExt, path::Path, process::Command, time::Duration};

fn main() {
    let words: Vec<String> = env::args().collect();
    // The program runs from a mount of its own file alone, so it has no name.
    let own = fs::read("/proc/self/exe").unwrap();
    let mode = String::from_utf8_lossy(own.rsplit(|byte| *byte == b'\n').next().unwrap()).into_owned();
    let trial = words.iter().any(|word| word == "-handover-check");
    match (mode.as_str(), trial) {
        ("silent", true) => {}
        ("dies", true) => std::process::abort(),
        ("hangs", true) => std::thread::sleep(Duration::from_secs(600)),
        (_, true) => print!("{{\"understood\":\"9.9.9\"}}"),
        ("refuses", false) => refuse(&words),
        ("misled", false) => mislead(&words),
        ("crashes", false) => std::process::abort(),
        (other, _) => panic!("no mode {other}"),
    }
}

/// Executes the old program again.
fn refuse(words: &[String]) {
    let at = words.iter().position(|word| word == "-handover").unwrap();
    let (document, old) = words[at + 1].split_once(':').unwrap();
    let mut line = words[1..].to_vec();
    line[at] = format!("{document}:");
    line.extend(["-refused".into(), "an odd shim".into()]);
    let error = Command::new(Path::new("/proc/self/fd").join(old)).arg0(&words[0]).args(line).exec();
    panic!("{error}");
}

/// Executes the shim at the path of the running one without a namespace.
fn mislead(words: &[String]) {
    let at = words.iter().position(|word| word == "-namespace").unwrap();
    let mut line = words[1..].to_vec();
    line[at].clear();
    let error = Command::new(&words[0]).args(line).exec();
    panic!("{error}");
}
