use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::*;
use crate::fixture::{Scratch, Tar, tree};

/// The owner in these archives is the caller, so no privilege is needed.
fn apply_with(scratch: &Scratch, options: Options, layers: &[Vec<u8>]) -> Result<LeftOut> {
    let rootfs = scratch.path("rootfs");
    let _ = fs::remove_dir_all(&rootfs);
    fs::create_dir(&rootfs).unwrap();
    let stop = AtomicBool::new(false);
    let root = rustix::fs::open(&rootfs, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut tree = Tree::new(root, options, 1000, &stop)?;
    for layer in layers {
        tree.apply(&mut Reader::new(layer.as_slice()))?;
    }
    Ok(tree.left_out())
}

fn apply(scratch: &Scratch, layers: &[Vec<u8>]) -> Result<LeftOut> {
    let options = Options { owners: Owners::Caller, devices: false };
    apply_with(scratch, options, layers)
}

fn expect(scratch: &Scratch, name: &str, layers: &[Tar], expected: &[&str]) {
    let layers: Vec<_> = layers.iter().map(|layer| layer.clone().end()).collect();
    apply(scratch, &layers).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(tree(&scratch.path("rootfs")), expected, "{name}");
}

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn whiteouts_hide_lower_layers_alone() {
    let scratch = Scratch::new("whiteouts");
    let lower = tar().dir("d/").file("d/a", "1").file("d/b", "1").dir("d/sub/").file("d/sub/c", "1").file("top", "1");
    for (name, upper, expected) in [
        ("a file", tar().whiteout("d/.wh.a"), &["d/", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 1"][..]),
        ("a directory", tar().whiteout(".wh.d"), &["top = 1"]),
        (
            "nothing there",
            tar().whiteout("x/.wh.y").whiteout(".wh.z").whiteout("top/.wh.a"),
            &["d/", "d/a = 1", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 1"],
        ),
        (
            "a file of this layer, before",
            tar().file("top", "2").whiteout(".wh.top"),
            &["d/", "d/a = 1", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 2"],
        ),
        (
            "a file of this layer, after",
            tar().whiteout(".wh.top").file("top", "2"),
            &["d/", "d/a = 1", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 2"],
        ),
        (
            "a directory with an entry of this layer",
            tar().file("d/sub/n", "2").whiteout(".wh.d"),
            &["d/", "d/sub/", "d/sub/n = 2", "top = 1"],
        ),
        ("a type that is no file", tar().dir("d/.wh.a/"), &["d/", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 1"]),
        ("opaque first", tar().dir("d/").whiteout("d/.wh..wh..opq").file("d/n", "2"), &["d/", "d/n = 2", "top = 1"]),
        (
            "opaque last",
            tar().dir("d/").file("d/n", "2").file("d/sub/x", "2").whiteout("d/.wh..wh..opq"),
            &["d/", "d/n = 2", "d/sub/", "d/sub/x = 2", "top = 1"],
        ),
        ("opaque root", tar().whiteout(".wh..wh..opq").file("n", "2"), &["n = 2"]),
        (
            "opaque where nothing is",
            tar().whiteout("none/.wh..wh..opq").whiteout("top/.wh..wh..opq"),
            &["d/", "d/a = 1", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 1"],
        ),
        (
            "metadata of AUFS",
            tar().dir(".wh..wh.plnk/").file(".wh..wh.plnk/1", "").whiteout(".wh..wh.aufs").file(".wh..wh..opq/1", ""),
            &["d/", "d/a = 1", "d/b = 1", "d/sub/", "d/sub/c = 1", "top = 1"],
        ),
    ] {
        expect(&scratch, name, &[lower.clone(), upper], expected);
    }
    for name in [".wh.", "d/.wh.", ".wh..", ".wh..."] {
        assert!(apply(&scratch, &[lower.clone().end(), tar().whiteout(name).end()]).is_err(), "{name}");
    }
}

#[test]
fn an_opaque_marker_does_not_act_through_a_link() {
    let scratch = Scratch::new("opaque-link");
    let lower = tar().dir("etc/").file("etc/passwd", "1").symlink("link", "etc");
    let kept = &["etc/", "etc/passwd = 1", "link -> etc"];
    expect(&scratch, "link", &[lower.clone(), tar().whiteout("link/.wh..wh..opq")], kept);
    expect(
        &scratch,
        "link to the root",
        &[tar().symlink("l", "/").file("a", ""), tar().whiteout("l/.wh..wh..opq")],
        &["a = ", "l -> /"],
    );
    // A directory entry takes the link's place first, as writers of layers mean it.
    let replaced = tar().dir("link/").whiteout("link/.wh..wh..opq").file("link/new", "2");
    expect(&scratch, "directory", &[lower, replaced], &["etc/", "etc/passwd = 1", "link/", "link/new = 2"]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let scratch = Scratch::new("replace");
    for (name, lower, upper, expected) in [
        ("directory over directory", tar().dir("d/").file("d/a", "1"), tar().dir("d/"), &["d/", "d/a = 1"][..]),
        ("file over directory", tar().dir("d/").file("d/a", "1"), tar().file("d", "2"), &["d = 2"]),
        ("directory over file", tar().file("d", "1"), tar().dir("d/"), &["d/"]),
        (
            "directory over link",
            tar().dir("t/").symlink("d", "t"),
            tar().dir("d/").file("d/a", ""),
            &["d/", "d/a = ", "t/"],
        ),
        ("file over link", tar().file("t", "1").symlink("l", "t"), tar().file("l", "2"), &["l = 2", "t = 1"]),
        ("parent missing", tar(), tar().file("a/b/c", ""), &["a/", "a/b/", "a/b/c = "]),
        ("parent is a file", tar().file("a", "1"), tar().file("a/b", "2"), &["a/", "a/b = 2"]),
        ("parent is a link", tar().dir("t/").symlink("l", "/t"), tar().file("l/a", "2"), &["l -> /t", "t/", "t/a = 2"]),
        (
            "parent is a dangling link",
            tar().symlink("l", "../t/u"),
            tar().file("l/a", "2"),
            &["l -> ../t/u", "t/", "t/u/", "t/u/a = 2"],
        ),
        ("same layer twice", tar(), tar().file("a", "1").file("a", "2"), &["a = 2"]),
    ] {
        expect(&scratch, name, &[lower, upper], expected);
    }
}

#[test]
fn hard_links_are_resolved_inside_the_root() {
    let scratch = Scratch::new("hardlinks");
    let lower = tar().file("a", "1").symlink("l", "a").dir("d/").symlink("up", "d");
    for (name, upper, expected) in [
        ("plain", tar().hardlink("b", "a"), &["a = 1", "b = 1", "d/", "l -> a", "up -> d"][..]),
        ("absolute and upwards", tar().hardlink("b", "/../../a"), &["a = 1", "b = 1", "d/", "l -> a", "up -> d"]),
        ("to a link itself", tar().hardlink("b", "l"), &["a = 1", "b -> a", "d/", "l -> a", "up -> d"]),
        ("without a parent", tar().hardlink("x/y", "a"), &["a = 1", "d/", "l -> a", "up -> d", "x/", "x/y = 1"]),
        (
            "through a link",
            tar().file("d/f", "3").hardlink("b", "up/f"),
            &["a = 1", "b = 3", "d/", "d/f = 3", "l -> a", "up -> d"],
        ),
        ("to itself", tar().hardlink("a", "./a"), &["a = 1", "d/", "l -> a", "up -> d"]),
        ("whiteout of the target", tar().hardlink("b", "a").whiteout(".wh.a"), &["b = 1", "d/", "l -> a", "up -> d"]),
    ] {
        expect(&scratch, name, &[lower.clone(), upper], expected);
    }
    let inode = |name: &str| fs::metadata(scratch.path("rootfs").join(name)).unwrap().ino();
    expect(
        &scratch,
        "one inode",
        &[lower.clone(), tar().hardlink("b", "a")],
        &["a = 1", "b = 1", "d/", "l -> a", "up -> d"],
    );
    assert_eq!(inode("a"), inode("b"));
    // A file that replaces one of two names does not change the other.
    let replaced = [lower.clone(), tar().hardlink("b", "a"), tar().file("b", "2")];
    expect(&scratch, "replaced", &replaced, &["a = 1", "b = 2", "d/", "l -> a", "up -> d"]);
    for (name, upper) in [
        ("missing", tar().hardlink("b", "none")),
        ("before its target", tar().hardlink("b", "later").file("later", "")),
        ("to a directory", tar().hardlink("b", "d")),
        ("to the root", tar().hardlink("b", "/")),
        ("empty", tar().hardlink("b", "")),
    ] {
        let error = apply(&scratch, &[lower.clone().end(), upper.end()]).unwrap_err().to_string();
        assert!(error.starts_with("member b: hard link"), "{name}: {error}");
    }
}

/// A directory outside of the root, and a file in it.
struct Canary(PathBuf);

impl Canary {
    fn new(scratch: &Scratch) -> Self {
        let path = scratch.path("canary");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        // The extractor's umask is 0, and an attack sets 0777.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("secret"), "untouched").unwrap();
        Self(path)
    }

    fn state(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let stat = |path: &Path| fs::metadata(path).map(|m| (m.mtime(), m.mode(), m.nlink(), m.ino())).ok();
        (stat(&self.0), stat(&self.0.join("secret")), tree(&self.0))
    }

    /// Each published fault of an extractor, aimed at the canary.
    fn attacks(&self) -> Vec<(&'static str, Vec<Vec<u8>>)> {
        let outside = self.0.display().to_string();
        let up = format!("../../../../../../../..{outside}");
        let attacks = [
            ("`..` in a name", vec![tar().file(&format!("{up}/secret"), "x")]),
            ("an absolute name", vec![tar().file(&format!("{outside}/secret"), "x")]),
            ("write through a link", vec![tar().symlink("l", &outside).file("l/secret", "x")]),
            (
                "write through a link upwards",
                vec![tar().symlink("l", "../canary").file("l/secret", "x").file("l/new", "x")],
            ),
            ("write over a link", vec![tar().symlink("l", &format!("{outside}/secret")).file("l", "x")]),
            ("chmod through a link (CVE-2026-33056)", vec![tar().symlink("l", &outside).mode(b'5', "l/", 0o777)]),
            (
                "chmod through a file's link",
                vec![tar().symlink("l", &format!("{outside}/secret")).mode(b'0', "l", 0o777)],
            ),
            (
                "a chain of links",
                vec![tar().symlink("a", "..").symlink("b", "a/..").symlink("c", "b/canary").file("c/new", "")],
            ),
            (
                "links of two layers",
                vec![tar().symlink("d", &outside), tar().file("d/secret", "x").whiteout("d/.wh.secret")],
            ),
            ("whiteout through a link", vec![tar().symlink("d", &outside), tar().whiteout("d/.wh.secret")]),
            ("whiteout upwards", vec![tar(), tar().whiteout("../canary/.wh.secret").whiteout("../.wh.canary")]),
            ("opaque through a link", vec![tar().symlink("d", "../canary"), tar().whiteout("d/.wh..wh..opq")]),
            ("opaque upwards", vec![tar(), tar().whiteout("../canary/.wh..wh..opq")]),
            ("hard link and write", vec![tar().hardlink("h", &format!("{outside}/secret")).file("h", "x")]),
            ("hard link upwards", vec![tar().hardlink("h", &format!("{up}/secret"))]),
            ("hard link through a link", vec![tar().symlink("l", &outside).hardlink("h", "l/secret")]),
            ("a link as the root (CVE-2021-29136)", vec![tar().symlink(".", &outside).file("secret", "x")]),
            ("a link as the root, below", vec![tar().symlink("./", &outside), tar().file("secret", "x")]),
            (
                "a directory that becomes a link",
                vec![tar().dir("d/").file("d/a", "").symlink("d", &outside).file("d/secret", "x")],
            ),
            ("a link by /proc", vec![tar().symlink("p", "/proc/self/cwd").file("p/secret", "x")]),
            ("a fifo through a link", vec![tar().symlink("l", &outside).entry(b'6', "l/fifo", "")]),
            (
                "a link that is longer than names",
                vec![tar().pax(&[("linkpath", up.as_bytes())]).symlink("l", "").file("l/new", "")],
            ),
        ];
        attacks.into_iter().map(|(name, layers)| (name, layers.into_iter().map(Tar::end).collect())).collect()
    }
}

#[test]
fn nothing_outside_the_root_is_touched() {
    let scratch = Scratch::new("escape");
    let canary = Canary::new(&scratch);
    let before = canary.state();
    for (name, layers) in canary.attacks() {
        let done = apply(&scratch, &layers);
        assert_eq!(canary.state(), before, "{name}: {done:?}");
        assert_eq!(tree(&canary.0), ["secret = untouched"], "{name}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "{name}");
    }
}

/// Makes each member by its name, as an extractor with published faults does.
fn careless(rootfs: &Path, layer: &[u8]) -> io::Result<()> {
    let mut reader = Reader::new(layer);
    while let Ok(Some(entry)) = reader.next_entry() {
        let at = |name: &[u8]| rootfs.join(&*String::from_utf8_lossy(name)).components().collect::<PathBuf>();
        let (path, link) = (at(&entry.name), at(&entry.link));
        let whiteout = path.file_name().and_then(|name| name.to_str()?.strip_prefix(".wh."));
        match entry.kind {
            Kind::File if whiteout == Some(".wh..opq") => fs::remove_file(path.with_file_name("secret"))?,
            Kind::File if whiteout.is_some() => fs::remove_file(path.with_file_name(whiteout.unwrap_or_default()))?,
            Kind::File => fs::write(&path, "x")?,
            Kind::HardLink => fs::hard_link(link, &path)?,
            Kind::Symlink => {
                let _ = fs::remove_dir_all(&path);
                symlink(&*String::from_utf8_lossy(&entry.link), &path)?;
            }
            Kind::Directory => drop(fs::create_dir(&path)),
            Kind::Character(..) | Kind::Block(..) | Kind::Fifo => fs::write(&path, "")?,
        }
        if entry.kind != Kind::Symlink {
            // A whiteout has just gone.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode));
        }
    }
    Ok(())
}

#[test]
fn control_careless_extractor_touches_the_canary() {
    let scratch = Scratch::new("careless");
    let canary = Canary::new(&scratch);
    let mut held = vec![];
    // One attack would leave a file in the working directory.
    for (name, layers) in canary.attacks().into_iter().filter(|(name, _)| !name.contains("/proc")) {
        let canary = Canary::new(&scratch);
        let before = canary.state();
        let rootfs = scratch.path("rootfs");
        let _ = fs::remove_file(&rootfs);
        let _ = fs::remove_dir_all(&rootfs);
        fs::create_dir(&rootfs).unwrap();
        for layer in &layers {
            let _ = careless(&rootfs, layer);
        }
        if canary.state() == before {
            held.push(name);
        }
    }
    assert!(held.len() < 3 && !held.iter().any(|name| name.contains("CVE")), "{held:?}");
}

#[test]
fn bounds_and_malformed_members_are_errors_that_name_the_member() {
    let scratch = Scratch::new("bounds");
    let many = (0..1001).fold(tar(), |tar, n| tar.file(&n.to_string(), ""));
    let deep = "d/".repeat(300);
    let on_the_way = (0..25).fold(tar(), |tar, n| tar.file(&format!("{n}/{}x", "d/".repeat(40)), ""));
    for (name, layer, said) in [
        ("entries", many, "--max-entries"),
        ("directories on the way", on_the_way, "--max-entries"),
        ("depth", tar().pax(&[("path", deep.as_bytes())]).dir("x"), "member d/d/"),
        ("root as a file", tar().file("./", "x"), "member ./: the root is not a directory"),
        ("root as a link", tar().symlink("/", "x"), "member /: the root is not a directory"),
        ("empty name", tar().file("", "x"), "the name is empty"),
        ("link loop", tar().symlink("a", "b").symlink("b", "a").file("a/x", ""), "member a/x:"),
        ("long link", tar().pax(&[("linkpath", "x".repeat(4096).as_bytes())]).symlink("a", ""), "member a:"),
        ("long component", tar().pax(&[("path", "x".repeat(300).as_bytes())]).file("a", ""), "file name too long"),
        ("terminal escapes", tar().hardlink("\x1b[2J", "x"), "member \\x1b[2J:"),
    ] {
        let error = apply(&scratch, &[layer.end()]).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[test]
fn attributes_are_those_of_the_archive() {
    // As the program has it: modes at birth are the archive's.
    rustix::process::umask(rustix::fs::Mode::empty());
    let scratch = Scratch::new("attributes");
    let layer = tar()
        .pax(&[("mtime", b"1234.5")])
        .mode(b'5', "d/", 0o1711)
        .file("d/a", "1")
        .pax(&[("mtime", b"99"), ("atime", b"98")])
        .mode(b'0', "setuid", 0o6755)
        .pax(&[("mtime", b"-7")])
        .symlink("l", "none")
        .mode(b'6', "fifo", 0o622)
        .pax(&[("mtime", b"55")])
        .mode(b'5', "./", 0o750);
    apply(&scratch, &[layer.end(), tar().file("d/b", "2").whiteout("d/.wh.a").end()]).unwrap();
    let stat = |name: &str| fs::symlink_metadata(scratch.path("rootfs").join(name)).unwrap();
    // Changes inside leave a directory's times, also those of a later layer.
    assert_eq!((stat("d").mode() & 0o7777, stat("d").mtime(), stat("d").mtime_nsec()), (0o1711, 1234, 500_000_000));
    assert_eq!((stat("setuid").mode() & 0o7777, stat("setuid").mtime(), stat("setuid").atime()), (0o6755, 99, 98));
    assert_eq!(stat("l").mtime(), -7);
    assert_eq!((stat("fifo").mode(), stat("fifo").mtime()), (0o010_622, 1000));
    assert_eq!((stat("").mode() & 0o7777, stat("").mtime()), (0o750, 55));
    assert_eq!((stat("d/b").mode() & 0o7777, stat("d/b").mtime()), (0o644, 1000));
}

#[test]
fn devices_are_left_out_and_foreign_attributes_counted() {
    let scratch = Scratch::new("left-out");
    let layer = tar()
        .entry(b'3', "null", "")
        .entry(b'4', "disk", "")
        .pax(&[("SCHILY.xattr.security.selinux", b"x"), ("SCHILY.xattr.trusted.a", b"x")])
        .file("a", "");
    let left_out = apply(&scratch, &[tar().file("null", "").end(), layer.end()]).unwrap();
    assert_eq!(left_out, LeftOut { devices: 2, xattrs: 2 });
    assert_eq!(tree(&scratch.path("rootfs")), ["a = "]);
}

#[test]
fn trees_of_any_depth_are_removed() {
    let scratch = Scratch::new("deep");
    let directory = rustix::fs::open(&scratch.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut inner = rustix::io::dup(&directory).unwrap();
    for n in 0..700 {
        rustix::fs::mkdirat(&inner, "d", Mode::RWXU).unwrap();
        inner = rustix::fs::openat(&inner, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::symlinkat("/etc/passwd", &inner, format!("l{n}")).unwrap();
    }
    remove_tree(directory.as_fd(), b"d").unwrap();
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn a_stop_ends_the_work() {
    let scratch = Scratch::new("stop");
    let root = rustix::fs::open(&scratch.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let stop = AtomicBool::new(true);
    let mut tree = Tree::new(root, Options::default(), 10, &stop).unwrap();
    let layer = tar().file("a", "").end();
    assert_eq!(tree.apply(&mut Reader::new(layer.as_slice())).unwrap_err().to_string(), "interrupted");
}
