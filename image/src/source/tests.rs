use std::{fs, os::fd::AsFd};

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Scratch, Tar, config, docker, layout, pack, sha256, write};

fn open(scratch: &Scratch, files: &[(String, Vec<u8>)]) -> Store {
    let path = scratch.path("image.tar");
    fs::write(&path, pack(files)).unwrap();
    let directory = rustix::fs::open(&scratch.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Store::open(&path, directory.as_fd(), 1 << 30).unwrap()
}

fn chosen(scratch: &Scratch, files: &[(String, Vec<u8>)], choice: &Choice) -> Result<String> {
    let platform = Platform::parse("linux/amd64").unwrap();
    choose(&open(scratch, files), choice, &platform).map(|image| image.config.config.cmd.join(" "))
}

fn one(cmd: &str) -> Vec<(String, Vec<u8>)> {
    let layer = Tar::default().file(cmd, "").end();
    layout(&[("", layer.clone())], &config(&[layer], &json!({"Cmd": [cmd]})))
}

fn edit(files: &mut [(String, Vec<u8>)], name: &str, edit: impl FnOnce(&mut Value)) {
    let (_, bytes) = files.iter_mut().find(|(file, _)| file == name).unwrap();
    let mut value = serde_json::from_slice(bytes).unwrap();
    edit(&mut value);
    *bytes = value.to_string().into_bytes();
}

/// Two layouts in one, with the descriptors of both in index.json.
fn two(edit: impl FnOnce(&mut Value, &mut Value)) -> Vec<(String, Vec<u8>)> {
    let (mut files, other) = (one("a"), one("b"));
    let index = |files: &[(String, Vec<u8>)]| -> Value { serde_json::from_slice(&files.last().unwrap().1).unwrap() };
    let (mut first, mut second) = (index(&files)["manifests"][0].clone(), index(&other)["manifests"][0].clone());
    edit(&mut first, &mut second);
    files.pop();
    files.extend(other.into_iter().filter(|(name, _)| name.starts_with("blobs/")));
    files.push(("index.json".into(), json!({"manifests": [first, second]}).to_string().into_bytes()));
    files
}

fn nest(files: &mut Vec<(String, Vec<u8>)>) {
    let (_, index) = files.pop().unwrap();
    let digest = sha256(&index);
    let descriptor =
        json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len()});
    files.push((format!("blobs/{}", digest.replace(':', "/")), index));
    files.push(("index.json".into(), json!({"manifests": [descriptor]}).to_string().into_bytes()));
}

fn platform(architecture: &str) -> Value {
    json!({"os": if architecture == "unknown" { architecture } else { "linux" }, "architecture": architecture})
}

#[test]
fn images_are_chosen_by_name_place_and_platform() {
    let scratch = Scratch::new("choose");
    let name = |name: &str| Choice::Name(name.into());
    let full = |a: &mut Value, b: &mut Value| {
        a["annotations"] = json!({"io.containerd.image.name": "docker.io/library/busybox:latest", "org.opencontainers.image.ref.name": "latest"});
        b["annotations"] = json!({"org.opencontainers.image.ref.name": "v2"});
    };
    let platforms = |a: &mut Value, b: &mut Value| {
        (a["platform"], b["platform"]) = (platform("arm64"), platform("amd64"));
    };
    let attested = |a: &mut Value, b: &mut Value| {
        (a["platform"], b["platform"]) = (platform("amd64"), platform("unknown"));
        b["annotations"]["vnd.docker.reference.type"] = json!("attestation-manifest");
    };
    let mut nested = two(platforms);
    nest(&mut nested);
    nest(&mut nested);
    for (case, files, choice, expected) in [
        ("one", one("a"), Choice::Only, Ok("a")),
        ("tag", two(full), name("v2"), Ok("b")),
        ("full name", two(full), name("busybox"), Ok("a")),
        ("place", two(full), Choice::At(1), Ok("b")),
        ("no such place", two(full), Choice::At(2), Err("no such image")),
        ("several", two(full), Choice::Only, Err("docker.io/library/busybox:latest, v2")),
        ("no such name", two(full), name("v3"), Err("no such image")),
        ("platform", two(platforms), Choice::Only, Ok("b")),
        ("same tag, two platforms", two(platforms), name("latest"), Ok("b")),
        ("attestation", two(attested), Choice::Only, Ok("a")),
        ("nested index", nested, Choice::Only, Ok("b")),
    ] {
        let found = chosen(&scratch, &files, &choice).map_err(|e| e.to_string());
        match expected {
            Ok(cmd) => assert_eq!(found.as_deref(), Ok(cmd), "{case}"),
            Err(said) => assert!(found.as_ref().is_err_and(|e| e.contains(said)), "{case}: {found:?}"),
        }
    }
}

#[test]
fn a_docker_archive_is_chosen_by_its_tags() {
    let scratch = Scratch::new("docker");
    let layer = Tar::default().end();
    let mut files = docker(
        "busybox:latest",
        std::slice::from_ref(&layer),
        &config(std::slice::from_ref(&layer), &json!({"Cmd": ["a"]})),
    );
    files.push(("b.json".into(), config(&[layer], &json!({"Cmd": ["b"]})).to_string().into_bytes()));
    assert_eq!(chosen(&scratch, &files, &Choice::Only).unwrap(), "a");
    edit(&mut files, "manifest.json", |items| {
        let item = json!({"Config": "b.json", "RepoTags": null, "Layers": ["0/layer.tar"]});
        items.as_array_mut().unwrap().push(item);
    });
    for (text, expected) in [("busybox", "a"), ("docker.io/library/busybox:latest", "a")] {
        assert_eq!(chosen(&scratch, &files, &Choice::Name(text.into())).unwrap(), expected);
    }
    assert_eq!(chosen(&scratch, &files, &Choice::At(1)).unwrap(), "b");
    let error = chosen(&scratch, &files, &Choice::Only).unwrap_err().to_string();
    assert!(error.contains("busybox:latest, @1"), "{error}");
}

#[test]
fn manifest_json_stands_in_for_a_layout_that_lacks_the_image() {
    let scratch = Scratch::new("double");
    let layer = Tar::default().end();
    let with = |index: &str| {
        let mut files = docker(
            "x:latest",
            std::slice::from_ref(&layer),
            &config(std::slice::from_ref(&layer), &json!({"Cmd": ["docker"]})),
        );
        files.push(("oci-layout".into(), b"{}".to_vec()));
        files.push(("index.json".into(), index.as_bytes().to_vec()));
        files
    };
    // moby#47210 and an index without what it names.
    let missing = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#;
    for index in [r#"{"manifests":null}"#, missing] {
        assert_eq!(chosen(&scratch, &with(index), &Choice::Only).unwrap(), "docker");
    }
    let mut both = one("layout");
    both.extend(docker(
        "x:latest",
        std::slice::from_ref(&layer),
        &config(std::slice::from_ref(&layer), &json!({"Cmd": ["docker"]})),
    ));
    assert_eq!(chosen(&scratch, &both, &Choice::Only).unwrap(), "layout");
    // A layout that does not fit its digests is not replaced by documents without digests.
    for (_, bytes) in both.iter_mut().filter(|(name, _)| name.starts_with("blobs/")) {
        bytes.push(b' ');
    }
    let error = chosen(&scratch, &both, &Choice::Only).unwrap_err().to_string();
    assert!(error.contains("its descriptor says"), "{error}");
}

#[test]
fn documents_that_lie_are_refused() {
    let scratch = Scratch::new("lies");
    let name_of = |files: &[(String, Vec<u8>)], part: &str| {
        let found = files
            .iter()
            .find(|(name, bytes)| name.starts_with("blobs/") && String::from_utf8_lossy(bytes).contains(part));
        found.unwrap().0.clone()
    };
    let index = |change: fn(&mut Value)| {
        let mut files = one("a");
        edit(&mut files, "index.json", |index| change(&mut index["manifests"][0]));
        files
    };
    let blob = |part: &str, change: fn(&mut Value)| {
        let mut files = one("a");
        let name = name_of(&files, part);
        edit(&mut files, &name, change);
        files
    };
    let mut few = one("a");
    few.retain(|(name, _)| name != &name_of(&one("a"), "rootfs"));
    for (case, files, said) in [
        ("size", index(|entry| entry["size"] = json!(7)), "its descriptor says 7"),
        ("negative size", index(|entry| entry["size"] = json!(-1)), "its descriptor says -1"),
        ("algorithm", index(|entry| entry["digest"] = json!("md5:00")), "digest md5:00"),
        ("traversal", index(|entry| entry["digest"] = json!("sha256:../../../etc/passwd")), "malformed"),
        ("type", index(|entry| entry["mediaType"] = json!("text/plain")), "not an image"),
        ("changed manifest", blob("schemaVersion", |manifest| manifest["layers"] = json!([])), "bytes, its descriptor"),
        ("missing configuration", few, "missing"),
        ("neither", vec![("x".into(), vec![])], "neither an OCI image layout nor a docker-archive"),
        ("old docker", vec![("repositories".into(), b"{}".to_vec())], "docker before 1.10"),
        ("no JSON", vec![("manifest.json".into(), b"[".to_vec())], "manifest.json"),
        ("deep JSON", vec![("manifest.json".into(), "[".repeat(100_000).into_bytes())], "manifest.json"),
    ] {
        let error = chosen(&scratch, &files, &Choice::Only).unwrap_err().to_string();
        assert!(error.contains(said), "{case}: {error}");
    }
    let layer = Tar::default().end();
    let mut files = docker("x", std::slice::from_ref(&layer), &config(&[layer.clone(), layer.clone()], &json!({})));
    assert!(chosen(&scratch, &files, &Choice::Only).unwrap_err().to_string().contains("1 layers, its configuration 2"));
    edit(&mut files, "config.json", |value| *value = config(&[layer], &json!({})));
    files.iter_mut().find(|(name, _)| name == "0/layer.tar").unwrap().1.clear();
    assert!(
        chosen(&scratch, &files, &Choice::Only).unwrap_err().to_string().contains("layer 0/layer.tar: it is empty")
    );
    let mut nested = one("a");
    (0..9).for_each(|_| nest(&mut nested));
    assert!(chosen(&scratch, &nested, &Choice::Only).unwrap_err().to_string().contains("nested too deep"));
}

#[test]
fn links_in_the_tar_lead_one_step() {
    let scratch = Scratch::new("links");
    let tar = Tar::default()
        .file("./a.tar", "x")
        .symlink("id/layer.tar", "../a.tar")
        .symlink("loop", "loop")
        .symlink("out", "/etc/passwd");
    fs::write(scratch.path("t.tar"), tar.end()).unwrap();
    let directory = rustix::fs::open(&scratch.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let store = Store::open(&scratch.path("t.tar"), directory.as_fd(), 1 << 20).unwrap();
    assert_eq!(store.document("id/layer.tar").unwrap(), b"x");
    assert_eq!(store.document("a.tar").unwrap(), b"x");
    assert!(store.document("loop").is_err() && store.document("out").is_err());
}

#[test]
fn a_directory_gives_regular_files_below_it() {
    let scratch = Scratch::new("directory");
    write(&scratch.path("image"), &one("a"));
    std::os::unix::fs::symlink("/etc/passwd", scratch.path("image/out")).unwrap();
    let directory = rustix::fs::open(&scratch.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let store = Store::open(&scratch.path("image"), directory.as_fd(), 1 << 20).unwrap();
    assert!(choose(&store, &Choice::Only, &Platform::parse("linux/amd64").unwrap()).is_ok());
    assert!(!store.has("out") && !store.has("blobs") && !store.has("../image/oci-layout"));
}

#[test]
fn names_are_completed_as_docker_does() {
    for (a, b, same) in [
        ("busybox", "docker.io/library/busybox:latest", true),
        ("me/app:1", "docker.io/me/app:1", true),
        ("localhost:5000/app", "localhost:5000/app:latest", true),
        ("busybox:1", "busybox:2", false),
        ("example.com/busybox", "busybox", false),
    ] {
        assert_eq!(same_name(a, b), same, "{a} {b}");
    }
}
