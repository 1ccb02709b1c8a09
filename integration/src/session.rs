//! An interactive program: it runs beside the test, which writes to it and waits for its answers.

use crate::{
    command::{LAST_WORDS, command_line, shell_code, wait},
    wait::LONG,
};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A running program whose input and output belong to the test. Dropping it kills the program.
pub struct Session {
    line: String,
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
}

/// The number of streams: standard output and standard error.
const STREAMS: usize = 2;

#[derive(Default)]
struct Heard {
    text: Mutex<String>,
    more: Condvar,
    /// The number of streams that have ended.
    ended: AtomicUsize,
}

impl Session {
    /// Starts `command` with pipes. Standard output and standard error become one text.
    pub fn start(command: &mut Command) -> Self {
        let line = command_line(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start `{line}`: {e}"));
        let heard = Arc::new(Heard::default());
        listen(child.stdout.take().expect("piped"), Arc::clone(&heard));
        listen(child.stderr.take().expect("piped"), Arc::clone(&heard));
        let stdin = child.stdin.take();
        Self { line, child, stdin, heard }
    }

    /// Starts `command` on a terminal of 37 rows and 111 columns, which script(1) makes.
    pub fn on_terminal(command: &Command) -> Self {
        let mut words =
            vec!["stty rows 37 cols 111; exec".to_owned(), quoted(&command.get_program().to_string_lossy())];
        words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "dumb");
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        Self::start(&mut script)
    }

    /// Writes `text` to the program's input.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("input is still open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("write to the program");
    }

    /// Closes the program's input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until the output has `text` and returns the whole output so far. Panics if the program has ended without
    /// it.
    pub fn expect(&self, text: &str) -> String {
        let end = Instant::now() + LONG;
        let mut heard = self.heard.text.lock().expect("lock");
        while !heard.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let over = left.is_zero() || self.heard.ended.load(Ordering::Acquire) == STREAMS;
            if over {
                let said = heard.clone();
                drop(heard);
                panic!("`{}` did not say {text:?}, only: {said}", self.line);
            }
            heard = self.heard.more.wait_timeout(heard, left).expect("lock").0;
        }
        heard.clone()
    }

    /// Returns the output so far.
    pub fn heard(&self) -> String {
        self.heard.text.lock().expect("lock").clone()
    }

    /// Returns the pid of the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program's end and returns its exit code as a shell does.
    pub fn finish(&mut self) -> i32 {
        self.finish_within(LONG)
    }

    /// Like [`Session::finish`] with a bound of its own.
    pub fn finish_within(&mut self, limit: Duration) -> i32 {
        let status = wait(&mut self.child, limit);
        self.hear_out();
        shell_code(status.unwrap_or_else(|| panic!("`{}` did not end within {limit:?}: {}", self.line, self.heard())))
    }
}

impl Session {
    /// Waits until all output of the ended program has arrived.
    fn hear_out(&self) {
        let end = Instant::now() + LAST_WORDS;
        let mut heard = self.heard.text.lock().expect("lock");
        while self.heard.ended.load(Ordering::Acquire) < STREAMS && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            heard = self.heard.more.wait_timeout(heard, left).expect("lock").0;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn listen(mut from: impl Read + Send + 'static, heard: Arc<Heard>) {
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            heard.text.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..n]));
            heard.more.notify_all();
        }
        let text = heard.text.lock().expect("lock");
        heard.ended.fetch_add(1, Ordering::AcqRel);
        drop(text);
        heard.more.notify_all();
    });
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_talks_on_a_terminal() {
        let mut sh =
            Session::on_terminal(Command::new("sh").args(["-c", "stty size; read -r word; echo \"<$word>\"; exit 3"]));
        sh.expect("37 111");
        sh.send("it's\n");
        sh.expect("<it's>");
        assert_eq!(sh.finish(), 3);
    }

    #[test]
    fn session_hears_output_after_the_exit() {
        let mut sh = Session::start(Command::new("sh").args(["-c", "(sleep 0.3; echo late) & exit 4"]));
        assert_eq!((sh.finish(), sh.heard().as_str()), (4, "late\n"));
    }

    #[test]
    fn session_passes_the_end_of_input() {
        let mut cat = Session::start(&mut Command::new("cat"));
        cat.send("abc");
        cat.expect("abc");
        cat.close_input();
        assert_eq!(cat.finish(), 0);
    }
}
