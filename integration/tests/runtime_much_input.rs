//! Very large input: it is taken or refused, within a memory limit of the runtime's process.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Call, Runtime},
};
use serde_json::{Value, json};
use std::{fs, iter};

const MANY: usize = 100_000;

/// Limits the call to 256 MiB of address space and 4096 open files. A Go program does not start under this limit.
fn bounded(call: Call<'_>) -> Call<'_> {
    call.through(&["/bin/sh", "-c", "ulimit -v 262144 && ulimit -n 4096 || exit 77; exec \"$0\" \"$@\""])
}

fn skip(name: &str) -> bool {
    skipped_on_runc(name, "a Go program reserves more addresses than it may have here")
}

fn many(one: impl Fn(usize) -> Value) -> Value {
    (0..MANY).map(one).collect()
}

#[test]
fn mebibyte_of_annotations_is_kept() {
    if skip("mebibyte_of_annotations_is_kept") {
        return;
    }
    let runtime = Runtime::new("annotations");
    let value = "ä".repeat(32 << 10);
    let all: serde_json::Map<_, _> = (0..16).map(|n| (format!("key-{n}"), json!(value))).collect();
    let bundle = Bundle::probe(&["sleep", "100"]).set("/annotations", all.into());
    bounded(runtime.on("create", "c1", &bundle)).wait().ok();
    bounded(runtime.call(&["start", "c1"])).wait().ok();
    let state: Value = serde_json::from_str(&bounded(runtime.call(&["state", "c1"])).wait().ok().stdout).unwrap();
    let kept = state["annotations"].as_object().unwrap();
    assert!(kept.len() == 16 && kept.values().all(|v| *v == *value), "{} of 16", kept.len());
    bounded(runtime.call(&["delete", "--force", "c1"])).wait().ok();
    runtime.assert_clean("a mebibyte of annotations");
}

#[test]
fn hundred_thousand_entries_are_taken_or_refused() {
    if skip("hundred_thousand_entries_are_taken_or_refused") {
        return;
    }
    let runtime = Runtime::new("many");
    let mapping = |n: usize| json!({"containerID": n, "hostID": 100_000 + n, "size": 1});
    let mapped = Bundle::probe(&["say", "begun"]).namespace("user", "");
    let mount = |n: usize| json!({"destination": format!("/m/{n}"), "source": "/etc", "options": ["bind", "ro"]});
    let refused = [
        (
            Bundle::probe(&["say", "begun"]).set("/mounts", many(mount)).set("/root/readonly", json!(false)),
            "too many open files",
        ),
        (mapped.set("/linux/uidMappings", many(mapping)), "linux.uidMappings: more than 340"),
        (
            Bundle::probe(&["say", "begun"]).set(
                "/mounts/-",
                json!({"destination": "/m", "source": "/etc", "options": ["bind"],
                    "uidMappings": [mapping(0)], "gidMappings": many(mapping)}),
            ),
            ".gidMappings: more than 340",
        ),
        (
            Bundle::probe(&["say", "begun"]).set("/process/user/additionalGids", many(|n| json!(n))),
            "process.user.additionalGids: too many",
        ),
        (
            Bundle::probe(&["say", "begun"]).set("/linux/namespaces", many(|_| json!({"type": "pid"}))),
            "linux.namespaces[1]",
        ),
    ];
    for (bundle, says) in &refused {
        let out = bounded(runtime.on("run", "c1", bundle)).wait().fails(1, &[says]);
        assert!(out.stdout.is_empty() && out.stderr.len() < 4096, "{says}: {} bytes", out.stderr.len());
        runtime.assert_clean(says);
    }
    // These entries name nothing that exists, so they have no effect.
    let masked = Bundle::probe(&["say", "begun"]).set("/linux/maskedPaths", many(|n| json!(format!("/proc/{n}x"))));
    assert_eq!(bounded(runtime.on("run", "c1", &masked)).wait().ok().stdout, "begun\n");
}

#[test]
fn too_deep_and_too_long_json_is_refused() {
    if skip("too_deep_and_too_long_json_is_refused") {
        return;
    }
    let runtime = Runtime::new("deep");
    let bundle = Bundle::probe(&["say", "begun"]);
    let write = |text: &[u8]| {
        let call = bounded(runtime.on("run", "c1", &bundle));
        fs::write(bundle.path().join("config.json"), text).unwrap();
        call.wait()
    };
    let deep = |open: &str| iter::repeat_n(open, 1 << 20).collect::<String>().into_bytes();
    for open in ["[", "{\"a\":", "{\"linux\":{\"resources\":"] {
        write(&deep(open)).fails(1, &["config.json", "recursion limit exceeded"]);
    }
    // A sparse file of one gibibyte must be refused unread.
    let call = bounded(runtime.on("run", "c1", &bundle));
    fs::File::create(bundle.path().join("config.json")).unwrap().set_len(1 << 30).unwrap();
    call.wait().fails(1, &["config.json", "larger than"]);
    runtime.assert_clean("deep and long");
}
