//! Masked and readonly paths as mounts: their attributes, and paths that lead to the root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    budget::trace,
    bundle::Bundle,
    case::skipped_on_runc,
    mounts,
    runtime::{Runtime, is_runc},
};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The host's null device masks a file: the container reads nothing from it and cannot change it.
#[test]
fn masked_paths_are_empty_and_read_only() {
    let runtime = Runtime::new("mask-attributes");
    let masked = ["/proc/keys", "/proc/timer_list", "/file", "/etc/other", "/dir", "/sys/firmware", "/second"];
    let chmod = format!("{}:@/file,{}", libc::SYS_chmod, 0o666);
    let chown = format!("{}:@/etc/other,0,0", libc::SYS_chown);
    let words = ["report", "mountinfo", "read=/file", "read=/etc/other", "stat=/file", "list=/dir", "+", "open", "rw"];
    let words = [&words[..], &["/file", "/etc/other", "+", "syscall", &chmod, &chown]].concat();
    let caps = json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    for users in [false, true] {
        let bundle = Bundle::probe(&words)
            .file("file", "secret", 0o644)
            .file("etc/other", "secret", 0o644)
            .file("dir/file", "secret", 0o644)
            .dir("second", 0o755)
            .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
            .set("/root/readonly", json!(false))
            .set("/linux/maskedPaths", json!(masked));
        let out = runtime.run("c1", &if users { bundle.mapped() } else { bundle }).ok();
        let said = lines(&out.stdout);
        assert_eq!((&said[0]["read"]["/file"], &said[0]["read"]["/etc/other"]), (&json!(""), &json!("")));
        assert_eq!((&said[0]["stat"]["/file"]["rdev"], &said[0]["list"]["/dir"]), (&json!([1, 3]), &json!([])));
        assert_eq!(said[1]["open"], json!({"/file": 0, "/etc/other": 0}), "it can be opened as any null device");
        if skipped_on_runc("attributes of masks", "those of a file are the null device's, those of a directory ro") {
            continue;
        }
        let done = &said[2]["syscall"];
        assert_eq!((&done[&chmod], &done[&chown]), (&json!(-libc::EROFS), &json!(-libc::EROFS)), "{done}");
        let table = mounts::reported(&said[0]);
        for path in masked {
            let Some(mount) = mounts::at(&table, path) else {
                assert!(path.starts_with("/proc/") || path.starts_with("/sys/"), "{path} is not masked");
                continue;
            };
            let file = mount.fs != "tmpfs" || mount.root != "/";
            for attribute in ["ro", "nosuid", "noexec", "nodev"] {
                // A device on a nodev mount could not be opened.
                assert!(mount.has(attribute) || file && attribute == "nodev", "{attribute}: {mount:?}");
            }
        }
    }
    runtime.assert_clean("masks");
}

/// The paths that [`lookups`] covers.
const COVERED: [&str; 3] = ["/m/file", "/m/dir", "/m/read-only"];

/// Returns the number of system calls that name each covered path.
fn lookups(runtime: &Runtime) -> Vec<usize> {
    let file = runtime.work().join("calls");
    let bundle = Bundle::probe(&["exit", "0"])
        .file("m/file", "secret", 0o644)
        .dir("m/dir", 0o755)
        .dir("m/read-only", 0o755)
        .set("/linux/maskedPaths", json!(&COVERED[..2]))
        .set("/linux/readonlyPaths", json!(&COVERED[2..]));
    let words = trace::words(&file, true);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    runtime.on("run", "c1", &bundle).through(&words).wait().ok();
    let calls = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    let naming = |path: &str| calls.lines().filter(|call| call.contains(&format!("\"{path}\""))).count();
    COVERED.map(naming).to_vec()
}

/// GHSA-3q8j-pf29-vwv8: between two lookups of a path another process could put another file there.
#[test]
fn covered_paths_are_looked_up_once() {
    if skipped_on_runc("lookups", "it looks a path up again by its descriptor in /proc") {
        return;
    }
    assert_eq!(lookups(&Runtime::new("lookups")), [1, 1, 1]);
    let by_name = lookups(&Runtime::faulty("lookups-control"));
    assert!(by_name.iter().any(|count| *count > 1), "the control: {by_name:?}");
}

/// GHSA-7ww5-4wqc-m92c: the power that a machine uses tells what its processes compute. runc 1.1.5 does not mask it.
#[test]
fn default_configuration_masks_the_power_meters() {
    if skipped_on_runc("power meters", "its default configuration does not mask them") {
        return;
    }
    let masked = |runtime: &Runtime| {
        runtime.call(&["spec"]).dir(runtime.work()).wait().ok();
        let config: Value =
            serde_json::from_slice(&std::fs::read(runtime.work().join("config.json")).unwrap()).unwrap();
        config["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/sys/devices/virtual/powercap"))
    };
    assert!(masked(&Runtime::new("powercap")));
    assert!(!masked(&Runtime::faulty("powercap-control")), "the control");
}

/// Paths that lead to the root: by name, by `..`, by links of the image.
const ROOTS: [&str; 8] = ["/", "/.", "/..", "/proc/..", "/link", "/dir/up", "/dir/link/..", "//dir/../"];

fn with_ways(words: &[&str]) -> Bundle {
    Bundle::probe(words)
        .link("link", "/")
        .dir("dir", 0o755)
        .link("dir/up", "../..")
        .link("dir/link", "/dir")
        .set("/root/readonly", json!(false))
}

/// A mount over the root would lie above the paths that are looked up in it, and would have no effect.
#[test]
fn readonly_path_that_leads_to_the_root_makes_the_root_read_only() {
    let runtime = Runtime::new("readonly-root");
    let words = [
        "write",
        "/new",
        "x",
        "+",
        "write",
        "/dir/new",
        "x",
        "+",
        "write",
        "/mnt/new",
        "x",
        "+",
        "report",
        "mountinfo",
    ];
    for path in ROOTS {
        if !["/", "/."].contains(&path) && skipped_on_runc(path, "it leads to a mount above the root, without effect") {
            continue;
        }
        let bundle = with_ways(&words)
            .mount("/mnt", "tmpfs", "tmpfs", &[])
            .set("/linux/readonlyPaths", json!([path, "/proc/sys"]));
        let said = lines(&runtime.run("c1", &bundle).ok().stdout);
        let written: Vec<_> =
            said.iter().filter_map(|line| line["write"].as_object()?.values().next()?.as_i64()).collect();
        let ro = i64::from(libc::EROFS);
        assert_eq!(written, [ro, ro, 0], "{path}: the root, and nothing mounted in it");
        let table = mounts::reported(&said[3]);
        assert!(mounts::at(&table, "/proc/sys").unwrap().has("ro"), "{path}: {table:#?}");
        // runc also leaves a mount over the root.
        assert!(is_runc() || mounts::at(&table, "/").unwrap().has("ro"), "{path}: {table:#?}");
    }
    runtime.assert_clean("readonly root");
}

/// A container whose root is masked cannot be intended.
#[test]
fn masked_path_that_leads_to_the_root_is_refused() {
    if skipped_on_runc("a mask of the root", "it has no effect, and no error") {
        return;
    }
    let runtime = Runtime::new("masked-root");
    for path in ROOTS {
        let bundle = with_ways(&["exit", "0"]).set("/linux/maskedPaths", json!(["/proc/keys", path]));
        runtime.run("c1", &bundle).fails(1, &["linux.maskedPaths", "leads to the root of the container"]);
        runtime.assert_clean(path);
    }
}

/// A bind mount of the root's directory is another mount.
#[test]
fn bind_mount_of_the_root_can_be_masked_or_read_only() {
    let runtime = Runtime::new("root-elsewhere");
    let bundle = with_ways(&["write", "/again/new", "x", "+", "write", "/new", "x", "+", "report", "list=/hidden"]);
    let root = bundle.rootfs();
    let root = root.to_str().unwrap();
    let bundle = bundle
        .mount("/again", "bind", root, &["bind"])
        .mount("/hidden", "bind", root, &["bind"])
        .set("/linux/readonlyPaths", json!(["/again"]))
        .set("/linux/maskedPaths", json!(["/hidden"]));
    let said = lines(&runtime.run("c1", &bundle).ok().stdout);
    assert_eq!(said[0]["write"]["/again/new"], libc::EROFS);
    assert_eq!((&said[1]["write"]["/new"], &said[2]["list"]["/hidden"]), (&json!(0), &json!([])));
    runtime.assert_clean("the root elsewhere");
}

/// Another process may rename a directory above a mount while the container is created, here a hook.
#[test]
fn paths_in_a_mount_are_covered_after_its_directory_is_moved() {
    if skipped_on_runc("covers of a moved mount", "it looks for them below the directory of that name") {
        return;
    }
    let runtime = Runtime::new("cover-moved");
    let words = ["report", "read=/away/self/mountinfo", "read=/away/keys", "list=/far/firmware"];
    let bundle = Bundle::probe(&words).dir("proc", 0o755).dir("sys", 0o755).dir("bound", 0o755);
    let source = runtime.work().join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), "secret").unwrap();
    let moves = "mv proc away && mv sys far && mv bound gone && mkdir proc sys bound && echo decoy > bound/file";
    let script = format!("cd {} && {moves}", bundle.rootfs().display());
    let bundle = bundle
        .mount("/bound", "bind", source.to_str().unwrap(), &["bind"])
        .set("/linux/maskedPaths", json!(["/proc/keys", "/sys/firmware", "/bound/file", "/proc/none"]))
        .set("/hooks", json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}));
    let said = lines(&runtime.run("c1", &bundle).ok().stdout);
    let table = mounts::parse(said[0]["read"]["/away/self/mountinfo"].as_str().unwrap());
    for path in ["/away/keys", "/far/firmware", "/gone/file", "/away/sys", "/away/irq"] {
        assert!(mounts::at(&table, path).is_some_and(|mount| mount.has("ro")), "{path}: {table:#?}");
    }
    assert_eq!((&said[0]["read"]["/away/keys"], &said[0]["list"]["/far/firmware"]), (&json!(""), &json!([])));
    runtime.assert_clean("covers of moved mounts");
}

/// A path may lead out of its mount, or to a mount that covers it: the process's view counts.
#[test]
fn paths_are_covered_where_the_process_finds_them() {
    let runtime = Runtime::new("cover-view");
    let (below, above) = (runtime.work().join("below"), runtime.work().join("above"));
    for dir in [&below, &above] {
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("file"), "secret").unwrap();
        std::fs::write(dir.join("sub/file"), "secret").unwrap();
    }
    std::os::unix::fs::symlink("/etc/other", above.join("out")).unwrap();
    let names = ["/v/file", "/v/out", "/v/sub/file", "/w/sub/file", "/w/file"];
    let words: Vec<_> = names.iter().map(|name| format!("read={name}")).collect();
    let words: Vec<_> = ["report", "read=/etc/other"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let bind = |bundle: Bundle, at, from: &std::path::Path| bundle.mount(at, "bind", from.to_str().unwrap(), &["bind"]);
    let bundle = Bundle::probe(&words).file("etc/other", "secret", 0o644).dir("v", 0o755).link("alias", "v");
    let bundle = bind(bind(bind(bundle, "/v", &below), "/alias", &above), "/w", &below);
    // The read-only bind mount of /w hides the mount that config.json names.
    let bundle =
        bundle.set("/linux/maskedPaths", json!(names)).set("/linux/readonlyPaths", json!(["/w/sub", "/w", "/w/file"]));
    let said = lines(&runtime.run("c1", &bundle).ok().stdout);
    for name in names.iter().chain(&["/etc/other"]) {
        assert_eq!(said[0]["read"][name], "", "{name}: {}", said[0]);
    }
    runtime.assert_clean("covers");
}
