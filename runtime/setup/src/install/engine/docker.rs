//! docker's daemon.json: one member of `runtimes`, added to the text.

use std::path::Path;

use berth_runtime::{Error, Result};
use serde_json::{Value, json};

use super::{Base, DOCKER, Kind, Options, Wanted, program};
use crate::install::json_text;

const RUNTIMES: &str = "runtimes";

/// The file. By path, docker calls the command line through its own shim and knows berth's features; `--shim` makes
/// docker call berth's shim.
pub fn plan(options: &Options, base: Base<'_>) -> Result<Vec<Wanted>> {
    let path = Path::new(DOCKER.config);
    let entry = match options.shim {
        true => json!({ "runtimeType": program(options, "containerd-shim-berth-v2")? }),
        false => json!({ "path": program(options, "berth")? }),
    };
    let old = base(path)?.unwrap_or_default();
    let text = add(path, &old, &options.name, &entry)?;
    Ok(vec![Wanted { path: path.to_owned(), text, kind: Kind::Shared }])
}

/// Adds a runtime to the text.
fn add(path: &Path, text: &str, name: &str, entry: &Value) -> Result<String> {
    if text.trim().is_empty() {
        return Ok(format!("{:#}\n", json!({ RUNTIMES: { name: entry } })));
    }
    let mut value = parse(path, text)?;
    let start = json_text::skip_space(text, 0);
    let deep = json_text::indentation(text, start);
    let added = match value.get(RUNTIMES) {
        Some(runtimes) => {
            let runtimes = runtimes
                .as_object()
                .ok_or_else(|| Error::invalid(format!("{}: runtimes: is not an object", path.display())))?;
            match runtimes.get(name) {
                Some(known) if known == entry => return Ok(text.to_owned()),
                Some(_) => {
                    let text = format!("{}: runtimes.{name}: is another runtime; choose --name", path.display());
                    return Err(Error::invalid(text));
                }
                None => json_text::insert(text, place(path, text)?, name, &entry.to_string()),
            }
        }
        None => {
            let deeper = format!("{deep}{}", deep.trim_start_matches('\n'));
            json_text::insert(text, start, RUNTIMES, &format!("{{{deeper}\"{name}\": {entry}{deep}}}"))
        }
    };
    // The text says what was meant, and nothing else has changed.
    if let Some(object) = value.as_object_mut() {
        let runtimes = object.entry(RUNTIMES).or_insert_with(|| json!({}));
        runtimes.as_object_mut().map(|runtimes| runtimes.insert(name.to_owned(), entry.clone()));
    }
    if parse(path, &added)? == value {
        Ok(added)
    } else {
        Err(Error::invalid(format!("{}: has a key twice", path.display())))
    }
}

/// Takes a runtime out of the text, and `runtimes` with the last one.
pub fn strip(path: &Path, text: &str, name: &str) -> Result<String> {
    if text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let value = parse(path, text)?;
    let Some(runtimes) = value.get(RUNTIMES).and_then(Value::as_object) else { return Ok(text.to_owned()) };
    Ok(match (runtimes.contains_key(name), runtimes.len()) {
        (false, _) => text.to_owned(),
        (true, 1) => json_text::remove(text, json_text::skip_space(text, 0), RUNTIMES),
        (true, _) => json_text::remove(text, place(path, text)?, name),
    })
}

/// Returns whether both texts have the same runtime of this name.
pub fn same(a: &str, b: &str, name: &str) -> bool {
    let entry = |text: &str| serde_json::from_str::<Value>(text).ok()?.get(RUNTIMES)?.get(name).cloned();
    entry(a).is_some() && entry(a) == entry(b)
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    if value.is_object() { Ok(value) } else { Err(Error::invalid(format!("{}: is not an object", path.display()))) }
}

/// The place of the object `runtimes` in the text.
fn place(path: &Path, text: &str) -> Result<usize> {
    let (members, _) = json_text::members(text, json_text::skip_space(text, 0));
    let found = members.iter().find(|member| member.key == RUNTIMES).map(|member| member.value.start);
    found.ok_or_else(|| Error::invalid(format!("{}: runtimes: is spelt with escapes", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(text: &str) -> Result<String> {
        add(Path::new("/d.json"), text, "berth", &json!({"path": "/usr/bin/berth"}))
    }

    #[test]
    fn daemon_json_keeps_its_keys_and_its_form() {
        let text = "{\n  \"log-driver\": \"local\",\n  \"dns\": [ \"10.0.0.1\" ]\n}\n";
        let want = "{\n  \"log-driver\": \"local\",\n  \"dns\": [ \"10.0.0.1\" ],\n  \"runtimes\": {\n    \"berth\": {\"path\":\"/usr/bin/berth\"}\n  }\n}\n";
        assert_eq!(added(text).unwrap(), want);
        assert_eq!(strip(Path::new("/d.json"), want, "berth").unwrap(), text);
        let other = "{\"runtimes\": {\"crun\": {\"path\": \"/usr/bin/crun\"}}, \"debug\": true}";
        let with = added(other).unwrap();
        assert!(with.starts_with("{\"runtimes\": {\"crun\": {\"path\": \"/usr/bin/crun\"},\"berth\""), "{with}");
        assert_eq!(strip(Path::new("/d.json"), &with, "berth").unwrap(), other);
    }

    #[test]
    fn empty_daemon_json_gets_one_runtime() {
        for text in ["", "\n"] {
            let read: Value = serde_json::from_str(&added(text).unwrap()).unwrap();
            assert_eq!(read, json!({"runtimes": {"berth": {"path": "/usr/bin/berth"}}}));
        }
    }

    #[test]
    fn daemon_json_that_cannot_be_edited_is_refused() {
        for (text, word) in [
            ("{", "EOF"),
            ("[]", "is not an object"),
            ("{\"runtimes\": []}", "runtimes: is not an object"),
            ("{\"runtimes\": {\"berth\": {\"path\": \"/x\"}}}", "is another runtime"),
            ("{\"runtimes\": {}, \"runtimes\": {\"a\": {}}}", "twice"),
            ("{\"runtime\\u0073\": {}}", "escapes"),
        ] {
            let error = added(text).unwrap_err().to_string();
            assert!(error.starts_with("/d.json: ") && error.contains(word), "{text}: {error}");
        }
        let own = "{\"runtimes\": {\"berth\": {\"path\": \"/usr/bin/berth\"}}}";
        assert_eq!(added(own).unwrap(), own);
    }
}
