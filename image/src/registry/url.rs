//! URLs as far as a registry needs them: an origin, and the rest as it was given.
//!
//! A registry's link to the next page is followed without being taken apart: an opaque token in it must not be encoded
//! anew.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use berth_runtime::{Error, Result};

use crate::text::escaped;

/// Scheme, host and port: what credentials are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// https rather than http.
    pub is_https: bool,
    /// In lower case; an IPv6 address with its brackets.
    pub host: String,
    /// The port, also where the URL leaves it out.
    pub port: u16,
}

/// A URL: an origin, and path and query as given, which begin with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The origin.
    pub origin: Origin,
    /// The rest.
    pub rest: String,
}

impl Origin {
    /// Reads `HOST[:PORT]`.
    ///
    /// # Errors
    /// Malformed, or with a user in it.
    pub fn parse(is_https: bool, text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("host {} is malformed", escaped(text.as_bytes())));
        let split = match text.strip_prefix('[') {
            Some(rest) => rest.find(']').map_or(text.len(), |at| at + 2),
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at_checked(split).ok_or_else(wrong)?;
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => {
                if is_https {
                    443
                } else {
                    80
                }
            }
            _ => return Err(wrong()),
        };
        let is_good = if host.starts_with('[') {
            host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| h.parse::<Ipv6Addr>().is_ok())
        } else {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if is_good { Ok(Self { is_https, host: host.to_ascii_lowercase(), port }) } else { Err(wrong()) }
    }

    /// The address, where the host is one. `inet_aton` forms such as `127.1` or `0x7f.1` count as unspecified, so that
    /// they are treated as an address that is not public.
    fn address(&self) -> Option<IpAddr> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Some(address);
        }
        let last = bare.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        is_number.then_some(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Returns true if the host is this machine: `localhost`, 127.0.0.0/8 or ::1.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Whether the host is an address or name that only this machine or its network has: loopback, private, link-local
    /// (where clouds have their metadata) or unspecified.
    pub fn is_internal(&self) -> bool {
        let v4 = |a: std::net::Ipv4Addr| {
            a.is_loopback() || a.is_private() || a.is_link_local() || a.is_unspecified() || a.is_broadcast()
        };
        match self.address() {
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
            Some(IpAddr::V4(address)) => v4(address),
            Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(mapped) => v4(mapped),
                None => {
                    address.is_loopback()
                        || address.is_unspecified()
                        || address.is_unique_local()
                        || address.is_unicast_link_local()
                }
            },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.is_https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.rest)
    }
}

impl Url {
    /// Reads an absolute URL of http or https.
    ///
    /// # Errors
    /// Malformed, of another scheme, or with a user or characters that a URL cannot have.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("URL {} is malformed", escaped(text.as_bytes())));
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')) {
            return Err(wrong());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).ok_or_else(wrong)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        Ok(Self { origin: Origin::parse(is_https, authority)?, rest })
    }

    /// Resolves a reference against this URL (RFC 3986, section 5.2), without changing it.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Self> {
        let path = self.rest.split('?').next().unwrap_or_default();
        let directory = path.rfind('/').and_then(|at| path.get(..=at)).unwrap_or("/");
        let scheme = if self.origin.is_https { "https:" } else { "http:" };
        let has_scheme = reference.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':'));
        let text = match reference {
            absolute if has_scheme => absolute.to_owned(),
            authority if authority.starts_with("//") => format!("{scheme}{authority}"),
            path if path.starts_with('/') => format!("{}{path}", self.origin),
            query if query.starts_with('?') => format!("{}{path}{query}", self.origin),
            relative => format!("{}{directory}{relative}", self.origin),
        };
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_without_being_changed() {
        let base = Url::parse("https://r.example:5000/v2/a/tags/list?n=2").unwrap();
        for (reference, expected) in [
            ("/v2/a/tags/list?last=x%2Fy&n=2", "https://r.example:5000/v2/a/tags/list?last=x%2Fy&n=2"),
            ("?next_page=gAAA%3d%3D", "https://r.example:5000/v2/a/tags/list?next_page=gAAA%3d%3D"),
            ("list?last=b", "https://r.example:5000/v2/a/tags/list?last=b"),
            ("https://r.example:5000/x", "https://r.example:5000/x"),
            ("//other.example/x", "https://other.example/x"),
            ("http://R.example/x#part", "http://r.example/x"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected);
        }
        for wrong in ["ftp://a/b", "https://user@host/", "https://a b/", "https://a/\"", "https:///x", "javascript:x"] {
            assert!(base.join(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn internal_hosts_are_known_in_all_spellings() {
        let origin = |text: &str| Origin::parse(true, text).unwrap();
        for host in [
            "localhost",
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "0.0.0.0",
            "[::1]",
            "[fe80::1]",
            "127.1",
            "[::ffff:10.0.0.1]",
            "0x7f.1",
            "2130706433",
            "a.localhost",
            "192.168.1.1:5000",
            "[fd00::1]:443",
        ] {
            assert!(origin(host).is_internal(), "{host}");
        }
        for host in ["r.example", "1.1.1.1", "[2606:4700::1]", "r.example:5000"] {
            assert!(!origin(host).is_internal(), "{host}");
        }
        assert!(origin("127.0.0.9").is_loopback() && !origin("10.0.0.1").is_loopback());
        for wrong in ["", "a:b", "a@b", "[::1", "a:70000", "[x]"] {
            assert!(Origin::parse(true, wrong).is_err(), "{wrong}");
        }
    }
}
