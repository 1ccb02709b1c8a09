//! The texts of a registry: WWW-Authenticate, Link, URLs, hosts, names of repositories and images. The oracle for URLs is the
//! crate that the HTTP client connects by; for headers, their own form written and read again.

use berth_image::fuzzing::{PlainOrigin, challenges, full_name, next_link, origin, repository, url};

use crate::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(5);
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    match kind {
        0 => headers(&text),
        1 => location(&text),
        2 => host(&text),
        3 => name(&text),
        _ => {
            let whole = full_name(&text);
            assert_eq!(full_name(&whole), whole, "{text:?}");
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

fn headers(text: &str) {
    let values: Vec<_> = text.split('\n').collect();
    let found = challenges(&values);
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    // Written as a good server writes it, each challenge is read as it was.
    let good = found.iter().filter(|(scheme, list)| is_word(scheme) && list.iter().all(|(name, _)| is_word(name)));
    for challenge in good {
        let (scheme, list) = challenge;
        let list: Vec<_> = list.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
        let again = challenges(&["Basic realm=x", &format!("{scheme} {}", list.join(", "))]);
        assert_eq!(again.last(), Some(challenge), "{text:?}");
    }
    if let Some(target) = next_link(&values) {
        assert!(values.iter().any(|value| value.contains(&target) && value.to_ascii_lowercase().contains("next")));
        assert!(!target.contains('>'), "{target:?}");
        let again = format!("<{target}>; title={}; rel=\"prev next\"", quoted(text));
        assert_eq!(next_link(&["</first>; rel=first", &again]), Some(target));
    }
}

fn check_origin((is_https, host, port, is_here, is_internal): &PlainOrigin, rest: &str) {
    assert!(!is_here || *is_internal, "{host} is here and public");
    assert!(rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic()));
    let scheme = if *is_https { "https" } else { "http" };
    let whole = format!("{scheme}://{host}:{port}{rest}");
    // The client parses the text once more: it must go where the checks have looked.
    match whole.parse::<http::Uri>() {
        Ok(uri) => {
            assert_eq!(uri.host(), Some(host.as_str()), "{whole}");
            assert_eq!(uri.port_u16(), Some(*port), "{whole}");
            assert_eq!(uri.scheme_str(), Some(scheme));
            assert_eq!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some(rest));
        }
        // The client refuses it.
        Err(e) => assert!(
            !rest.is_ascii() || rest.contains(['{', '}', '|', '`', '^']) || whole.len() > 65_000,
            "{e}: {whole}"
        ),
    }
}

fn location(text: &str) {
    let Some((origin, rest)) = url(text) else { return };
    assert!(!text.contains(['\\', ' ', '"']), "{text:?}");
    check_origin(&origin, &rest);
    let authority = text.split_once("://").unwrap().1;
    let authority = authority.split(['/', '?', '#']).next().unwrap();
    assert!(!authority.contains('@') && authority.to_ascii_lowercase().starts_with(&origin.1), "{text:?}");
}

fn host(text: &str) {
    for is_https in [true, false] {
        let Some(origin) = origin(is_https, text) else { return };
        check_origin(&origin, "/");
        let bare = origin.1.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<std::net::IpAddr>() {
            assert_eq!(origin.3, address.is_loopback());
        }
    }
}

fn name(text: &str) {
    let Some((origin, path)) = repository(text) else { return };
    check_origin(&origin, "/");
    assert!(path.len() <= 255 && !path.is_empty());
    for part in path.split('/') {
        assert!(!part.is_empty() && part != "." && part != "..", "{path:?}");
        assert!(part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')), "{path:?}");
    }
    assert!(text.ends_with(path.strip_prefix("library/").unwrap_or(&path)));
    assert!(origin.0 || origin.3, "{text:?} goes over http to another machine");
}
