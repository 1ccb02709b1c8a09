//! Mount targets: what there is before a mount, what is made for it, and what of the host stays in sight.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, console::ConsoleSocket, mounts, runtime::Runtime};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_tmpfs_takes_over_the_mode_of_its_target() {
    let runtime = Runtime::new("tmpfs-mode");
    // mode of the directory before (0: none), options, mode of the tmpfs.
    let rows: [(u32, &[&str], u32); 6] = [
        (0o710, &["nosuid"], 0o710),
        (0o6777, &["nosuid"], 0o6777),
        (0o1755, &["ro"], 0o1755),
        (0o710, &["mode=0400"], 0o400),
        (0, &["nosuid"], 0o1777),
        (0, &["mode=0444"], 0o444),
    ];
    for (before, options, after) in rows {
        let bundle = Bundle::probe(&["report", "stat=/mnt", "mountinfo"]).mount("/mnt", "tmpfs", "tmpfs", options);
        let bundle = if before == 0 { bundle } else { bundle.dir("mnt", before) };
        let report = runtime.run("c1", &bundle).ok().json();
        assert_eq!(report["stat"]["/mnt"]["mode"], json!(after), "{before:o} {options:?}");
        if before != 0 && options == ["nosuid"] {
            let table = mounts::reported(&report);
            let shown = mounts::at(&table, "/mnt").unwrap();
            assert!(shown.fs_has(&format!("mode={after:o}")), "{shown:?}");
        }
    }
    runtime.assert_clean("tmpfs");
}

#[test]
fn links_to_nothing_are_followed_inside_the_root() {
    let runtime = Runtime::new("dangling");
    type Links = &'static [(&'static str, &'static str)];
    // Links of the image, the destination, and where it must then be mounted.
    let rows: [(Links, &str, &str); 6] = [
        (&[("jump", "/tmp/foo/bar"), ("etc/hosts", "/jump/baz/hosts")], "/etc/hosts", "/tmp/foo/bar/baz/hosts"),
        (&[("etc/hosts", "/tmp/hosts")], "/etc/hosts", "/tmp/hosts"),
        (&[("etc/hosts", "../up/hosts")], "/etc/hosts", "/up/hosts"),
        (&[("etc/hosts", "../../../../up/./deep//hosts")], "/etc/hosts", "/up/deep/hosts"),
        (&[("one", "two/three"), ("two", "/four")], "/one/five", "/four/three/five"),
        (&[("one", "/a/../b/c")], "/one", "/b/c"),
    ];
    for (links, destination, at) in rows {
        for directory in [false, true] {
            let mut bundle = Bundle::probe(&["report", "mountinfo", &format!("stat={at}")]);
            for (link, to) in links {
                bundle = bundle.link(link, to);
            }
            let source = bundle.path().join("source");
            if directory {
                std::fs::create_dir(&source).unwrap();
            } else {
                std::fs::write(&source, "x").unwrap();
            }
            let bundle = bundle.mount(destination, "bind", source.to_str().unwrap(), &["bind"]);
            let report = runtime.run("c1", &bundle).ok().json();
            assert!(mounts::at(&mounts::reported(&report), at).is_some(), "{links:?}: {report:#}");
            assert_eq!(report["stat"][at]["type"], if directory { "d" } else { "f" }, "{links:?}");
        }
    }
    let circle = Bundle::probe(&["exit", "0"]).link("one", "/two/x").link("two", "/one/x");
    runtime.run("c1", &circle.mount("/one", "tmpfs", "tmpfs", &[])).fails(1, &["ymbolic links"]);
    runtime.assert_clean("links");
}

#[test]
fn a_read_only_dev_with_a_terminal() {
    let runtime = Runtime::new("ro-dev");
    let console = ConsoleSocket::new(runtime.work());
    let bundle = Bundle::probe(&["report", "mountinfo", "dev"])
        .unmount("/dev")
        .edit(|c| {
            let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "ro"]});
            c["mounts"].as_array_mut().unwrap().insert(1, dev);
        })
        .set("/process/terminal", json!(true));
    runtime.on("create", "c1", &bundle).with(&["--console-socket", console.path()]).wait().ok();
    let mut master = console.receive();
    runtime.cmd(&["start", "c1"]).ok();
    let text = master.read_all();
    let report: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"));
    let table = mounts::reported(&report);
    assert!(mounts::at(&table, "/dev").unwrap().has("ro"), "{table:?}");
    assert_eq!(report["dev"]["/dev/console"]["type"], "c", "{report:#}");
}

/// unshare(2) into new user, mount and network namespaces, then mount(2) of a whole sysfs: the kernel allows it to
/// whoever sees one already.
#[test]
fn without_pivot_no_whole_sysfs_is_in_sight() {
    let runtime = Runtime::new("no-pivot");
    let calls = ["syscall", "272:0x50020000", "165:@sysfs,@/mnt,@sysfs,0,0"];
    let bundle = Bundle::probe(&calls).dir("mnt", 0o755);
    for options in [&["--no-pivot"][..], &[]] {
        let out = runtime.on("run", "c1", &bundle).with(options).wait().ok();
        let done = &lines(&out.stdout)[0]["syscall"];
        assert_eq!(done[calls[1]], json!(0), "{done}");
        assert_eq!(done[calls[2]], json!(-libc::EPERM), "{options:?}: {done}");
    }
    runtime.assert_clean("no-pivot");
}
