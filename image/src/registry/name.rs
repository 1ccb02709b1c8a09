//! The name of a repository, completed as docker completes it.

use berth_runtime::{Error, Result};

use super::url::Origin;
use crate::{
    names::{DEFAULT, split_host},
    text::escaped,
};

/// Another name of the default registry, which docker's file of credentials has.
const DEFAULT_ALIAS: &str = "index.docker.io";
/// The host that answers for the default registry.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Its key in docker's file of credentials.
pub const DEFAULT_KEY: &str = "https://index.docker.io/v1/";

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The registry as the name has it, for credentials.
    pub registry: String,
    /// The registry's address.
    pub origin: Origin,
    /// The path of the repository.
    pub path: String,
}

/// Replaces the other name of the default registry.
pub fn canonical(registry: &str) -> &str {
    if registry == DEFAULT_ALIAS { DEFAULT } else { registry }
}

impl Repository {
    /// Reads `[HOST[:PORT]/]PATH`. The part before the first `/` is a host if it has a dot or a colon or is `localhost`.
    /// The registry speaks http if it is on this machine or `is_plain`, else https.
    ///
    /// # Errors
    /// Malformed, or with a tag or digest.
    pub fn parse(text: &str, is_plain: bool) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("repository {}: {why}", escaped(text.as_bytes())));
        let (registry, path) = split_host(text).unwrap_or((DEFAULT, text));
        if path.contains(['@', ':']) {
            return Err(wrong("a tag or digest does not belong here"));
        }
        let registry = canonical(registry);
        let path = match registry {
            DEFAULT if !path.contains('/') => format!("library/{path}"),
            _ => path.to_owned(),
        };
        let is_component = |part: &str| {
            let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
            part.bytes().all(allowed) && ends(part.bytes().next()) && ends(part.bytes().last())
        };
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(wrong("the name is malformed"));
        }
        let host = if registry == DEFAULT { DEFAULT_HOST } else { registry };
        let is_http = is_plain || Origin::parse(false, host)?.is_loopback();
        Ok(Self { registry: registry.to_owned(), origin: Origin::parse(!is_http, host)?, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (text, origin, path) in [
            ("busybox", "https://registry-1.docker.io", "library/busybox"),
            ("me/app", "https://registry-1.docker.io", "me/app"),
            ("docker.io/busybox", "https://registry-1.docker.io", "library/busybox"),
            ("r.example/a/b_c/d-e", "https://r.example", "a/b_c/d-e"),
            ("r.example:5000/a", "https://r.example:5000", "a"),
            ("localhost/a", "http://localhost", "a"),
            ("127.0.0.1:5000/a", "http://127.0.0.1:5000", "a"),
            ("10.0.0.1:5000/a", "https://10.0.0.1:5000", "a"),
        ] {
            let name = Repository::parse(text, false).unwrap();
            assert_eq!((name.origin.to_string().as_str(), name.path.as_str()), (origin, path), "{text}");
        }
        for wrong in ["", "a:b", "a@sha256:00", "r.example/", "r.example/A", "r.example/a//b", "r.example/../b", "a/-b"]
        {
            assert!(Repository::parse(wrong, false).is_err(), "{wrong}");
        }
        assert_eq!(Repository::parse("r.example/a", true).unwrap().origin.to_string(), "http://r.example");
    }
}
