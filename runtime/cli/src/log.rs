//! The log, line for line as logrus writes it: go-runc, containerd, Docker and podman read the last error from
//! `--log FILE --log-format json`, and people know the text form.
//!
//! This is the one place that logs; the library hands its warnings over through the `log` façade.

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

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=… msg=…`, or logrus' coloured short form on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

struct Logger {
    format: Format,
    /// Where lines go instead of stderr.
    file: Option<File>,
    /// Stderr is a terminal and takes the lines.
    colours: bool,
    started: Instant,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts the log: to `path` (appended to) or stderr.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(path: Option<&Path>, format: Format, debug: bool) -> Result<()> {
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
    // A second start cannot happen: there is one command line. The first logger stays if it did.
    let _ = log::set_logger(logger);
    log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    Ok(())
}

/// Says why the program fails: in the log, and when that is a file, on stderr too. A failure before
/// [`start`] goes to stderr as text.
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
        let _ = writeln!(std::io::stderr(), "{}", harmless(message));
    }
}

impl Logger {
    /// One line, in one write, so that lines of several processes in one file do not mix. A log that cannot be
    /// written is no reason to fail.
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
        // People know the command line to keep to itself what hooks say.
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

/// logrus' name of a level.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A line of the log, with its newline.
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

/// The short form that logrus shows on a terminal; `seconds` since the start.
fn coloured(level: Level, seconds: u64, message: &str) -> String {
    let (colour, name) = match level {
        Level::Error => (31, "ERRO"),
        Level::Warn => (33, "WARN"),
        Level::Info => (36, "INFO"),
        Level::Debug => (37, "DEBU"),
        Level::Trace => (37, "TRAC"),
    };
    let message = harmless(message);
    format!("\x1b[{colour}m{name}\x1b[0m[{seconds:04}] {message:<44} \n")
}

/// The text with what a terminal would obey written out: names of an image are in it. Lines and tabs stay.
fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A control character as Go quotes it.
fn escape(out: &mut String, c: char) {
    let _ = match u32::from(c) {
        code @ ..0x80 => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{code:04x}"),
    };
}

/// A value of a text line: bare when it is one plain word, else quoted as Go quotes.
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

/// The time as RFC 3339 in UTC, to the second.
fn now() -> String {
    let now = berth_runtime::time::now_rfc3339();
    format!("{}Z", now.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_logrus_writes() {
        assert_eq!(
            line(Format::Text, Level::Error, "2026-11-22T00:13:38Z", "container does not exist"),
            "time=\"2026-11-22T00:13:38Z\" level=error msg=\"container does not exist\"\n"
        );
        assert_eq!(
            line(Format::Text, Level::Warn, "2026-11-22T00:13:38Z", "x/y-z.1@^+"),
            "time=\"2026-11-22T00:13:38Z\" level=warning msg=x/y-z.1@^+\n"
        );
        assert!(
            line(Format::Text, Level::Error, "t", "a \"b\"\n\\\u{1}\u{e9}")
                .ends_with("\"a \\\"b\\\"\\n\\\\\\x01\u{e9}\"\n")
        );
    }

    #[test]
    fn json_is_what_go_runc_reads() {
        let text = line(Format::Json, Level::Error, "2026-11-22T00:13:38Z", "exec: \"x\": not\nfound");
        assert_eq!(
            text,
            "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": not\\nfound\",\"time\":\"2026-11-22T00:13:38Z\"}\n"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["msg"], "exec: \"x\": not\nfound");
    }

    #[test]
    fn a_terminal_sees_the_short_form() {
        assert_eq!(
            coloured(Level::Error, 0, "container does not exist"),
            format!("\x1b[31mERRO\x1b[0m[0000] {:<44} \n", "container does not exist")
        );
    }

    #[test]
    fn a_terminal_is_told_nothing_by_a_name() {
        let name = "exec: \"\u{1b}]0;t\u{7}\u{1b}[2Jx\u{9b}31m\u{7f}\": not\n\tfound \u{e9}";
        let line = coloured(Level::Error, 0, name);
        let said = line.strip_prefix("\x1b[31mERRO\x1b[0m[0000] ").unwrap();
        assert_eq!(said.trim_end(), "exec: \"\\x1b]0;t\\x07\\x1b[2Jx\\u009b31m\\x7f\": not\n\tfound \u{e9}");
    }

    #[test]
    fn times_end_with_the_second() {
        let now = now();
        assert!(now.len() == 20 && now.ends_with('Z') && now.as_bytes()[10] == b'T', "{now}");
    }
}
