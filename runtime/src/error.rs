//! The one error of the runtime: a [`Kind`] that a caller can act on, and a chain of context for a person.
//!
//! Text is worded as runc's users know it (`outer: inner: errno text`, lower case); nothing matches on it.

use std::{borrow::Cow, fmt};

/// What a caller can do about an error. The front doors map each kind to an exit status or a ttrpc code.
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
    /// execve(2) refused the payload, and the standard error that it would have had says so.
    NotExecuted,
    /// A system call failed, or anything else that retrying with other words will not mend.
    Internal,
}

/// An opaque error: a [`Kind`], the errno that started it if there was one, and context, outermost first.
pub struct Error {
    kind: Kind,
    errno: Option<i32>,
    chain: Vec<Cow<'static, str>>,
}

/// The runtime's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, errno: None, chain: vec![message.into()] }
    }

    /// [`Kind::InvalidArgument`], with the field, path or id named in `message`.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// [`Kind::Unsupported`]: refused clearly, rather than parsed and ignored.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// A failed system call, worded as the C library would in lower case.
    pub fn from_errno(errno: i32) -> Self {
        Self { kind: Kind::Internal, errno: Some(errno), chain: vec![errno_text(errno).into()] }
    }

    /// What a caller can act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno of the system call that failed, if one did.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Tells of all `errors` at once, for work that goes on after the first of them.
    ///
    /// # Errors
    /// Unless there is none.
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

    /// The same error with what was being done put before it.
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

/// Says what was being done when a result went wrong: `verb operand`, lower case.
pub trait Context<T> {
    /// Adds fixed text.
    fn context(self, what: &'static str) -> Result<T>;
    /// Adds text that is only built when there is an error.
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

/// The text of an errno, in the lower case that Go programs print and callers match on.
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
    fn chain_reads_outermost_first() {
        let e = Err::<(), _>(Error::from_errno(libc::ENOENT)).context("open rootfs").context("create c1");
        assert_eq!(e.unwrap_err().to_string(), "create c1: open rootfs: no such file or directory");
    }

    #[test]
    fn several_errors_are_told_as_one() {
        let error = |text: &'static str| Error::new(Kind::NotFound, text);
        assert!(Error::all([]).is_ok());
        let one = Error::all([error("a")]).unwrap_err();
        assert_eq!((one.kind(), one.to_string().as_str()), (Kind::NotFound, "a"));
        let both = Error::all([error("a"), error("b")]).unwrap_err();
        assert_eq!((both.kind(), both.to_string().as_str()), (Kind::Internal, "a; b"));
    }

    #[test]
    fn kind_and_errno_survive_context() {
        let e = Error::from(rustix::io::Errno::PERM).with_kind(Kind::Unsupported).context("x");
        assert_eq!((e.kind(), e.errno()), (Kind::Unsupported, Some(libc::EPERM)));
    }
}
