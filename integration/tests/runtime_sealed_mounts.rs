//! A read-only tmpfs with mounts below it, and the order of the mount table after tmpcopyup.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, case::skipped_on_runc, mounts, runtime::Runtime};
use serde_json::{Value, json};

/// `/run` with secrets in it (runc#3248).
#[test]
fn read_only_tmpfs_is_sealed_after_the_mounts_below_it() {
    let runtime = Runtime::new("sealed");
    let words = ["report", "mountinfo", "read=/run/secrets/deep/file", "list=/run", "+", "write", "/run/new", "x"];
    let words = [&words[..], &["+", "write", "/run/own/new", "x", "+", "write", "/run/secrets/deep/new", "x"]].concat();
    for (options, users) in [
        (&["ro", "nosuid", "nodev", "mode=755"][..], false),
        (&["ro", "nosuid", "nodev", "mode=755"], true),
        (&["rro", "mode=755"], false),
        (&["ro", "tmpcopyup"], false),
        (&["ro", "tmpcopyup"], true),
    ] {
        if options.iter().any(|o| ["tmpcopyup", "rro"].contains(o))
            && skipped_on_runc("ro and filled", "it seals first")
        {
            continue;
        }
        let bundle = Bundle::probe(&words).file("run/image", "x", 0o644).set("/process/cwd", json!("/run/work/here"));
        let secrets = bundle.path().join("secrets");
        std::fs::create_dir_all(&secrets).unwrap();
        std::fs::write(secrets.join("file"), "secret").unwrap();
        let bundle = bundle
            .mount("/run", "tmpfs", "tmpfs", options)
            .mount("/run/secrets/deep", "bind", secrets.to_str().unwrap(), &["bind", "ro"])
            .mount("/run/own", "tmpfs", "tmpfs", &["mode=755"]);
        let out = runtime.run("c1", &if users { bundle.mapped() } else { bundle }).ok();
        let said: Vec<Value> = out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let what = format!("{options:?}, users {users}");
        assert_eq!(said[0]["read"]["/run/secrets/deep/file"], "secret", "{what}");
        assert_eq!(said[1]["write"]["/run/new"], libc::EROFS, "{what}");
        assert_eq!(said[2]["write"]["/run/own/new"], 0, "{what}: what is mounted in it has its own options");
        assert_eq!(said[3]["write"]["/run/secrets/deep/new"], libc::EROFS, "{what}");
        let copied = said[0]["list"]["/run"].as_array().unwrap().contains(&json!("image"));
        assert_eq!(copied, options.contains(&"tmpcopyup"), "{what}");
        let table = mounts::reported(&said[0]);
        let run = mounts::at(&table, "/run").unwrap();
        assert!(run.has("ro") && (run.has("nosuid") || !options.contains(&"nosuid")), "{what}: {run:?}");
    }
    runtime.assert_clean("sealed mounts");
}

/// A read-only directory of v1 hierarchies and `/dev` become read-only last as well.
#[test]
fn read_only_dev_is_sealed_after_the_mounts_below_it() {
    let runtime = Runtime::new("sealed-dev");
    let bundle =
        Bundle::probe(&["report", "mountinfo", "+", "write", "/dev/new", "x", "+", "write", "/dev/mine/x", "y"])
            .edit(|c| c["mounts"][1]["options"].as_array_mut().unwrap().push(json!("ro")))
            .mount("/dev/mine", "tmpfs", "tmpfs", &[]);
    let out = runtime.run("c1", &bundle).ok();
    let said: Vec<Value> = out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(mounts::at(&mounts::reported(&said[0]), "/dev").unwrap().has("ro"));
    assert_eq!((&said[1]["write"]["/dev/new"], &said[2]["write"]["/dev/mine/x"]), (&json!(libc::EROFS), &json!(0)));
    runtime.assert_clean("a sealed /dev");
}

/// Readers of the table expect the order of config.json. It cannot be had between Linux 6.8, which lists by age, and
/// 6.15, which copies detached mounts.
#[test]
fn mount_table_has_the_order_of_the_configuration_with_tmpcopyup() {
    if skipped_on_runc("order", "it fills a tmpfs elsewhere and moves it") {
        return;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).map(|n| n.parse().unwrap()).collect();
    if (6, 8) <= (numbers[0], numbers[1]) && (numbers[0], numbers[1]) < (6, 15) {
        eprintln!("skipped on Linux {release}");
        return;
    }
    let runtime = Runtime::new("copyup-order");
    for users in [false, true] {
        let bundle = Bundle::probe(&["report", "mountinfo", "read=/second/deep/file"])
            .file("second/file", "text", 0o644)
            .file("second/deep/file", "text", 0o644)
            .mount("/first", "tmpfs", "tmpfs", &[])
            .mount("/second", "tmpfs", "tmpfs", &["tmpcopyup"])
            .mount("/third", "tmpfs", "tmpfs", &["ro"])
            .mount("/second/deep", "tmpfs", "tmpfs", &["tmpcopyup", "ro"])
            .mount("/fourth", "tmpfs", "tmpfs", &[]);
        let report = runtime.run("c1", &if users { bundle.mapped() } else { bundle }).ok().json();
        let table = mounts::reported(&report);
        let wanted = [
            "/",
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
            "/sys",
            "/first",
            "/second",
            "/third",
            "/second/deep",
            "/fourth",
        ];
        let listed: Vec<_> = table.iter().map(|m| m.point.as_str()).filter(|point| wanted.contains(point)).collect();
        assert_eq!(listed, wanted, "users {users}");
        assert_eq!(report["read"]["/second/deep/file"], "text");
    }
    runtime.assert_clean("the order");
}

/// The runtime copies in the container's cgroup, so the container's memory limit applies.
#[test]
fn tmpcopyup_is_bounded_by_the_memory_limit() {
    if skipped_on_runc("a copy beyond the limit", "it is killed while it copies") {
        return;
    }
    let runtime = Runtime::new("copyup-memory");
    let bundle = Bundle::probe(&["exit", "0"])
        .file("data/big", &"x".repeat(20 << 20), 0o644)
        .mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"])
        .edit(|c| c["linux"]["resources"]["memory"] = json!({"limit": 16 << 20}));
    runtime.run("c1", &bundle).fails(1, &["tmpcopyup", "/data", "big", "linux.resources.memory.limit"]);
    let bundle = bundle.edit(|c| c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20}));
    runtime.run("c1", &bundle).ok();
    runtime.assert_clean("bounded copies");
}
