//! The place of an error in a JSON text: the path of the innermost value that has a byte, as in `linux.namespaces[1].type`.

use std::fmt::Write;

use serde_json::Value;

/// Returns the path of the value that has byte `at` of the compact text of `value`. The path of the whole is empty.
pub fn path_of_byte(value: &Value, at: usize) -> String {
    let (mut path, mut value, mut at) = (String::new(), value, at);
    while let Some((step, member, rest)) = member_at(value, at) {
        match step {
            Step::Key(key) => {
                let dot = if path.is_empty() { "" } else { "." };
                let _ = write!(path, "{dot}{key}");
            }
            Step::Index(n) => {
                let _ = write!(path, "[{n}]");
            }
        }
        (value, at) = (member, rest);
    }
    path
}

/// The way from a value to its member.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Returns the member that has byte `at` of its parent's text, and the number of the byte in the member's text.
fn member_at(value: &Value, at: usize) -> Option<(Step<'_>, &Value, usize)> {
    // A bracket or a comma precedes each member.
    let mut start = 1;
    let mut within = |head: usize, member: &Value| {
        let from = start + head;
        let to = from + member.to_string().len();
        start = to + 1;
        (from..to).contains(&at).then(|| at - from)
    };
    match value {
        Value::Object(members) => members.iter().find_map(|(key, member)| {
            let head = Value::from(key.as_str()).to_string().len() + 1;
            within(head, member).map(|rest| (Step::Key(key), member, rest))
        }),
        Value::Array(members) => members
            .iter()
            .enumerate()
            .find_map(|(n, member)| within(0, member).map(|rest| (Step::Index(n), member, rest))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_json_text_belongs_to_its_innermost_value() {
        let text = r#"{"a":[7,{"b\n":"cd"},[]],"e":null}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.to_string(), text);
        let found: Vec<String> = (0..text.len() + 2).map(|at| path_of_byte(&value, at)).collect();
        let of = |part: &str| {
            let at = text.find(part).unwrap();
            (found[at].as_str(), found[at + part.len() - 1].as_str())
        };
        assert_eq!(of("7"), ("a[0]", "a[0]"));
        assert_eq!(of(r#""cd""#), ("a[1].b\n", "a[1].b\n"));
        assert_eq!(of(r#"{"b\n":"cd"}"#), ("a[1]", "a[1]"));
        assert_eq!(of("[]"), ("a[2]", "a[2]"));
        assert_eq!(of("null}"), ("e", ""));
        assert_eq!((found[0].as_str(), found[2].as_str()), ("", ""));
        assert_eq!(found[text.len() + 1], "");
    }
}
