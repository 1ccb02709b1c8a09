use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// The samples of the formats, `v1.json` and so on. They are never changed: a shim of that format may run anywhere.
fn samples() -> Vec<(u32, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handover");
    let sample = |format: u32| Some((format, std::fs::read_to_string(directory.join(format!("v{format}.json"))).ok()?));
    (1..).map_while(sample).collect()
}

#[test]
fn each_kept_handover_document_is_read() {
    let samples = samples();
    assert_eq!(samples.len(), usize::try_from(FORMAT).unwrap(), "each format has a sample");
    for (format, json) in samples.into_iter().filter(|(format, _)| *format >= OLDEST) {
        let document = Document::decode(json.as_bytes()).unwrap_or_else(|e| panic!("format {format}: {e}"));
        assert_eq!(document.format, format);
        if format == FORMAT {
            let again: Value = serde_json::from_slice(&document.encode().unwrap()).unwrap();
            let kept: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(again, kept, "the format has changed: it needs a new number and a sample of its own");
        }
    }
}

#[test]
fn the_kept_handover_document_has_each_kind_of_part() {
    let (_, json) = samples().pop().unwrap();
    let words = [
        "created",
        "running",
        "paused",
        "stopped",
        "added",
        "copying",
        "tail",
        "fifo",
        "pipe",
        "append",
        "nowhere",
        "reader",
        "writer",
        "both",
        "input",
        "discard",
        "output",
        "terminal",
        "drop_first",
        "oom",
        "keep",
        "logger",
    ];
    words.iter().for_each(|word| assert!(json.contains(&format!("\"{word}\"")), "no {word}"));
}

#[test]
fn a_document_of_another_format_is_refused_by_its_number() {
    let (_, json) = samples().pop().unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document: Value = serde_json::from_str(&json).unwrap();
        change(&mut document);
        Document::decode(document.to_string().as_bytes())
    };
    let refused = |change: &dyn Fn(&mut Value), word: &str| {
        let error = with(change).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    assert!(with(&|_| {}).is_ok());
    refused(&|d| d["min_reader"] = json!(FORMAT + 1), &format!("format {FORMAT} (readable from {} on)", FORMAT + 1));
    refused(&|d| d["format"] = json!(OLDEST - 1), "this program reads");
    refused(&|d| d["containers"][0]["state"]["phase"] = json!("creating"), "creating");
    refused(&|d| d["containers"][0]["new"] = json!(1), "unknown field `new`");
    let secret = with(&|d| d["containers"] = json!("SECRET=1")).unwrap_err().to_string();
    assert!(secret.contains("a text at byte") && !secret.contains("SECRET"), "{secret}");
    refused(&|d| drop(d.as_object_mut().unwrap().remove("events")), "missing field `events`");
    assert!(Document::decode(b"").is_err() && Document::decode(b"{}").is_err());
}

#[test]
fn a_sealed_document_cannot_be_changed() {
    let memory = seal(b"{}").unwrap();
    assert_eq!(read(&memory).unwrap(), b"{}");
    assert_eq!(read(&memory).unwrap(), b"{}", "it can be read again");
    assert!(rustix::io::write(&memory, b"x").is_err());
    assert!(rustix::fs::ftruncate(&memory, 0).is_err());
    let open = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(read(&open).unwrap_err().to_string().contains("not sealed"));
    assert!(read(crate::testing::null()).is_err());
}

#[test]
fn a_descriptor_that_was_exchanged_is_noticed() {
    let (a, b) = (crate::testing::pipe().0, crate::testing::pipe().0);
    let mut keeper = Keeper::default();
    let fd = keeper.keep(&a).unwrap();
    let known = keeper.all();
    assert!(Adopter::check(&known).is_ok());
    let mut a = a;
    rustix::io::dup2(&b, &mut a).unwrap();
    assert!(Adopter::check(&known).unwrap_err().to_string().contains("not the one that was handed over"));
    let mut keeper = Keeper::default();
    assert_eq!(keeper.keep(&a).unwrap(), fd);
    let mut adopter = Adopter::check(&keeper.all()).unwrap();
    let shared = adopter.share(fd).unwrap();
    assert_eq!(std::sync::Arc::strong_count(&adopter.share(fd).unwrap()), 3);
    assert!(adopter.take(fd).unwrap_err().to_string().contains("has an owner"));
    drop(adopter);
    // Both values own the number: only one of them may close it.
    drop(a);
    std::mem::forget(shared);
}
