//! The two headers that a registry steers its clients with: `WWW-Authenticate` and `Link`.

use std::collections::BTreeMap;

/// A challenge of `WWW-Authenticate` (RFC 9110, section 11.6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case.
    pub scheme: String,
    /// The parameters, their names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// The challenges of all values of the header, of which one may hold several.
pub fn challenges<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    for value in values {
        for part in split(value, ',') {
            let part = part.trim();
            let (before, rest) = part.split_once(|c: char| c == '=' || c.is_whitespace()).unwrap_or((part, ""));
            let is_parameter = part.strip_prefix(before).is_some_and(|after| after.trim_start().starts_with('='));
            let parameter = if is_parameter {
                part
            } else {
                if before.is_empty() {
                    continue;
                }
                found.push(Challenge { scheme: before.to_ascii_lowercase(), ..Challenge::default() });
                rest
            };
            if let (Some((name, value)), Some(challenge)) = (parameter.split_once('='), found.last_mut()) {
                challenge.parameters.insert(name.trim().to_ascii_lowercase(), unquoted(value.trim()));
            }
        }
    }
    found
}

/// The target of the link with `rel=next`, out of all values of the `Link` header (RFC 8288).
pub fn next_link<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    for value in values {
        for link in split(value, ',') {
            let Some((target, parameters)) = link.trim().strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
                continue;
            };
            let is_next = split(parameters, ';').into_iter().any(|parameter| {
                parameter.split_once('=').is_some_and(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("rel")
                        && unquoted(value.trim()).split_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
                })
            });
            if is_next {
                return Some(target.trim().to_owned());
            }
        }
    }
    None
}

/// Splits at a separator that stands neither in quotes nor in angle brackets.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut bracketed, mut escaped) = (false, false, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' if !bracketed => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            _ if c == separator && !quoted && !bracketed => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let mut plain = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_told_apart() {
        let text = r#"Basic realm="a, b=c", Bearer realm="https://r/token",service="s \"x\"" , scope="repository:a:pull,push""#;
        let found = challenges([text, "bearer realm=x", "Negotiate"].into_iter());
        let schemes: Vec<_> = found.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["basic", "bearer", "bearer", "negotiate"]);
        assert_eq!(found[0].parameters["realm"], "a, b=c");
        assert_eq!(found[1].parameters["service"], "s \"x\"");
        assert_eq!(found[1].parameters["scope"], "repository:a:pull,push");
        assert_eq!(found[2].parameters["realm"], "x");
        assert!(challenges(["", ",,", "=x"].into_iter()).is_empty());
    }

    #[test]
    fn links_are_found_in_all_styles() {
        for (values, expected) in [
            (&[r#"</v2/a/tags/list?last=b&n=2>; rel="next""#][..], Some("/v2/a/tags/list?last=b&n=2")),
            (&["<https://r/x>;rel=next"], Some("https://r/x")),
            (&[r#"</first>; rel="first", </x,y>; title="a, b"; rel="next last""#], Some("/x,y")),
            (&[r#"</first>; rel="first""#, r#"<?n=1>; REL="Next""#], Some("?n=1")),
            (&[r#"</prev>; rel="prev""#], None),
            (&["/x; rel=next", ""], None),
        ] {
            assert_eq!(next_link(values.iter().copied()).as_deref(), expected, "{values:?}");
        }
    }
}
