//! The floor of the core, as a program: `berth-bare BUNDLE CGROUP` reads an operation per line on standard input and
//! answers `WALL CPU` in nanoseconds.
//!
//! `run` makes a container of the bundle, waits for its process and removes it. `exec` runs one more process in a
//! container that the first `exec` makes. One program takes one of the two operations. It makes CGROUP in every
//! hierarchy and removes it at the end. `berth_bench::bare` has the timed calls.

use berth_bench::bare::{Bare, Failure};
use std::{
    io::{BufRead, Write},
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, cgroup] = words.as_slice() else {
        eprintln!("usage: berth-bare BUNDLE CGROUP");
        return ExitCode::from(2);
    };
    match serve(Path::new(bundle), cgroup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("berth-bare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(bundle: &Path, cgroup: &str) -> Result<(), Failure> {
    let mut bare = Bare::new(bundle, cgroup)?;
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let cost = match line?.trim() {
            "run" => bare.run()?,
            "exec" => bare.exec()?,
            other => return Err(format!("{other:?}: say run or exec").into()),
        };
        writeln!(stdout, "{} {}", cost.wall, cost.cpu)?;
        stdout.flush()?;
    }
    Ok(())
}
