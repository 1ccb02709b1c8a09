//! config.json with its fields in the order of the runtime specification, as people know it.

use berth_runtime::{Error, Kind, Result};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

const SPEC: [&str; 7] = ["ociVersion", "process", "root", "hostname", "mounts", "annotations", "linux"];
const PROCESS: [&str; 8] = ["terminal", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges"];
const MOUNT: [&str; 4] = ["destination", "type", "source", "options"];
const MAPPING: [&str; 3] = ["containerID", "hostID", "size"];

/// A value whose objects have their known fields first.
struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let order = order(map);
                let mut fields = serializer.serialize_map(Some(map.len()))?;
                let known = order.iter().filter_map(|key| map.get_key_value(*key));
                let others = map.iter().filter(|(key, _)| !order.contains(&key.as_str()));
                for (key, value) in known.chain(others) {
                    fields.serialize_entry(key, &Ordered(value))?;
                }
                fields.end()
            }
            Value::Array(values) => serializer.collect_seq(values.iter().map(Ordered)),
            other => other.serialize(serializer),
        }
    }
}

/// The order of an object, which is told by a field that it always has.
fn order(map: &Map<String, Value>) -> &'static [&'static str] {
    if map.contains_key("ociVersion") {
        &SPEC
    } else if map.contains_key("cwd") {
        &PROCESS
    } else if map.contains_key("destination") {
        &MOUNT
    } else if map.contains_key("containerID") {
        &MAPPING
    } else if map.contains_key("hard") {
        &["type", "hard", "soft"]
    } else if map.contains_key("uid") {
        &["uid", "gid"]
    } else {
        &[]
    }
}

/// The text of a spec, indented by tabs.
pub fn text(spec: &Value) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    Ordered(spec)
        .serialize(&mut serializer)
        .map_err(|e| Error::new(Kind::Internal, format!("encode config.json: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
