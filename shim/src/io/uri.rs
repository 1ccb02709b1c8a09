//! The stdio fields of a request: a fifo path, a file, or a logging program.
//!
//! Parsing is pure; `fifo` opens paths and `logger` runs programs. The scheme of stdout decides for both outputs, as in
//! containerd's runc shim.

use std::path::PathBuf;

use berth_runtime::{Error, Result};

use crate::carry;

/// The stdio of a Create or Exec request, as the client sent it. State returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioRequest {
    /// A fifo path, or empty.
    pub stdin: String,
    /// A fifo path, a URI, or empty.
    pub stdout: String,
    /// A fifo path, or empty; a process with a terminal has none.
    pub stderr: String,
    /// The process gets a pseudoterminal.
    pub terminal: bool,
}

/// The target of the two outputs.
#[derive(Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A path for each, mostly a fifo that a client reads. Without a path it is /dev/null.
    Paths {
        /// The path for stdout.
        stdout: Option<PathBuf>,
        /// The path for stderr.
        stderr: Option<PathBuf>,
    },
    /// One file, to which both are appended.
    File(PathBuf),
    /// A logging program that reads both.
    Logger(Program),
}

/// A logging program: `binary://` or `binary-v2://`.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path.
    pub path: PathBuf,
    /// The keys and values of the query, in order.
    pub args: Vec<String>,
    /// `binary-v2`: the start fails if the program closes the ready pipe without writing a byte.
    pub must_say_ready: bool,
}

impl StdioRequest {
    /// Writes the request down.
    pub fn carry(&self) -> carry::Stdio {
        let Self { stdin, stdout, stderr, terminal } = self.clone();
        carry::Stdio { stdin, stdout, stderr, terminal }
    }

    /// Makes the request again.
    pub fn adopt(request: carry::Stdio) -> Self {
        let carry::Stdio { stdin, stdout, stderr, terminal } = request;
        Self { stdin, stdout, stderr, terminal }
    }

    /// Reports whether no stream is named.
    pub fn is_null(&self) -> bool {
        self.stdin.is_empty() && self.stdout.is_empty() && self.stderr.is_empty()
    }

    /// The target of the outputs.
    ///
    /// # Errors
    /// The scheme is not fifo, file, binary or binary-v2; or the path is missing or malformed.
    pub fn target(&self) -> Result<OutputTarget> {
        let (scheme, rest) = split_scheme(&self.stdout);
        match scheme {
            None | Some("fifo") => {
                Ok(OutputTarget::Paths { stdout: path_of(&self.stdout), stderr: path_of(&self.stderr) })
            }
            Some("file") => Ok(OutputTarget::File(absolute(rest, &self.stdout)?.0)),
            Some(scheme @ ("binary" | "binary-v2")) => {
                let (path, query) = absolute(rest, &self.stdout)?;
                Ok(OutputTarget::Logger(Program {
                    path,
                    args: arguments(query)?,
                    must_say_ready: scheme == "binary-v2",
                }))
            }
            Some(other) => Err(Error::invalid(format!("unknown STDIO scheme {other}"))),
        }
    }

    /// The path for stdin.
    pub fn stdin_path(&self) -> Option<PathBuf> {
        path_of(&self.stdin)
    }
}

fn path_of(text: &str) -> Option<PathBuf> {
    let text = text.strip_prefix("fifo://").unwrap_or(text);
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// The scheme before `:`, if that text is a valid scheme (RFC 3986 §3.1).
fn split_scheme(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            (Some(scheme), rest)
        }
        _ => (None, text),
    }
}

/// The absolute path and the query of `//host/path?query`. The host is ignored.
fn absolute<'a>(rest: &'a str, whole: &str) -> Result<(PathBuf, &'a str)> {
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = match path.strip_prefix("//") {
        Some(authority) => authority.find('/').and_then(|slash| authority.get(slash..)).unwrap_or(""),
        None => path,
    };
    let path = percent_decode(path, Plus::IsPlus)?;
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("stdio {whole:?} has no absolute path")));
    }
    Ok((PathBuf::from(path), query))
}

/// Parses `k=v&k2` into `k`, `v`, `k2`, ``. Only the first value of a repeated key counts.
fn arguments(query: &str) -> Result<Vec<String>> {
    let mut args: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decode(key, Plus::IsSpace)?;
        if !args.iter().any(|(k, _)| *k == key) {
            args.push((key, percent_decode(value, Plus::IsSpace)?));
        }
    }
    Ok(args.into_iter().flat_map(|(k, v)| [k, v]).collect())
}

/// The meaning of `+`: a space in a query (HTML forms), else itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    IsPlus,
    IsSpace,
}

fn percent_decode(text: &str, plus: Plus) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or_default(),
                    _ => return Err(Error::invalid(format!("stdio: malformed escape in {text:?}"))),
                }
            }
            b'+' if plus == Plus::IsSpace => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).map_err(|_| Error::invalid(format!("stdio: {text:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(stdout: &str) -> Result<OutputTarget> {
        StdioRequest { stdout: stdout.into(), stderr: "/e".into(), ..StdioRequest::default() }.target()
    }

    #[test]
    fn plain_paths_are_taken_for_fifos() {
        let want = OutputTarget::Paths { stdout: Some("/run/fifo/o".into()), stderr: Some("/e".into()) };
        assert_eq!(target("/run/fifo/o").unwrap(), want);
        assert_eq!(target("fifo:///run/fifo/o").unwrap(), want);
        assert_eq!(target("").unwrap(), OutputTarget::Paths { stdout: None, stderr: Some("/e".into()) });
        assert_eq!(
            target("/with:colon").unwrap(),
            OutputTarget::Paths { stdout: Some("/with:colon".into()), stderr: Some("/e".into()) }
        );
    }

    #[test]
    fn file_and_binary_uris_parse() {
        assert_eq!(target("file:///var/log/a%20b.log").unwrap(), OutputTarget::File("/var/log/a b.log".into()));
        assert_eq!(
            target("binary:///usr/bin/log?id=a+b&flag&x=%2F&id=second").unwrap(),
            OutputTarget::Logger(Program {
                path: "/usr/bin/log".into(),
                args: ["id", "a b", "flag", "", "x", "/"].map(String::from).to_vec(),
                must_say_ready: false,
            })
        );
        assert!(matches!(
            target("binary-v2:///l").unwrap(),
            OutputTarget::Logger(Program { must_say_ready: true, .. })
        ));
    }

    #[test]
    fn a_malformed_stdio_uri_is_named() {
        for (uri, words) in [
            ("ttrpc+unix:///s?streaming_id=1", "unknown STDIO scheme ttrpc+unix"),
            ("file://relative", "file://relative"),
            ("binary://", "binary://"),
            ("file:///a%2", "malformed escape"),
            ("file:///a%ff", "not UTF-8"),
        ] {
            assert!(target(uri).unwrap_err().to_string().contains(words), "{uri}");
        }
    }
}
