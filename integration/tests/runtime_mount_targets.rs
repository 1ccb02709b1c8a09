//! Mount targets and sources: targets that exist or are made, host mounts that stay visible, and locked flags.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{bundle::Bundle, case::skipped_on_runc, console::ConsoleSocket, mounts, runtime::Runtime};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn tmpfs_takes_over_the_mode_of_its_target() {
    let runtime = Runtime::new("tmpfs-mode");
    // The mode of the existing directory (0: none), the options, the mode of the tmpfs.
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
fn dangling_links_are_followed_inside_the_root() {
    let runtime = Runtime::new("dangling");
    type Links = &'static [(&'static str, &'static str)];
    // The links of the image, the destination, and the path at which the mount must be.
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
fn read_only_dev_still_gets_its_console() {
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

/// unshare(2) into new user, mount and network namespaces, then mount(2) of a full sysfs: the kernel permits it only if
/// a full sysfs is visible already.
#[test]
fn no_pivot_leaves_no_full_sysfs_visible() {
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

/// Flags that the kernel locks for a user namespace (mount_namespaces(7)) stay set. If an option clears one, the mount
/// is refused.
#[test]
fn user_namespace_cannot_clear_locked_flags_of_a_source() {
    let runtime = Runtime::new("locked");
    let source = runtime.work().join("source");
    std::fs::create_dir(&source).unwrap();
    let mounted = |options: &str| {
        let path = source.to_str().unwrap();
        let out = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs", path]).status();
        assert!(out.unwrap().success(), "mount {options}");
        Unmount(path.to_owned())
    };
    // The options of the source, the options of the mount, and the resulting options: without a user namespace, and in
    // one (none: refused).
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Option<&'a [&'a str]>);
    let rows: [Row<'_>; 9] = [
        ("ro,noexec", &["bind"], &["ro", "noexec"], Some(&["ro", "noexec"])),
        ("ro,noexec", &["bind", "nosuid"], &["rw", "nosuid"], Some(&["ro", "noexec", "nosuid"])),
        ("ro", &["bind", "rw", "nosuid"], &["rw", "nosuid"], None),
        ("nodev,nosuid,noexec", &["bind", "ro"], &["ro"], Some(&["ro", "nodev", "nosuid", "noexec"])),
        ("nosuid", &["bind", "suid"], &["rw"], None),
        ("nodev,noatime", &["bind", "ro", "exec"], &["ro", "noatime"], Some(&["ro", "nodev", "noatime"])),
        // The kernel takes only an option that chooses an access time.
        ("noatime", &["bind", "atime"], &["noatime"], Some(&["noatime"])),
        ("noatime", &["bind", "nodiratime"], &["rw"], None),
        ("noatime", &["bind", "relatime"], &["rw"], None),
    ];
    let all = ["ro", "rw", "nosuid", "nodev", "noexec", "noatime"];
    for (of_source, options, plain, private) in rows {
        let _mounted = mounted(of_source);
        let bundle =
            || Bundle::probe(&["report", "mountinfo"]).mount("/mnt", "bind", source.to_str().unwrap(), options);
        for (bundle, wanted) in [(bundle(), Some(plain)), (bundle().mapped(), private)] {
            let out = runtime.run("c1", &bundle);
            let Some(wanted) = wanted else {
                out.fails(1, &["error mounting", "operation not permitted"]);
                continue;
            };
            let table = mounts::reported(&out.ok().json());
            let mount = mounts::at(&table, "/mnt").unwrap();
            let has: Vec<_> = all.into_iter().filter(|o| mount.has(o)).collect();
            let mut want: Vec<_> = wanted.to_vec();
            if !want.contains(&"ro") && !want.contains(&"rw") {
                want.push("rw");
            }
            want.sort_by_key(|o| all.iter().position(|a| a == o));
            assert_eq!(has, want, "{of_source} {options:?}");
        }
    }
    runtime.assert_clean("locked");
}

/// A source in the root filesystem shows earlier mounts, and its target may be given by the host's path.
#[test]
fn bind_source_inside_the_root_shows_earlier_mounts() {
    let runtime = Runtime::new("inside");
    for users in [false, true] {
        let bundle = Bundle::probe(&["report", "read=/copy/volume/file", "mountinfo"]);
        let volume = bundle.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "of the volume").unwrap();
        let root = bundle.rootfs();
        let inside = |path: &str| format!("{}{path}", root.to_str().unwrap());
        let bundle = bundle
            .mount("/made", "tmpfs", "tmpfs", &[])
            .mount("/made/volume", "bind", volume.to_str().unwrap(), &["bind"])
            .mount(&inside("/copy"), "bind", &inside("/made"), &["rbind", "nodev"]);
        let report = runtime.run("c1", &if users { bundle.mapped() } else { bundle }).ok().json();
        assert_eq!(report["read"]["/copy/volume/file"], "of the volume");
        let table = mounts::reported(&report);
        assert!(mounts::at(&table, "/copy").unwrap().has("nodev") && mounts::at(&table, "/copy/volume").is_some());
    }
    runtime.assert_clean("inside");
}

/// The host's mounts are shared, as with systemd.
#[test]
fn shared_root_propagates_no_mount_to_the_host() {
    if skipped_on_runc("shared-root", "what it mounts in a shared root appears on the host, and stays") {
        return;
    }
    let runtime = Runtime::new("shared-root");
    let bundle = Bundle::probe(&["report", "mountinfo"]).set("/linux/rootfsPropagation", json!("rshared"));
    let root = bundle.rootfs();
    let mounted = Unmount(root.to_str().unwrap().to_owned());
    for options in [&["--bind", &mounted.0, &mounted.0][..], &["--make-shared", &mounted.0]] {
        assert!(std::process::Command::new("mount").args(options).status().unwrap().success());
    }
    let report = runtime.run("c1", &bundle).ok().json();
    assert_eq!(mounts::at(&mounts::reported(&report), "/").unwrap().propagation(), "shared");
    let left: Vec<_> =
        mounts::of_process(std::process::id()).into_iter().filter(|m| m.point.starts_with(&mounted.0)).collect();
    assert_eq!(left.len(), 1, "{left:#?}");
}

/// Unmounts at the end of a scope, also when the test fails.
struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(&self.0).status().ok();
    }
}
