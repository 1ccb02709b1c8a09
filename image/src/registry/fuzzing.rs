//! The parsers of a registry's texts for the fuzz targets, with plain types.

use super::{
    headers,
    name::Repository,
    url::{Origin, Url},
};

/// An origin: https, host, port, whether it is this machine, whether its address is not public.
pub type PlainOrigin = (bool, String, u16, bool, bool);

/// The schemes of the challenges, each with its parameters.
pub fn challenges(values: &[&str]) -> Vec<(String, Vec<(String, String)>)> {
    let found = headers::challenges(values.iter().copied());
    found.into_iter().map(|challenge| (challenge.scheme, challenge.parameters.into_iter().collect())).collect()
}

/// The target of the link to the next page.
pub fn next_link(values: &[&str]) -> Option<String> {
    headers::next_link(values.iter().copied())
}

/// Reads a host.
pub fn origin(is_https: bool, text: &str) -> Option<PlainOrigin> {
    Origin::parse(is_https, text).ok().map(plain)
}

/// Reads a URL: its origin and the rest.
pub fn url(text: &str) -> Option<(PlainOrigin, String)> {
    Url::parse(text).ok().map(|url| (plain(url.origin), url.rest))
}

/// Reads the name of a repository: its origin and its path.
pub fn repository(text: &str) -> Option<(PlainOrigin, String)> {
    Repository::parse(text, false).ok().map(|name| (plain(name.origin), name.path))
}

fn plain(origin: Origin) -> PlainOrigin {
    let (is_here, is_internal) = (origin.is_loopback(), origin.is_internal());
    (origin.is_https, origin.host, origin.port, is_here, is_internal)
}
