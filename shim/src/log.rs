//! The log: lines in the format of logrus, written to the fifo `log` in the bundle. containerd copies them to its own
//! log.
//!
//! A write never blocks and never fails: a line is dropped if the fifo is full or absent. The fifo is opened for
//! reading as well. So it always has a reader (no EPIPE while containerd restarts), and lines written meanwhile are
//! still in it afterwards. A line has at most PIPE_BUF bytes, which the kernel writes whole or not at all (pipe(7)).
//! Control characters are escaped, so text from a container cannot forge a line.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::OnceLock,
};

use berth_runtime::time::now_rfc3339;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// The longest line with its newline, in bytes (PIPE_BUF).
const MAX_LINE: usize = 4096;
/// The name of the fifo.
const FILE: &str = "log";

static LOGGER: FifoLog = FifoLog { file: OnceLock::new() };

struct FifoLog {
    file: OnceLock<File>,
}

/// The target of standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stderr {
    /// It stays unchanged.
    Keep,
    /// It goes to the log, so that the message of a panic is kept.
    ToLog,
}

/// Logs to the fifo of a bundle from now on. Without one (a shim run by hand) nothing is logged.
pub fn init(bundle: &Path, level: LevelFilter, stderr: Stderr) {
    let Some(file) = open(&bundle.join(FILE)) else { return };
    if stderr == Stderr::ToLog {
        // A failure only loses the message of a panic.
        let _ = rustix::stdio::dup2_stderr(&file);
    }
    if LOGGER.file.set(file).is_ok() && log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// Logs to the fifo behind standard error, to which the program before this one has logged. Its bundle may be gone.
pub fn resume(level: LevelFilter) {
    let inherited = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok().map(File::from);
    let fifo = inherited.filter(|file| file.metadata().is_ok_and(|meta| meta.file_type().is_fifo()));
    if let Some(file) = fifo
        && LOGGER.file.set(file).is_ok()
        && log::set_logger(&LOGGER).is_ok()
    {
        log::set_max_level(level);
    }
}

fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.file_type().is_fifo().then_some(file)
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The ttrpc crate reports the end of each connection as an error, which matters in debugging alone.
        let quiet = metadata.target().starts_with("ttrpc") && log::max_level() < LevelFilter::Debug;
        metadata.level() <= log::max_level() && !quiet
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(mut file) = self.file.get()
        {
            let line = line(&now_rfc3339(), record.level(), &record.args().to_string());
            // EAGAIN: the fifo is full, and the line is dropped.
            let _ = file.write(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(time: &str, level: Level, message: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line = format!("time=\"{time}\" level={level} msg=\"");
    let room = MAX_LINE - "…\"\n".len();
    for character in message.chars() {
        let before = line.len();
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_ascii_control() => line.push_str(&format!("\\x{:02x}", u32::from(c))),
            // C1 control characters, and characters that reverse the direction of text.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                line.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => line.push(c),
        }
        if line.len() > room {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line.push_str("\"\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_have_the_format_of_logrus() {
        let want = "time=\"T\" level=warning msg=\"two \\\"words\\\"\"\n";
        assert_eq!(line("T", Level::Warn, "two \"words\""), want);
    }

    #[test]
    fn control_characters_are_escaped_in_log_lines() {
        let message = "a\nb\rc\td\\e\0f\x1b[31mg\x7fh\u{85}i\u{202e}j é";
        let want = "msg=\"a\\nb\\rc\\td\\\\e\\x00f\\x1b[31mg\\x7fh\\u0085i\\u202ej é\"\n";
        let line = line("T", Level::Info, message);
        assert!(line.ends_with(want), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_log_line_fits_in_pipe_buf() {
        for message in ["x".repeat(10_000), "é".repeat(5000), "\0".repeat(5000), "x".repeat(4050)] {
            let line = line(&now_rfc3339(), Level::Info, &message);
            assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE - 8, "{}", line.len());
            assert!(line.ends_with("…\"\n"));
        }
    }

    #[test]
    fn the_log_opens_only_a_fifo() {
        let dir = crate::testing::Scratch::new();
        let path = dir.path().join("log");
        assert!(open(&path).is_none());
        std::fs::write(&path, "").unwrap();
        assert!(open(&path).is_none());
    }

    #[test]
    fn a_full_log_fifo_does_not_block() {
        let dir = crate::testing::Scratch::new();
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        let fifo = FifoLog { file: OnceLock::from(open(&path).unwrap()) };
        log::set_max_level(LevelFilter::Info);
        for n in 0..5000 {
            fifo.log(&Record::builder().level(Level::Info).args(format_args!("line {n} {}", "x".repeat(100))).build());
        }
        let mut reader = fifo.file.get().unwrap();
        let mut content = vec![0; 1 << 20];
        let read = std::io::Read::read(&mut reader, &mut content).unwrap();
        let text = std::str::from_utf8(&content[..read]).unwrap();
        assert!(text.contains("line 0 ") && text.ends_with("\"\n"), "whole lines, from the first on");
    }
}
