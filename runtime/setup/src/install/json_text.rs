//! A member of a JSON object is added or removed in the text, so that all other bytes stay as they are.
//!
//! The text has been checked by serde_json. The functions here only find places in it.

use std::ops::Range;

/// One member of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// The key, as it is written between its quotes.
    pub key: String,
    /// From the quote of the key to the end of the value.
    pub span: Range<usize>,
    /// The value.
    pub value: Range<usize>,
}

/// The members of the object that begins at `start`, and the place of its closing brace.
pub fn members(text: &str, start: usize) -> (Vec<Member>, usize) {
    let mut found = Vec::new();
    let mut at = start + 1;
    loop {
        at = skip_space(text, at);
        match byte(text, at) {
            Some(b',') => at += 1,
            Some(b'"') => {
                let end = string_end(text, at);
                let value = skip_space(text, skip_space(text, end) + 1);
                let value = value..value_end(text, value);
                let key = text.get(at + 1..end - 1).unwrap_or_default().to_owned();
                found.push(Member { key, span: at..value.end, value: value.clone() });
                at = value.end;
            }
            _ => return (found, at),
        }
    }
}

/// Adds a member to the object that begins at `start`, in the manner of its other members.
pub fn insert(text: &str, start: usize, key: &str, value: &str) -> String {
    let (found, end) = members(text, start);
    let (at, before) = match found.last() {
        Some(last) => {
            let gap = found.first().map_or(0, |first| first.span.start);
            // The space between the brace and the first member is the space before each.
            (last.span.end, format!(",{}", text.get(start + 1..gap).unwrap_or_default()))
        }
        None => (start + 1, String::new()),
    };
    let behind =
        if found.is_empty() { text.get(end..).unwrap_or_default() } else { text.get(at..).unwrap_or_default() };
    format!("{}{before}\"{key}\": {value}{behind}", text.get(..at).unwrap_or_default())
}

/// Removes a member of the object that begins at `start`, with its comma. The text is unchanged if there is none.
pub fn remove(text: &str, start: usize, key: &str) -> String {
    let (found, end) = members(text, start);
    let Some(index) = found.iter().position(|member| member.key == key) else { return text.to_owned() };
    let spans: Vec<_> = found.into_iter().map(|member| member.span).collect();
    let (from, to) =
        match (index.checked_sub(1).and_then(|before| spans.get(before)), spans.get(index), spans.get(index + 1)) {
            (Some(before), Some(own), _) => (before.end, own.end),
            (None, Some(own), Some(next)) => (own.start, next.start),
            _ => (start + 1, end),
        };
    format!("{}{}", text.get(..from).unwrap_or_default(), text.get(to..).unwrap_or_default())
}

/// The white space before the first member of the object that begins at `start`; a line and four spaces without one.
pub fn indentation(text: &str, start: usize) -> String {
    let (found, _) = members(text, start);
    let space = found.first().and_then(|first| text.get(start + 1..first.span.start));
    space.filter(|space| space.contains('\n')).unwrap_or("\n    ").to_owned()
}

fn byte(text: &str, at: usize) -> Option<u8> {
    text.as_bytes().get(at).copied()
}

/// The first place from `at` on without white space.
pub fn skip_space(text: &str, mut at: usize) -> usize {
    while matches!(byte(text, at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The place behind the string that begins at `at`.
fn string_end(text: &str, mut at: usize) -> usize {
    at += 1;
    loop {
        match byte(text, at) {
            Some(b'\\') => at += 2,
            Some(b'"') | None => return at + 1,
            Some(_) => at += 1,
        }
    }
}

/// The place behind the value that begins at `at`.
fn value_end(text: &str, mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match byte(text, at) {
            Some(b'"') => at = string_end(text, at),
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(b'}' | b']') if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') | None if depth == 0 => return at,
            None => return at,
            Some(_) => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\n  \"a\": {\"x\": [1, \"}\\\"\"], \"y\": 2},\n  \"b\" : -1.5e3 ,\n  \"c\":\"d\"\n}\n";

    #[test]
    fn members_of_objects_are_found_in_the_text() {
        let (found, end) = members(TEXT, 0);
        let values: Vec<_> = found.iter().map(|member| (member.key.as_str(), &TEXT[member.value.clone()])).collect();
        assert_eq!(values, [("a", "{\"x\": [1, \"}\\\"\"], \"y\": 2}"), ("b", "-1.5e3"), ("c", "\"d\"")]);
        assert_eq!(&TEXT[end..], "}\n");
    }

    #[test]
    fn member_that_was_added_is_removed_without_a_trace() {
        for text in [TEXT, "{}", "{ }\n", "{\"a\":1}", "\n{\n\t\"a\": 1\n}"] {
            let start = skip_space(text, 0);
            let added = insert(text, start, "new", "{\"p\": 1}");
            let read: serde_json::Value = serde_json::from_str(&added).unwrap();
            assert_eq!(read["new"]["p"], 1, "{added}");
            let removed = remove(&added, start, "new");
            assert_eq!(removed.replace(' ', ""), text.replace(' ', ""), "{added}");
        }
    }

    #[test]
    fn each_member_can_be_removed() {
        for key in ["a", "b", "c"] {
            let read: serde_json::Value = serde_json::from_str(&remove(TEXT, 0, key)).unwrap();
            let left: Vec<_> = read.as_object().unwrap().keys().cloned().collect();
            assert_eq!(left, ["a", "b", "c"].into_iter().filter(|other| *other != key).collect::<Vec<_>>());
        }
        assert_eq!(remove(TEXT, 0, "d"), TEXT);
    }
}
