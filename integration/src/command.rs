//! Runs a program to its end within a bound and keeps its output.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// The words of a shell that lets the program that it executes dump its core.
pub const DUMPING: [&str; 4] = ["sh", "-c", "ulimit -c unlimited && exec \"$@\"", "sh"];

/// The time that output may take to arrive after the end of a program. A descendant that keeps the pipes open costs
/// this time.
pub const LAST_WORDS: Duration = Duration::from_secs(10);

/// The output and the exit status of a program.
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output, not trimmed.
    pub stdout: String,
    /// Standard error, not trimmed.
    pub stderr: String,
}

impl Output {
    /// Returns the exit code as a shell does: 128 plus the number of the signal that ended the program.
    pub fn code(&self) -> i32 {
        shell_code(self.status)
    }

    /// Returns standard output, trimmed. Panics with all output if the program failed.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout.trim().to_owned()
    }

    /// Returns standard error. Panics if the program did not fail.
    pub fn failed(self) -> String {
        assert!(!self.status.success(), "should have failed: {self}");
        self.stderr
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}\nstdout: {}\nstderr: {}", self.line, self.status, self.stdout.trim(), self.stderr.trim())
    }
}

/// Returns the exit code as a shell does.
pub fn shell_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("a status that says neither")
}

/// Runs `command` with an empty standard input.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    feed(command, b"", limit)
}

/// Runs `command` with `input` on standard input. Kills it and panics if it has not ended within `limit`.
///
/// If a descendant keeps the output pipes open after the program has ended, its output is read for [`LAST_WORDS`] and
/// no longer: it is not the program's answer.
pub fn feed(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let line = command_line(command);
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start `{line}`: {e}"));
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that ends before it has read its whole input is not an error of the test.
        thread::spawn(move || stdin.write_all(&input).ok());
    }
    let status = wait(&mut child, limit);
    let (stdout, stderr) = (collect(&stdout), collect(&stderr));
    match status {
        Some(status) => Output { line, status, stdout, stderr },
        None => panic!("`{line}` did not end within {limit:?}\nstdout: {stdout}\nstderr: {stderr}"),
    }
}

/// Waits for `child`. Kills it and returns `None` if it has not ended within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return Some(status);
        }
        if Instant::now() > end {
            child.kill().expect("kill a child");
            child.wait().expect("wait for a killed child");
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Formats the command line, roughly as a user would type it.
pub fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

fn read_all(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if send.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

fn collect(from: &Receiver<Vec<u8>>) -> String {
    let end = Instant::now() + LAST_WORDS;
    let mut all = Vec::new();
    while let Ok(more) = from.recv_timeout(end.saturating_duration_since(Instant::now())) {
        all.extend(more);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::LONG;

    #[test]
    fn command_output_has_both_streams_and_the_code() {
        let out = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 7"]), LONG);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str(), out.code()), ("a\n", "b\n", 7));
    }

    #[test]
    fn command_ended_by_a_signal_has_code_128_plus_signal() {
        let out = run(Command::new("sh").args(["-c", "kill -9 $$"]), LONG);
        assert_eq!(out.code(), 137);
    }

    #[test]
    fn fed_input_reaches_the_program() {
        assert_eq!(feed(&mut Command::new("cat"), b"word", LONG).ok(), "word");
    }

    #[test]
    #[should_panic(expected = "did not end within")]
    fn command_that_exceeds_its_bound_panics() {
        run(Command::new("sleep").arg("60"), Duration::from_millis(50));
    }
}
