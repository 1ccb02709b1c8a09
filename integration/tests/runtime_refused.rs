//! Bad input on the command line and in the bundle: the error names it, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    runtime::{Runtime, is_runc},
};
use serde_json::Value;
use std::{fs, path::Path};

/// A bundle whose config.json is damaged as a text.
struct Damaged {
    name: &'static str,
    damage: fn(String) -> Option<Vec<u8>>,
    /// The words of any runtime, and further words of berth (runc does not name the file and the place).
    says: &'static [&'static str],
    berth_says: &'static [&'static str],
}

fn replaced(text: &str, from: &str, to: &str) -> Option<Vec<u8>> {
    assert!(text.contains(from), "{from:?} is not in {text}");
    Some(text.replacen(from, to, 1).into_bytes())
}

const DAMAGED: &[Damaged] = &[
    Damaged { name: "none", damage: |_| None, says: &["config.json", "not found"], berth_says: &[] },
    Damaged { name: "empty", damage: |_| Some(vec![]), says: &["EOF"], berth_says: &["config.json"] },
    Damaged {
        name: "truncated",
        damage: |t| Some(t.as_bytes().get(..t.len() / 2)?.to_vec()),
        says: &["EOF"],
        berth_says: &["config.json"],
    },
    Damaged {
        name: "no JSON",
        damage: |_| Some(b"[Service]\n".to_vec()),
        says: &[],
        berth_says: &["config.json", "line 1"],
    },
    Damaged { name: "no UTF-8", damage: |_| Some(b"\xff\xfe{}".to_vec()), says: &[], berth_says: &["config.json"] },
    Damaged { name: "a list", damage: |_| Some(b"[]".to_vec()), says: &[], berth_says: &["config.json"] },
    Damaged {
        name: "a wrong type deep inside",
        damage: |t| replaced(&t, r#""soft": 1024"#, r#""soft": "many""#),
        says: &["process.rlimits", "soft"],
        berth_says: &["config.json"],
    },
    Damaged {
        name: "a wrong type of a list's element",
        damage: |t| replaced(&t, r#""destination": "/proc""#, r#""destination": 7"#),
        says: &["mounts", "destination"],
        berth_says: &["config.json", "mounts[0].destination"],
    },
    Damaged {
        name: "a negative uid",
        damage: |t| replaced(&t, r#""uid": 0"#, r#""uid": -1"#),
        says: &["process.user.uid"],
        berth_says: &["config.json"],
    },
    Damaged {
        name: "a uid beyond 32 bits",
        damage: |t| replaced(&t, r#""uid": 0"#, r#""uid": 4294967296"#),
        says: &["process.user.uid"],
        berth_says: &["config.json"],
    },
    Damaged { name: "no root", damage: |t| replaced(&t, r#""root""#, r#""roof""#), says: &["root"], berth_says: &[] },
    Damaged { name: "an empty object", damage: |_| Some(b"{}".to_vec()), says: &[], berth_says: &["config.json"] },
];

#[test]
fn damaged_config_json_is_refused_with_its_place() {
    let runtime = Runtime::new("damaged");
    let mut failed = vec![];
    for row in DAMAGED {
        for verb in ["run", "create"] {
            let bundle = Bundle::probe(&["report", "args"]);
            let call = runtime.on(verb, "c1", &bundle);
            let path = bundle.path().join("config.json");
            let text = fs::read_to_string(&path).unwrap();
            match (row.damage)(text) {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let out = call.wait();
            if out.code != 1 || !out.stdout.is_empty() {
                failed.push(format!("{} {verb}: {out:#?}", row.name));
            }
            let words = row.says.iter().chain(if is_runc() { &[] } else { row.berth_says });
            let missing = words.filter(|w| !out.stderr.contains(**w));
            failed.extend(missing.map(|w| format!("{} {verb}: no {w:?} in {}", row.name, out.stderr)));
            failed.extend(runtime.residue().iter().map(|r| format!("{} {verb}: left behind {r}", row.name)));
            runtime.cmd(&["delete", "--force", "c1"]);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn unreadable_bundles_are_refused() {
    let runtime = Runtime::new("unreadable");
    runtime
        .cmd(&["create", "--bundle", "/no/such/bundle", "c1"])
        .fails(1, &["/no/such/bundle", "no such file or directory"]);
    let bundle = Bundle::probe(&[]);
    fs::create_dir(bundle.path().join("config.json")).unwrap();
    runtime.cmd(&["create", "--bundle", bundle.path().to_str().unwrap(), "c1"]).fails(1, &["is a directory"]);
    runtime.assert_clean("unreadable bundles");
}

#[test]
fn missing_roots_and_files_as_roots_are_refused() {
    let runtime = Runtime::new("no-root");
    for (path, word) in [("missing", "missing"), ("config.json", "config.json"), ("", "root")] {
        let bundle = Bundle::probe(&[]).set("/root/path", path.into());
        let out = runtime.run("c1", &bundle);
        assert!(out.code == 1 && (out.stderr.contains(word) || is_runc()), "{path:?}: {out:#?}");
        runtime.assert_clean(path);
    }
}

#[test]
fn ids_with_slash_or_empty_are_rejected() {
    let runtime = Runtime::new("ids");
    let long = "x".repeat(1025);
    let bundle = Bundle::probe(&[]);
    let bad: &[(&str, &str)] = &[
        ("", "container id cannot be empty"),
        (".", "invalid container ID format"),
        ("..", "invalid container ID format"),
        ("../x", "invalid container ID format"),
        ("a/b", "invalid container ID format"),
        ("/abs", "invalid container ID format"),
        ("a\nb", "invalid container ID format"),
        ("a\u{1b}[31mb", "invalid container ID format"),
        ("a b", "invalid container ID format"),
        ("ä", "invalid container ID format"),
        ("a:b", "invalid container ID format"),
        (&long, "long"),
    ];
    for (id, word) in bad {
        for verb in ["create", "run"] {
            let out = runtime.on(verb, id, &bundle).wait();
            assert!(out.code == 1 && out.stderr.contains(word), "{id:?}: {out:#?}");
            // The error is one log line for any id.
            let lines = out.stderr.lines().count();
            assert!(lines == 1 && !out.stderr.contains('\u{1b}'), "{id:?}: {out:#?}");
        }
        for verb in ["state", "start", "kill", "delete"] {
            let out = runtime.cmd(&[verb, id]);
            assert!(out.code == 1 && !out.stderr.is_empty(), "{verb} {id:?}: {out:#?}");
        }
        runtime.assert_clean(id);
    }
    for id in ["a", "A.b_c-d+e", "0", "-x".trim_start_matches('-'), &"y".repeat(200)] {
        runtime.create(id, &bundle).ok();
        runtime.cmd(&["delete", id]).ok();
    }
}

/// One of two concurrent creates of an id succeeds, and the error of the other one says that the id exists.
#[test]
fn one_of_two_concurrent_creates_wins() {
    let runtime = Runtime::new("two-creates");
    for round in 0..5 {
        let bundles = [Bundle::probe(&["sleep", "100"]), Bundle::probe(&["sleep", "100"])];
        let calls: Vec<_> = bundles.iter().map(|b| runtime.on("create", "c1", b).spawn()).collect();
        let outs: Vec<_> = calls.into_iter().map(|c| c.wait()).collect();
        let won = outs.iter().filter(|o| o.code == 0).count();
        assert_eq!(won, 1, "round {round}: {outs:#?}");
        let lost = outs.iter().find(|o| o.code != 0).unwrap();
        assert!(lost.stderr.contains("exist"), "{lost:#?}");
        runtime.cmd(&["start", "c1"]).ok();
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        runtime.assert_clean("two creates");
    }
}

#[test]
fn one_of_two_concurrent_deletes_wins() {
    let runtime = Runtime::new("two-deletes");
    for _ in 0..5 {
        runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
        runtime.cmd(&["kill", "c1", "KILL"]).ok();
        runtime.until("c1", "stopped");
        let calls = [(); 2].map(|()| runtime.call(&["delete", "c1"]).spawn());
        let outs = calls.map(|c| c.wait());
        assert!(outs.iter().any(|o| o.code == 0), "{outs:#?}");
        runtime.assert_clean("two deletes");
    }
}

#[test]
fn pid_file_in_a_missing_directory_is_refused() {
    let runtime = Runtime::new("pid-file");
    let out =
        runtime.on("create", "c1", &Bundle::probe(&["sleep", "100"])).with(&["--pid-file", "/no/such/dir/pid"]).wait();
    out.fails(1, &["/no/such/dir", "no such file or directory"]);
    runtime.assert_clean("a bad pid file");
}

/// The error names a damaged state file, and the container can still be deleted by force.
#[test]
fn damaged_state_is_named_and_can_be_deleted_by_force() {
    let runtime = Runtime::new("damaged-state");
    let damages: &[&[u8]] = &[b"", b"{", b"[]", b"\0\0\0", b"{\"id\":7}"];
    for damage in damages {
        runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
        let file = runtime.root().join("c1/state.json");
        let kept = fs::read(&file).unwrap();
        fs::write(&file, damage).unwrap();
        for verb in ["state", "start", "kill", "pause", "exec"] {
            let out = runtime.cmd(&[verb, "c1", "/probe"]);
            assert!(out.code != 0 && !out.stderr.contains("panic"), "{damage:?}: {out:#?}");
        }
        fs::write(&file, kept).unwrap();
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
}

/// The error of a failed mount has the path in the field.
#[test]
fn failed_mount_is_named_in_the_error() {
    let runtime = Runtime::new("bad-mounts");
    let rows: &[(Value, &[&str])] = &[
        (
            serde_json::json!({"destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
            &["/no/such/source"],
        ),
        (
            serde_json::json!({"destination": "/mnt", "type": "nosuchfs", "source": "x", "options": []}),
            &["/mnt", "no such device"],
        ),
        (
            serde_json::json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["size=lots"]}),
            &["/mnt", "invalid argument"],
        ),
        (
            serde_json::json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["nosuchoption"]}),
            &["/mnt", "invalid argument"],
        ),
        (
            serde_json::json!({"destination": "/probe/below", "type": "tmpfs", "source": "x"}),
            &["/probe/below", "not a directory"],
        ),
        (serde_json::json!({"destination": "/probe", "type": "tmpfs", "source": "x"}), &["/probe", "not a directory"]),
    ];
    for (mount, words) in rows {
        let bundle = Bundle::probe(&[]).set("/mounts/-", mount.clone());
        let out = runtime.run("c1", &bundle);
        assert_eq!(out.code, 1, "{mount}: {out:#?}");
        for word in *words {
            assert!(out.stderr.contains(word), "{mount}: no {word:?} in {out:#?}");
        }
        runtime.assert_clean(&mount.to_string());
        assert!(Path::new(&bundle.rootfs()).exists());
    }
}
