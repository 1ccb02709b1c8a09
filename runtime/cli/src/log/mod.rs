//! The log, in the format of logrus, which runc uses: go-runc, containerd, Docker and podman read the last error from
//! `--log FILE --log-format json`.
//!
//! The library logs through the façade of the crate `log`; this module writes the lines.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs::File,
    io::{IsTerminal, Write as _},
    path::Path,
    sync::OnceLock,
    time::Instant,
};

use berth_runtime::{Context, Result, foreign_dir, hooks};
use log::{Level, LevelFilter};

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=… msg=…`, or the coloured short form of logrus on a terminal.
    Text,
    /// A JSON object.
    Json,
}

struct Logger {
    format: Format,
    /// The file to write to instead of stderr.
    file: Option<File>,
    /// The lines go to stderr, and stderr is a terminal.
    colours: bool,
    started: Instant,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts the log. Lines up to `level` are appended to the file `path`, or written to stderr.
///
/// # Errors
/// Fails if the log file cannot be opened.
pub fn start(path: Option<&Path>, format: Format, level: LevelFilter) -> Result<()> {
    let file = match path {
        Some(path) => Some(foreign_dir::append(path).with_context(|| format!("open {}", path.display()))?),
        None => None,
    };
    let logger = LOGGER.get_or_init(|| Logger {
        format,
        colours: file.is_none() && std::io::stderr().is_terminal(),
        file,
        started: Instant::now(),
    });
    // set_logger fails if a logger is set already. The program starts its log once.
    let _ = log::set_logger(logger);
    log::set_max_level(level);
    Ok(())
}

/// Writes the error that ends the program to the log, and also to stderr if the log is a file. Before [`start`], the log is
/// stderr.
pub fn failed(message: &str) {
    let fallback = || Logger {
        format: Format::Text,
        file: None,
        colours: std::io::stderr().is_terminal(),
        started: Instant::now(),
    };
    let logger = LOGGER.get_or_init(fallback);
    logger.write(Level::Error, message);
    if logger.file.is_some() {
        let _ = writeln!(std::io::stderr(), "{}", escaped(message));
    }
}

impl Logger {
    /// Writes one line. A single write(2) keeps the lines of several processes in one file apart. Errors are ignored,
    /// because a container must not fail with its log.
    fn write(&self, level: Level, message: &str) {
        let line = if self.colours && self.format == Format::Text {
            coloured(level, self.started.elapsed().as_secs(), message)
        } else {
            line(self.format, level, &now(), message)
        };
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // runc does not log the output of hooks, so it appears with --debug only.
        let quiet = metadata.target() == hooks::LOG_TARGET && log::max_level() < LevelFilter::Debug;
        metadata.level() <= log::max_level() && !quiet
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The name of a level in logrus.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Formats a line, with its newline.
fn line(format: Format, level: Level, time: &str, message: &str) -> String {
    let level = level_name(level);
    match format {
        Format::Text => format!("time={} level={level} msg={}\n", quoted(time), quoted(message)),
        Format::Json => {
            let message = serde_json::Value::from(message);
            format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        }
    }
}

/// The short form of logrus for a terminal. `seconds` counts from the start of the program.
fn coloured(level: Level, seconds: u64, message: &str) -> String {
    let (colour, name) = match level {
        Level::Error => (31, "ERRO"),
        Level::Warn => (33, "WARN"),
        Level::Info => (36, "INFO"),
        Level::Debug => (37, "DEBU"),
        Level::Trace => (37, "TRAC"),
    };
    let message = escaped(message);
    format!("\x1b[{colour}m{name}\x1b[0m[{seconds:04}] {message:<44} \n")
}

/// Escapes control characters except newlines and tabs. A message can contain names from an image, and a terminal would
/// obey escape sequences in them.
fn escaped(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_control(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Appends a control character as Go quotes it.
fn escape(out: &mut String, c: char) {
    let _ = match u32::from(c) {
        code @ ..0x80 => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{code:04x}"),
    };
}

/// Formats a value of a text line: as it is if it is one plain word, else quoted as by Go.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() => escape(&mut out, c),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The time in UTC, to the second (RFC 3339).
fn now() -> String {
    let now = berth_runtime::time::now_rfc3339();
    format!("{}Z", now.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
