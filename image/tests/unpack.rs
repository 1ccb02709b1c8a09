//! The program from end to end, on images that the tests make: what a bundle has, and that nothing is left of one that
//! fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

#[path = "../src/fixture.rs"]
mod fixture;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use self::fixture::{Scratch, Tar, config, docker, gzip, layout, pack, tree, write};

fn berth_image(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth-image")).args(arguments).current_dir(directory).output().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    let passwd = "root:x:0:0:root:/root:/bin/sh\n";
    let lower = Tar::default().dir("etc/").file("etc/passwd", passwd).file("gone", "1").file("a", "1");
    let upper = Tar::default().whiteout(".wh.gone").file("a", "2").hardlink("b", "a");
    vec![lower.end(), upper.end()]
}

#[test]
fn every_format_gives_the_same_bundle() {
    let scratch = Scratch::new("formats");
    let layers = layers();
    let config = config(&layers, &json!({"Cmd": ["sh"], "Env": ["A=1"]}));
    let plain: Vec<_> = layers.iter().map(|layer| ("", layer.clone())).collect();
    let zipped: Vec<_> = layers.iter().map(|layer| ("+gzip", gzip(layer))).collect();
    let docker = pack(&docker("busybox:latest", &layers, &config));
    write(&scratch.path("dir"), &layout(&zipped, &config));
    fs::write(scratch.path("oci.tar"), pack(&layout(&plain, &config))).unwrap();
    fs::write(scratch.path("docker.tar"), &docker).unwrap();
    fs::write(scratch.path("docker.tar.gz"), gzip(&docker)).unwrap();
    for image in ["dir", "dir:latest", "dir@0", "oci.tar", "docker.tar", "docker.tar:busybox", "docker.tar.gz"] {
        let out = berth_image(&["unpack", image, "bundle", "--env", "B=2", "--", "ls", "-l"], &scratch.0);
        assert!(out.status.success(), "{image}: {}", String::from_utf8_lossy(&out.stderr));
        let bundle = scratch.path("bundle");
        let mut names: Vec<_> = fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "rootfs"], "{image}");
        let passwd = "etc/passwd = root:x:0:0:root:/root:/bin/sh\n";
        assert_eq!(tree(&bundle.join("rootfs")), ["a = 2", "b = 2", "etc/", passwd], "{image}");
        assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o700);
        let spec: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
        assert_eq!(spec["process"]["args"], json!(["ls", "-l"]));
        assert_eq!(spec["process"]["env"][1], json!("B=2"));
        fs::remove_dir_all(&bundle).unwrap();
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let scratch = Scratch::new("failures");
    let layers = layers();
    let good = config(&layers, &json!({"Cmd": ["sh"]}));
    let write_image = |files: &[(String, Vec<u8>)]| fs::write(scratch.path("image.tar"), pack(files)).unwrap();
    let last = |stored: Vec<u8>| vec![("", layers[0].clone()), ("", stored)];
    let mut cut = gzip(&layers[1]);
    cut.truncate(cut.len() - 20);
    let fifo = Tar::default().dir("etc/").entry(b'6', "etc/passwd", "").end();
    let fifo_config = config(std::slice::from_ref(&fifo), &json!({"Cmd": ["sh"], "User": "root"}));
    let bomb = Tar::default().header(b'0', b"zeros", b"", 64 << 20, |_| {}).data(&vec![0; 64 << 20]).end();
    let bomb_config = config(std::slice::from_ref(&bomb), &json!({"Cmd": ["sh"]}));
    let deep = Tar::default().pax(&[("path", "d/".repeat(250).as_bytes())]).dir("d").entry(b'Q', "x", "").end();
    let deep_config = config(std::slice::from_ref(&deep), &json!({"Cmd": ["sh"]}));
    let none = config(&layers, &json!({}));
    for (case, files, said) in [
        ("digest of the last layer", layout(&last(Tar::default().file("x", "").end()), &good), "digest mismatch"),
        ("truncated gzip", layout(&last(cut), &good), "incomplete deflate stream"),
        ("a FIFO as passwd", layout(&[("", fifo)], &fifo_config), "the image's /etc/passwd: it is no regular file"),
        ("a bomb", layout(&[("+gzip", gzip(&bomb))], &bomb_config), "--max-size"),
        ("deep directories", layout(&[("", deep)], &deep_config), "member x: type Q is not supported"),
        ("no command", layout(&last(layers[1].clone()), &none), "no command"),
        ("no image", vec![("x".into(), vec![])], "image image.tar: neither an OCI image layout"),
    ] {
        write_image(&files);
        for made_before in [false, true] {
            let bundle = scratch.path("bundle");
            if made_before {
                fs::create_dir(&bundle).unwrap();
            }
            let out = berth_image(&["unpack", "--max-size", "8000000", "image.tar", "bundle"], &scratch.0);
            let error = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(out.status.code(), Some(1), "{case}");
            assert!(error.contains(said), "{case}: {error}");
            assert_eq!(bundle.exists(), made_before, "{case}");
            if made_before {
                assert_eq!(fs::read_dir(&bundle).unwrap().count(), 0, "{case}");
                fs::remove_dir(&bundle).unwrap();
            }
        }
    }
}

/// The tree may have set-user-ID programs (CVE-2021-41103), and a link may be another user's.
#[test]
fn an_existing_bundle_is_closed_to_others_and_is_no_link() {
    let scratch = Scratch::new("existing");
    let layers = layers();
    let config = config(&layers, &json!({"Cmd": ["sh"]}));
    fs::write(scratch.path("docker.tar"), pack(&docker("busybox:latest", &layers, &config))).unwrap();
    for name in ["bundle", "elsewhere"] {
        fs::create_dir(scratch.path(name)).unwrap();
        fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let out = berth_image(&["unpack", "docker.tar", "bundle"], &scratch.0);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::metadata(scratch.path("bundle")).unwrap().permissions().mode() & 0o777, 0o700);
    std::os::unix::fs::symlink("elsewhere", scratch.path("link")).unwrap();
    let out = berth_image(&["unpack", "docker.tar", "link"], &scratch.0);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("bundle link"), "{out:?}");
    assert_eq!(fs::read_dir(scratch.path("elsewhere")).unwrap().count(), 0);
    assert_eq!(fs::metadata(scratch.path("elsewhere")).unwrap().permissions().mode() & 0o777, 0o777);
}

#[test]
fn a_bundle_that_is_taken_is_left_alone() {
    let scratch = Scratch::new("taken");
    let layers = layers();
    let files = docker("x", &layers, &config(&layers, &json!({"Cmd": ["sh"]})));
    fs::write(scratch.path("image.tar"), pack(&files)).unwrap();
    let bundle = scratch.path("bundle");
    for taken in ["config.json", "rootfs"] {
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join(taken), "mine").unwrap();
        let out = berth_image(&["unpack", "image.tar", "bundle"], &scratch.0);
        assert!(String::from_utf8_lossy(&out.stderr).contains("is there already"), "{taken}");
        assert_eq!(tree(&bundle), [format!("{taken} = mine")]);
        fs::remove_dir_all(&bundle).unwrap();
    }
    // What an unpack left that was killed is no obstacle; what is at work is one.
    fs::create_dir_all(bundle.join("rootfs/half")).unwrap();
    fs::write(bundle.join(".berth-unpack"), "").unwrap();
    let lock = fs::File::open(bundle.join(".berth-unpack")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let out = berth_image(&["unpack", "image.tar", "bundle"], &scratch.0);
    assert!(String::from_utf8_lossy(&out.stderr).contains("another unpack is at work"));
    drop(lock);
    assert!(berth_image(&["unpack", "image.tar", "bundle"], &scratch.0).status.success());
    assert!(!bundle.join("rootfs/half").exists() && !bundle.join(".berth-unpack").exists());
}
