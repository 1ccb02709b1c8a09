//! `mounts add` and `mounts remove`, which crun has: mounts of an existing container.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Output, Runtime},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path};

/// Calls the command with this list.
fn mounts(runtime: &Runtime, verb: &str, id: &str, list: &Value) -> Output {
    let file = runtime.work().join("mounts.json");
    fs::write(&file, list.to_string()).unwrap();
    runtime.cmd(&["mounts", verb, id, file.to_str().unwrap()])
}

fn bind(from: &Path, to: &str, words: &[&str]) -> Value {
    let words = [&["bind"], words].concat();
    json!({"destination": to, "type": "bind", "source": from, "options": words})
}

/// Returns the lines of the container's mountinfo at `target`.
fn at(runtime: &Runtime, target: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", runtime.pid("c1"))).unwrap();
    text.lines().filter(|line| line.split(' ').nth(4) == Some(target)).map(String::from).collect()
}

/// A container with a writable root, in which directories can be made.
fn writable() -> Bundle {
    Bundle::probe(&["signal"]).set("/root/readonly", json!(false))
}

fn beyond() -> bool {
    skipped_on_runc("mounts", "the command is crun's")
}

/// Processes inside can pass through these directories, whatever the caller's uid and umask.
#[test]
fn directories_made_for_live_mounts_belong_to_the_container() {
    if beyond() {
        return;
    }
    let runtime = Runtime::new("live-dirs");
    let file = runtime.work().join("list.json");
    let (secret, sealed) = (runtime.work().join("secret"), |path: &str| at(&runtime, path)[0].contains(" ro,"));
    fs::write(&secret, "text").unwrap();
    for mapped in [false, true] {
        let bundle = writable();
        runtime.start("c1", &if mapped { bundle.mapped() } else { bundle });
        let tmpfs = json!({"destination": "/run/late", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]});
        let mut list = vec![bind(&secret, "/run/a/b/secret", &["ro"])];
        if !mapped {
            list.extend([tmpfs, bind(&secret, "/run/late/c/secret", &["ro"])]);
        }
        fs::write(&file, json!(list).to_string()).unwrap();
        let through = ["sh", "-c", "umask 077; exec \"$0\" \"$@\""];
        runtime.call(&["mounts", "add", "c1", file.to_str().unwrap()]).through(&through).wait().ok();
        let words =
            ["/probe", "report", "stat=/run", "stat=/run/a/b", "read=/run/a/b/secret", "read=/run/late/c/secret"];
        let report = runtime.exec("c1", &words).ok().json();
        for path in ["/run", "/run/a/b"] {
            let seen = ["mode", "uid", "gid"].map(|key| report["stat"][path][key].as_u64().unwrap());
            assert_eq!(seen, [0o755, 0, 0], "mapped {mapped}: {path}");
        }
        assert_eq!(report["read"]["/run/a/b/secret"], "text");
        if !mapped {
            assert!(report["read"]["/run/late/c/secret"] == "text" && sealed("/run/late"), "{report}");
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("directories for mounts");
}

#[test]
fn mounts_add_and_remove_change_a_running_container() {
    if beyond() {
        return;
    }
    let runtime = Runtime::new("live-mounts");
    let from = runtime.work().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "text").unwrap();
    let host = || {
        let (text, own) = (fs::read_to_string("/proc/self/mountinfo").unwrap(), from.to_str().unwrap());
        text.lines().filter(|line| line.contains(own)).count()
    };
    let before = host();
    for mapped in [false, true] {
        let bundle = writable();
        let bundle = if mapped { bundle.mapped() } else { bundle };
        runtime.start("c1", &bundle);
        let scratch =
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"]});
        let mut list = vec![bind(&from, "/new/dir", &["ro"]), bind(&from.join("file"), "/new/file", &[])];
        if !mapped {
            list.push(scratch.clone());
        }
        mounts(&runtime, "add", "c1", &json!(list)).ok();
        let read = ["/new/dir/file", "/new/file"];
        let words = ["/probe", "report", "read=/new/dir/file", "read=/new/file"];
        let report = runtime.exec("c1", &words).ok().json();
        assert_eq!(read.map(|path| report["read"][path].as_str().unwrap()), ["text"; 2], "{report}");
        assert!(at(&runtime, "/new/dir")[0].contains(" ro,"));
        assert_eq!(at(&runtime, "/scratch").len(), usize::from(!mapped));
        if mapped {
            mounts(&runtime, "add", "c1", &json!([scratch])).fails(1, &["mounts[0]", "user namespace"]);
        } else {
            assert!(at(&runtime, "/scratch")[0].contains("noexec") && at(&runtime, "/scratch")[0].contains("size=64k"));
        }
        mounts(&runtime, "remove", "c1", &json!(list)).ok();
        for target in ["/new/dir", "/new/file", "/scratch"] {
            assert_eq!(at(&runtime, target), [""; 0], "{target}");
        }
        mounts(&runtime, "remove", "c1", &json!([list[0]])).fails(1, &["mounts[0].destination: /new/dir: not mounted"]);
        assert_eq!(host(), before);
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    assert_eq!(fs::read_to_string(from.join("file")).unwrap(), "text");
    runtime.assert_clean("mounts that came and went");
}

/// The options have the form of config.json.
#[test]
fn mounts_add_maps_ids_as_config_json_does() {
    if beyond() {
        return;
    }
    let runtime = Runtime::new("live-mounts-ids");
    let from = runtime.work().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "of the host's root").unwrap();
    // A user namespace or not, the option, and the owners that the container sees.
    let rows = [
        (true, "idmap", [0, 0]),
        (true, "idmap=uids=@0-5-1;gids=0-100006-1", [5, 6]),
        (false, "ridmap=uids=0-1000-10;gids=0-1001-10", [1000, 1001]),
    ];
    for (users, word, owners) in rows {
        runtime.start("c1", &if users { writable().mapped() } else { writable() });
        mounts(&runtime, "add", "c1", &json!([bind(&from, "/shifted", &[word])])).ok();
        let report = runtime.exec("c1", &["/probe", "report", "stat=/shifted/file"]).ok().json();
        assert_eq!(
            ["uid", "gid"].map(|id| &report["stat"]["/shifted/file"][id]),
            owners.map(Value::from).each_ref(),
            "{word}"
        );
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("mounts with other ids");
}

#[test]
fn mounts_add_is_atomic_and_stays_inside_the_root() {
    if beyond() {
        return;
    }
    let runtime = Runtime::new("live-mounts-bad");
    let (from, host_files) = (runtime.work().join("from"), runtime.work().join("host_files"));
    for dir in [&from, &host_files] {
        fs::create_dir(dir).unwrap();
    }
    runtime.start("c1", &writable());
    let root = format!("/proc/{}/root", runtime.pid("c1"));
    symlink(format!("../../../../..{}", host_files.display()), format!("{root}/link")).unwrap();
    mounts(&runtime, "add", "c1", &json!([bind(&from, "/link/below", &[])])).ok();
    assert!(!host_files.join("below").exists(), "the link led out of the root");
    mounts(&runtime, "remove", "c1", &json!([bind(&from, "/link/below", &[])])).ok();

    let good = bind(&from, "/good", &[]);
    for (bad, words) in [
        (bind(&from.join("none"), "/bad", &[]), "no such file"),
        (bind(&from, "/proc/sys", &["nothing-like-it"]), "nothing-like-it"),
        (bind(&from, "/proc/1/fd", &[]), "/proc"),
        (bind(&from, "/probe", &[]), "not a directory"),
        (bind(&from, "/", &[]), "/ is prohibited"),
        (
            bind(&from, "/bad", &["idmap=uids=@0-1-1"]),
            "mounts[1].options: idmap=uids=@0-1-1: the container has no user",
        ),
        (bind(&from, "/bad", &["idmap"]), "mounts[1].uidMappings: id-mapped mounts must have both"),
        (json!({"destination": "/bad", "type": "tmpfs", "options": ["idmap"]}), "only supported for bind-mounts"),
        (json!({"destination": "/bad", "type": "proc", "source": "proc"}), "only bind mounts and tmpfs"),
        (json!({"destination": "/good", "options": ["remount", "ro"]}), "mounts[1]: remount"),
        (json!({"destination": ""}), "mounts[1].destination"),
        (json!({"destination": 7}), "[1].destination"),
        (json!(["/bad"]), "[1]"),
    ] {
        let list = json!([good, bad]);
        mounts(&runtime, "add", "c1", &list).fails(1, &[words]);
        assert_eq!(at(&runtime, "/good"), [""; 0], "{list}");
    }
    mounts(&runtime, "remove", "c1", &json!([bind(&from, "/", &[])])).fails(1, &["the root stays"]);
    mounts(&runtime, "add", "c1", &json!({})).fails(1, &["mounts.json"]);
    mounts(&runtime, "add", "c2", &json!([])).fails(1, &["does not exist"]);
    mounts(&runtime, "swap", "c1", &json!([])).fails(1, &["swap", "neither add nor remove"]);
    runtime.cmd(&["mounts", "add", "c1", "/no/such/file"]).fails(1, &["/no/such/file"]);
    runtime.cmd(&["kill", "c1", "KILL"]).ok();
    runtime.until("c1", "stopped");
    mounts(&runtime, "add", "c1", &json!([good])).fails(1, &["not running"]);
    runtime.cmd(&["delete", "c1"]).ok();
    runtime.assert_clean("mounts that were refused");
}
