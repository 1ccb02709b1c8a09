//! Mount options beyond attributes: tmpcopyup, remounts, links, and options of file systems.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    mounts,
    runtime::Runtime,
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown, symlink},
};

/// Returns a bundle whose image has a directory /data with a file of each type.
fn with_data(words: &[&str]) -> Bundle {
    let bundle = Bundle::probe(words)
        .dir("data/sub/deep", 0o700)
        .dir("data/sub", 0o1733)
        .dir("data", 0o751)
        .file("data/file", "text", 0o604)
        .file("data/sub/script", "#!/bin/sh\n", 0o4755)
        .link("data/link", "/etc/passwd");
    let data = bundle.rootfs().join("data");
    chown(data.join("file"), Some(7), Some(8)).unwrap();
    bundle
}

const DATA: [&str; 5] = ["report", "tree=/data", "read=/data/file", "stat=/data", "mountinfo"];

/// Returns the faults in the report of a container with tmpcopyup at /data.
fn wrong(report: &Value) -> Vec<String> {
    let at = |path: &str| report["tree"]["/data"][path].clone();
    let seen = [
        ("file", at("/data/file")["mode"] == 0o604 && at("/data/file")["uid"] == 7 && at("/data/file")["gid"] == 8),
        ("its text", report["read"]["/data/file"] == "text"),
        ("script", at("/data/sub/script")["mode"] == 0o4755),
        ("directory", at("/data/sub")["mode"] == 0o1733 && at("/data/sub/deep")["type"] == "d"),
        ("link", at("/data/link")["target"] == "/etc/passwd"),
    ];
    let lines = report["mountinfo"].as_array().unwrap();
    let mount = lines.iter().filter_map(Value::as_str).find(|line| line.split(' ').nth(4) == Some("/data"));
    let fs = mount.is_some_and(|line| line.contains(" - tmpfs "));
    let all = seen.into_iter().chain([("tmpfs", fs)]);
    all.filter(|(_, right)| !right).map(|(what, _)| format!("{what}: {}", report["tree"])).collect()
}

#[test]
fn tmpcopyup_fills_the_tmpfs_with_the_images_files() {
    let mut failed = vec![];
    for options in [
        &["tmpcopyup"][..],
        &["tmpcopyup", "mode=0755", "size=1m"],
        &["nosuid", "tmpcopyup", "ro"],
        &["rprivate", "tmpcopyup"],
    ] {
        let runtime = Runtime::new("copyup");
        let words = [&DATA[..], &["+", "write", "/data/new", "x"]].concat();
        let bundle = with_data(&words).mount("/data", "tmpfs", "tmpfs", options);
        // runc mounts it read-only before it copies the files.
        if options.contains(&"ro") && skipped_on_runc("a read-only one", "it cannot be filled") {
            continue;
        }
        let out = runtime.run("c1", &bundle).ok();
        let (report, rest) = out.stdout.split_once('\n').unwrap();
        failed.extend(wrong(&serde_json::from_str(report).unwrap()).iter().map(|w| format!("{options:?}: {w}")));
        let written =
            if options.contains(&"ro") { r#"{"write":{"/data/new":30}}"# } else { r#"{"write":{"/data/new":0}}"# };
        if rest.trim() != written || bundle.rootfs().join("data/new").exists() {
            failed.push(format!("{options:?}: {rest}"));
        }
        runtime.assert_clean(&format!("{options:?}"));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// tmpcopyup over a missing directory, over an earlier mount, and where a link leads.
#[test]
fn tmpcopyup_copies_earlier_mounts_and_follows_links() {
    let runtime = Runtime::new("copyup-else");
    let out = runtime
        .run("c1", &Bundle::probe(&["report", "list=/missing"]).mount("/missing", "tmpfs", "tmpfs", &["tmpcopyup"]));
    assert_eq!(out.ok().json()["list"]["/missing"], serde_json::json!([]));
    let volume = with_data(&[]);
    let (from, bundle) = (volume.rootfs(), Bundle::probe(&DATA).dir("data", 0o755));
    let bundle = bundle
        .mount("/vol", "bind", from.to_str().unwrap(), &["rbind", "ro"])
        .mount("/vol/data", "tmpfs", "tmpfs", &["tmpcopyup"])
        .edit(|c| {
            c["process"]["args"] =
                serde_json::json!(["/probe", "report", "read=/vol/data/file", "stat=/vol/data/sub/script"])
        });
    let report = runtime.run("c1", &bundle).ok().json();
    assert_eq!(report["read"]["/vol/data/file"], "text");
    assert_eq!(report["stat"]["/vol/data/sub/script"]["mode"], 0o4755);
    let bundle =
        with_data(&["report", "read=/data/file"]).link("way", "data").mount("/way", "tmpfs", "tmpfs", &["tmpcopyup"]);
    assert_eq!(runtime.run("c1", &bundle).ok().json()["read"]["/data/file"], "text");
    assert_eq!(fs::metadata(bundle.rootfs().join("data/file")).unwrap().uid(), 7);
    runtime.assert_clean("elsewhere");
}

/// Options for the superblock, and options without effect. None of them is an error.
#[test]
fn superblock_options_are_applied_or_ignored() {
    let runtime = Runtime::new("words");
    for (words, shows) in [
        (&["sync", "dirsync"][..], &["sync", "dirsync"][..]),
        (&["lazytime"], &["lazytime"]),
        (&["lazytime", "nolazytime"], &[]),
        (&["iversion"], &[]),
        (&["noiversion", "iversion", "loud"], &[]),
        (&["silent"], &[]),
        (&["mand", "nomand", "async"], &[]),
        (&["nostrictatime", "norelatime", "symfollow", "diratime"], &[]),
    ] {
        let bundle = Bundle::probe(&["report", "mountinfo"]).mount("/mnt", "tmpfs", "tmpfs", words);
        let report = runtime.run("c1", &bundle).ok().json();
        let text: Vec<_> = report["mountinfo"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let mount = mounts::parse(&text.join("\n")).into_iter().find(|m| m.point == "/mnt").unwrap();
        assert!(shows.iter().all(|word| mount.fs_has(word)), "{words:?}: {mount:?}");
    }
    runtime.assert_clean("words");
}

/// proc with its own options.
#[test]
fn proc_takes_hidepid_and_subset() {
    let runtime = Runtime::new("proc");
    for (options, word, sees) in [
        (&["subset=pid"][..], "subset=pid", false),
        (&["hidepid=2"], "hidepid=", true),
        (&["hidepid=invisible", "subset=pid"], "hidepid=", false),
    ] {
        if options.contains(&"subset=pid")
            && skipped_on_runc("subset=pid", "it looks for /proc/sys in the container's proc")
        {
            continue;
        }
        let bundle = Bundle::probe(&["report", "mountinfo", "stat=/proc/meminfo"])
            .unmount("/proc")
            .mount("/proc", "proc", "proc", options);
        let report = runtime.run("c1", &bundle).ok().json();
        let line = report["mountinfo"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .find(|l| l.contains(" /proc "))
            .unwrap();
        assert!(line.rsplit(' ').next().unwrap().contains(word), "{options:?}: {line}");
        assert_eq!(report["stat"]["/proc/meminfo"]["type"] == "f", sees, "{options:?}: {report}");
    }
    runtime.assert_clean("proc");
}

#[test]
fn remount_changes_an_earlier_mount() {
    let runtime = Runtime::new("remount");
    let bundle = Bundle::probe(&["report", "mountinfo", "+", "write", "/mnt/new", "x"])
        .mount("/mnt", "tmpfs", "tmpfs", &["size=1m", "nosuid"])
        .mount("/mnt", "tmpfs", "tmpfs", &["remount", "size=2m", "ro", "noexec"]);
    let out = runtime.run("c1", &bundle).ok();
    let report: Value = serde_json::from_str(out.stdout.lines().next().unwrap()).unwrap();
    let lines: Vec<_> = report["mountinfo"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .filter(|l| l.contains(" /mnt "))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["size=2048k", "noexec", "ro"] {
        assert!(lines[0].contains(word), "{word}: {lines:?}");
    }
    assert!(out.stdout.contains(r#"{"write":{"/mnt/new":30}}"#), "{}", out.stdout);
    runtime.assert_clean("remount");
}

/// The options are crun's; podman passes them on for `--volume from:to:idmap=…`.
#[test]
fn idmap_option_of_crun_maps_ids() {
    if skipped_on_runc("idmap= with a mapping", "it is crun's") {
        return;
    }
    let runtime = Runtime::new("idmap-words");
    let dir = runtime.work().join("from");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "text").unwrap();
    let bundle = |word| {
        Bundle::probe(&["report", "stat=/mnt/file"]).mount("/mnt", "bind", dir.to_str().unwrap(), &["bind", word])
    };
    let owner = |bundle: &Bundle| {
        let report = runtime.run("c1", bundle).ok().json();
        ["uid", "gid"].map(|id| report["stat"]["/mnt/file"][id].as_u64().unwrap())
    };
    assert_eq!(owner(&bundle("idmap=uids=0-1000-10;gids=0-1001-10")), [1000, 1001]);
    assert_eq!(owner(&bundle("ridmap=uids=@0-3-10;gids=7-5-1#0-100004-1").mapped()), [3, 4]);
    runtime.run("c1", &bundle("idmap=uids=0-1")).fails(1, &["idmap=uids=0-1", "is no mapping"]);
    runtime.assert_clean("mappings among the words");
}

/// The options are crun's, and podman uses them.
#[test]
fn copy_symlink_and_nofollow_options_keep_links() {
    if skipped_on_runc("copy-symlink and its kind", "they are crun's") {
        return;
    }
    let runtime = Runtime::new("links");
    let dir = runtime.work().join("from");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "text").unwrap();
    symlink("file", dir.join("link")).unwrap();
    let (file, link) = (dir.join("file"), dir.join("link"));
    let (file, link) = (file.to_str().unwrap(), link.to_str().unwrap());
    let bundle = Bundle::probe(&[
        "report",
        "stat=/copied",
        "read=/plain",
        "stat=/itself",
        "stat=/covered",
        "read=/covered",
        "stat=/target",
    ])
    .file("target", "image", 0o644)
    .link("covered", "target")
    .mount("/copied", "bind", link, &["bind", "copy-symlink"])
    .mount("/plain", "bind", file, &["bind", "copy-symlink"])
    .mount("/itself", "bind", link, &["bind", "src-nofollow"])
    .mount("/covered", "bind", file, &["bind", "dest-nofollow"]);
    let report = runtime.run("c1", &bundle).ok().json();
    assert_eq!(report["stat"]["/copied"]["target"], "file", "{report}");
    assert_eq!(report["read"]["/plain"], "text", "{report}");
    assert_eq!(report["stat"]["/itself"]["target"], "file", "{report}");
    // The file is mounted on the link and not on its target.
    assert_eq!(report["stat"]["/covered"]["type"], "f", "{report}");
    assert_eq!(report["read"]["/covered"], "text", "{report}");
    assert_eq!(report["stat"]["/target"]["size"], 5, "{report}");
    runtime.assert_clean("links");
}

#[test]
fn impossible_mount_options_are_refused() {
    refused(
        "options-bad",
        &[
            Refusal {
                name: "a copy that does not fit",
                set: |b| {
                    b.file("data/file", &"x".repeat(100_000), 0o644).mount(
                        "/data",
                        "tmpfs",
                        "tmpfs",
                        &["tmpcopyup", "size=4k"],
                    )
                },
                says: &["tmpcopyup", "no space left on device"],
            },
            Refusal {
                name: "a remount of nothing",
                set: |b| b.dir("mnt", 0o755).mount("/mnt", "tmpfs", "tmpfs", &["remount"]),
                says: &["/mnt", "invalid argument"],
            },
            Refusal {
                name: "an option that the file system does not know",
                set: |b| b.mount("/mnt", "tmpfs", "tmpfs", &["warp=9"]),
                says: &["/mnt", "invalid argument"],
            },
        ],
    );
    if skipped_on_runc("tmpcopyup of what is no tmpfs", "it is ignored") {
        return;
    }
    refused(
        "options-worse",
        &[Refusal {
            name: "tmpcopyup of a bind mount",
            set: |b| b.mount("/mnt", "bind", "/etc", &["bind", "tmpcopyup"]),
            says: &["tmpcopyup", "not a tmpfs"],
        }],
    );
}
