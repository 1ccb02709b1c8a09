//! Runs `berth-bare`, which makes the bare system calls and answers how long they took.

use berth_integration::tools::built;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

/// A running `berth-bare`. It ends with its standard input.
pub struct Bare {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Bare {
    /// Starts it for the bundle in `bundle` and the cgroup `cgroup`.
    pub fn start(bundle: &Path, cgroup: &str) -> Self {
        let mut child = Command::new(built("berth-bare"))
            .arg(bundle)
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start berth-bare");
        let (ask, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
        Self { child, ask, answers }
    }

    /// Runs the operation `word` (`run` or `exec`) once. Returns its wall time and its CPU time (ns).
    pub fn measure(&mut self, word: &str) -> (u64, u64) {
        let ask = self.ask.as_mut().expect("it runs");
        ask.write_all(format!("{word}\n").as_bytes()).expect("ask berth-bare");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("berth-bare's answer");
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>());
        match (numbers.next(), numbers.next()) {
            (Some(Ok(wall)), Some(Ok(cpu))) => (wall, cpu),
            _ => panic!("berth-bare answered {line:?} to {word}"),
        }
    }

    /// Returns the pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Closes its input and waits for its end.
    pub fn end(mut self) -> ExitStatus {
        drop(self.ask.take());
        self.child.wait().expect("wait for berth-bare")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.ask.take());
        self.child.wait().ok();
    }
}
