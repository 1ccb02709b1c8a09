//! The cost of containerd's default seccomp profile for berth: compiled for the first time in a process, and found in
//! the cache.
//!
//! Its cost for the peers is the difference between two runs on the command line, with and without it.

use super::{
    Contestant, Measure, Results,
    cpu::nanos,
    node::{Node, TRUE},
};
use berth_integration::{command::feed, wait::LONG};
use oci_spec::runtime::LinuxSeccomp;
use std::{
    process::{Command, Stdio},
    time::Instant,
};

/// The time from the profile to the program, for the first time in its process.
pub const COLD: Measure = Measure::time("seccomp.cold", "default seccomp profile: compiled");
/// The time if the compiled program is cached.
pub const CACHED: Measure = Measure::time("seccomp.cached", "default seccomp profile: found compiled");

/// The argument with which this program compiles a profile from standard input and prints the times.
pub const WORD: &str = "compile-seccomp";

/// Compiles the profile in a new process, once per round.
pub fn measure(node: &Node, rounds: u32, results: &mut Results) {
    let profile = node.config("seccomp", "none", &TRUE)["linux"]["seccomp"].to_string();
    let me = std::env::current_exe().expect("the path of this program");
    for _ in 0..rounds {
        let said = feed(Command::new(&me).arg(WORD).stderr(Stdio::inherit()), profile.as_bytes(), LONG).ok();
        let mut numbers = said.split_whitespace().map(|number| number.parse().expect("a number"));
        for measure in [&COLD, &CACHED] {
            results.add(measure, Contestant::Berth, numbers.next().expect("two numbers"));
        }
    }
}

/// Compiles the profile twice and prints both times (ns), in the process that [`measure`] starts.
pub fn compile() {
    let profile: LinuxSeccomp = serde_json::from_reader(std::io::stdin()).expect("a profile");
    let [cold, cached] = [(); 2].map(|()| {
        let begin = Instant::now();
        let filter = berth_runtime::seccomp::compile(&profile).expect("a profile that compiles");
        let took = nanos(begin.elapsed());
        drop(filter);
        took
    });
    println!("{cold} {cached}");
}
