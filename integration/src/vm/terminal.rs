//! An interactive shell in the machine, or one command.

use super::{
    Result,
    guest::{End, Guest, Stream},
    wire::Command,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io::{self, Read, Write, stderr, stdin, stdout},
    os::fd::AsFd,
};

/// Runs a shell, or `words` in a shell, with the streams of this program. Returns the exit status as a shell has it. If
/// this program is on a terminal, the shell gets a terminal of the same size.
///
/// # Errors
/// The machine ended.
pub fn talk(guest: &mut Guest, words: &[String]) -> Result<i32> {
    let terminal = Raw::of_stdin();
    let line = if words.is_empty() { "exec bash -l".to_owned() } else { words.join(" ") };
    let mut command = match &terminal {
        Some(raw) => {
            let line = format!("stty rows {} cols {}; {line}", raw.rows, raw.columns);
            Command::new(["script", "--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
        }
        None => Command::new(["bash", "-c", &line]),
    };
    let env = [
        ("PATH", "/opt/berth/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("BERTH_TOOLS", "/opt/berth/tools.env"),
        ("SHELL", "/bin/bash"),
    ];
    command.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    command.env.insert("TERM".to_owned(), std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()));
    let end = guest.talk(&command, pieces(), |stream, bytes| match stream {
        Stream::Output => stdout().write_all(bytes).and_then(|()| stdout().flush()),
        Stream::Errors => stderr().write_all(bytes),
    });
    drop(terminal);
    match end? {
        End::Exit(code) => Ok(code),
        End::Failed(reason) => Err(reason),
    }
}

/// Returns the pieces of standard input as they come.
fn pieces() -> impl Iterator<Item = Vec<u8>> + Send {
    std::iter::from_fn(|| {
        let mut buffer = vec![0; 4096];
        loop {
            match stdin().read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => {
                    buffer.truncate(n);
                    return Some(buffer);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    })
}

/// Standard input as a terminal in raw mode. Dropping it restores the mode.
struct Raw {
    before: Termios,
    rows: u16,
    columns: u16,
}

impl Raw {
    fn of_stdin() -> Option<Self> {
        let input = stdin();
        let before = tcgetattr(input.as_fd()).ok()?;
        let size = tcgetwinsize(input.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input.as_fd(), OptionalActions::Flush, &raw).ok()?;
        Some(Self { before, rows: size.ws_row, columns: size.ws_col })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(stdin().as_fd(), OptionalActions::Flush, &self.before) {
            eprintln!("vm: the terminal stays as it is: {e}");
        }
    }
}
