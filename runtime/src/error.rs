//! The error type of the runtime: a [`Kind`] that a caller can act on, and a chain of context for a person.
//!
//! The text has runc's form: `outer: inner: errno text`, in lower case. No code of berth matches on it.

use std::{borrow::Cow, fmt};

/// The reaction that an error allows. The front doors map each kind to an exit status or a ttrpc code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request, config.json or an option is malformed or out of range.
    InvalidArgument,
    /// No such container, process or file.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The container or process is in a state that does not allow the operation.
    FailedPrecondition,
    /// The kernel, the host or this build of berth cannot do what was asked.
    Unsupported,
    /// execve(2) refused the payload, and the error text has been written to its standard error.
    NotExecuted,
    /// A system call failed, or another error that a changed request would not avoid.
    Internal,
}

/// An error: a [`Kind`], the errno of the system call that failed, and the context, outermost first.
pub struct Error {
    kind: Kind,
    errno: Option<i32>,
    chain: Vec<Cow<'static, str>>,
}

/// The result type of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error of `kind` with the text `message`.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, errno: None, chain: vec![message.into()] }
    }

    /// Creates an error of [`Kind::InvalidArgument`]. `message` names the field, path or id.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// Creates an error of [`Kind::Unsupported`], for a request that berth refuses instead of ignoring it.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// Creates an error of [`Kind::Internal`] for a failed system call, with the C library's text in lower case.
    pub fn from_errno(errno: i32) -> Self {
        Self { kind: Kind::Internal, errno: Some(errno), chain: vec![errno_text(errno).into()] }
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the errno of the failed system call, if there was one.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// Changes the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Combines `errors` into one, for work that goes on after the first error.
    ///
    /// # Errors
    /// A single error is returned as it is. Several become one error of [`Kind::Internal`] with all texts.
    pub fn all(errors: impl IntoIterator<Item = Self>) -> Result<()> {
        let mut errors: Vec<Self> = errors.into_iter().collect();
        match errors.len() {
            0 | 1 => errors.pop().map_or(Ok(()), Err),
            _ => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(Self::new(Kind::Internal, texts.join("; ")))
            }
        }
    }

    /// Adds context: the operation that failed. The text goes before the others.
    #[must_use]
    pub fn context(mut self, what: impl Into<Cow<'static, str>>) -> Self {
        self.chain.push(what.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.chain.iter().rev().enumerate() {
            if n > 0 {
                f.write_str(": ")?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        Self::from_errno(e.raw_os_error())
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(e: nix::errno::Errno) -> Self {
        Self::from_errno(e as i32)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Self::from_errno(errno),
            None => Self::new(Kind::Internal, e.to_string()),
        }
    }
}

/// Adds context to a failed result: `verb operand`, in lower case.
pub trait Context<T> {
    /// Adds a fixed text.
    fn context(self, what: &'static str) -> Result<T>;
    /// Adds a text that is built only for an error.
    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &'static str) -> Result<T> {
        self.map_err(|e| e.into().context(what))
    }

    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().context(what()))
    }
}

/// Returns the text of an errno as Go programs print it, because callers match on that.
pub fn errno_text(errno: i32) -> String {
    match errno {
        libc::EIO => "input/output error".into(),
        libc::ERANGE => "numerical result out of range".into(),
        _ => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_begins_with_the_outermost_context() {
        let e = Err::<(), _>(Error::from_errno(libc::ENOENT)).context("open rootfs").context("create c1");
        assert_eq!(e.unwrap_err().to_string(), "create c1: open rootfs: no such file or directory");
    }

    #[test]
    fn several_errors_become_one() {
        let error = |text: &'static str| Error::new(Kind::NotFound, text);
        assert!(Error::all([]).is_ok());
        let one = Error::all([error("a")]).unwrap_err();
        assert_eq!((one.kind(), one.to_string().as_str()), (Kind::NotFound, "a"));
        let both = Error::all([error("a"), error("b")]).unwrap_err();
        assert_eq!((both.kind(), both.to_string().as_str()), (Kind::Internal, "a; b"));
    }

    #[test]
    fn context_keeps_kind_and_errno() {
        let e = Error::from(rustix::io::Errno::PERM).with_kind(Kind::Unsupported).context("x");
        assert_eq!((e.kind(), e.errno()), (Kind::Unsupported, Some(libc::EPERM)));
    }
}
